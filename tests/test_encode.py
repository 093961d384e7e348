"""Texts to vectors: order, chunks and shapes change nothing."""

import jax
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from embeddinggemma import encode, sharding, stages
from embeddinggemma.data import packing
from embeddinggemma.model import embedder
from embeddinggemma.model.config import preset
from embeddinggemma.types import BadInput, Stopped

TINY = preset("tiny")


def texts(lengths, seed=0):
  rng = np.random.default_rng(seed)
  return [rng.integers(4, 500, n, dtype=np.int32) for n in lengths]


@pytest.fixture(scope="module")
def params():
  return jax.jit(embedder.init(TINY))(jax.random.key(0))


@pytest.mark.parametrize("devices", [1, 8])
def test_every_text_gets_its_own_vector(params, devices):
  mesh = sharding.make_mesh(-1, 1, jax.devices()[:devices])
  program = jax.jit(stages.encoder(TINY, mesh))
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


@settings(max_examples=30, deadline=None)
@given(
  st.lists(st.integers(2, 512), min_size=1, max_size=400),
  st.sampled_from([1, 8]),
)
def test_chunks_hold_every_text_once(lengths, groups):
  lengths = np.array(lengths)
  found = encode.chunks(lengths, groups, 512)
  members = np.concatenate([c[0] for c in found])
  assert sorted(members) == list(range(len(lengths)))
  for indices, length, rows in found:
    assert lengths[indices].max() <= length
    assert rows * length <= max(encode.BUDGETS[-1], length)


def test_shapes_are_few():
  lengths = np.random.default_rng(0).integers(2, 512, 5000)
  shapes = {c[1:] for c in encode.chunks(lengths, 1, 512)}
  assert len(shapes) <= 12


def test_a_prefix_has_unit_norm_again():
  cut = encode.truncate(np.array([[3.0, 4.0, 12.0]], np.float32), 2)
  np.testing.assert_allclose(cut, [[0.6, 0.8]], rtol=1e-6)
  for dim in (0, 4):
    with pytest.raises(BadInput, match=f"dim={dim}: the model has .* 1 to 3"):
      encode.truncate(np.ones((1, 3), np.float32), dim)
  for bad in ([[0.0, 0.0, 1.0]], [[np.nan, 1.0, 1.0]], [[np.inf, 1.0, 1.0]]):
    with pytest.raises(Stopped, match="1 of 1 embeddings are zero or not fin"):
      encode.truncate(np.array(bad, np.float32), 2)
