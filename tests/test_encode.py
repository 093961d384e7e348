"""Texts to vectors: order, chunks and shapes change nothing."""

import jax
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from embeddinggemma import encode, sharding
from embeddinggemma.data import packing
from embeddinggemma.model import embedder
from embeddinggemma.presets import preset
from embeddinggemma.types import BadInput, Stopped

TINY = preset("tiny").model


def texts(lengths, seed=0):
  rng = np.random.default_rng(seed)
  return [rng.integers(4, 500, n, dtype=np.int32) for n in lengths]


@pytest.fixture(scope="module")
def params():
  return jax.jit(embedder.init(TINY))(jax.random.key(0))


@pytest.mark.parametrize("devices", [1, 8])
def test_every_text_gets_its_own_vector(params, devices):
  mesh = sharding.make_mesh(-1, 1, jax.devices()[:devices])
  program = jax.jit(encode.encoder(TINY, mesh))
  run = encode.make_encode_ids(program, params, mesh, 32)
  group = jax.jit(embedder.encode_group(TINY))
  lengths = np.random.default_rng(1).integers(2, 64, 150)
  items = texts(lengths)
  done = []
  got = run(items, 64, done.append)
  assert done[-1] == 150
  for i in range(0, 150, 17):
    dealt = np.zeros((1, 1), np.int64)
    alone = packing.pack([items[i]], dealt, 64, 1)
    want = group(params, *(jax.numpy.asarray(x[0]) for x in alone))
    np.testing.assert_allclose(got[i], want[0], atol=1e-5)
  assert run([], 64).shape == (0, 32)


@settings(max_examples=50, deadline=None)
@given(
  st.lists(st.integers(2, 600), min_size=1, max_size=400),
  st.sampled_from([1, 8]),
  st.sampled_from([None, 1, 7, 100]),
)
def test_a_plan_holds_every_text_once(lengths, groups, most):
  lengths = np.array(lengths)
  calls = encode.plan(lengths, groups, 512, most=most)
  members = [i for call in calls for row in call.rows for i in row]
  assert sorted(members) == list(range(len(lengths)))
  for call in calls:
    assert all(lengths[row].sum() <= call.length for row in call.rows)
    assert call.size * call.length <= max(2048, call.length)
    assert len(call.rows) <= call.size * groups
    assert sum(map(len, call.rows)) <= (most or len(lengths))
    for g in range(groups):
      assert sum(map(len, call.rows[g::groups])) <= call.places


def test_shapes_are_few_and_rows_full():
  lengths = np.random.default_rng(0).integers(8, 512, 5000)
  calls = encode.plan(lengths, 1, 512)
  assert len({call[1:] for call in calls}) <= 6
  assert lengths.sum() > 0.98 * sum(call.size * call.length for call in calls)


@pytest.mark.parametrize(
  ("length", "shape"),
  [(20, (32, 1, 1)), (33, (64, 1, 2)), (200, (256, 1, 8)), (600, (600, 1, 19))],
)
def test_a_query_alone_has_a_short_row(length, shape):
  """It takes a fraction of the time of a row of 128."""
  (query,) = encode.plan(np.array([length]), 1, 512)
  assert query[1:] == shape


def test_a_prefix_has_unit_norm_again():
  cut = encode.truncate(np.array([[3.0, 4.0, 12.0]], np.float32), 2)
  np.testing.assert_allclose(cut, [[0.6, 0.8]], rtol=1e-6)
  for dim in (0, 4):
    with pytest.raises(BadInput, match=f"dim={dim}: the model has .* 1 to 3"):
      encode.truncate(np.ones((1, 3), np.float32), dim)
  for bad in ([[0.0, 0.0, 1.0]], [[np.nan, 1.0, 1.0]], [[np.inf, 1.0, 1.0]]):
    with pytest.raises(Stopped, match=r"zero or not finite in 2 .* of text 0"):
      encode.truncate(np.array(bad, np.float32), 2)
