"""How vectors lie, against eigenvalues and sums over all pairs in numpy."""

import jax
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from embeddinggemma import sharding
from embeddinggemma.losses import geometry
from embeddinggemma.types import PairBatch, Seen, Text

SIZE, WIDTH = 32, 8
MESHES = ((1, 1), (8, 1), (4, 2))


def unit(x):
  return (x / np.linalg.norm(x, axis=-1, keepdims=True)).astype(np.float32)


def transcribed(vectors, valid, keys) -> dict[str, float]:
  """The figures of one side by their definitions."""
  kept = [
    i for i in np.flatnonzero(valid) if keys[i] not in keys[:i][valid[:i]]
  ]
  x = vectors[kept].astype(np.float64)
  n = len(x)
  apart = [(i, j) for i in range(n) for j in range(n) if i != j]
  eigenvalues = np.linalg.eigvalsh(np.cov(x.T, bias=True)) if n > 1 else None
  far = [np.exp(-2 * np.sum((x[i] - x[j]) ** 2)) for i, j in apart]
  return {
    "mean_cosine": np.mean([x[i] @ x[j] for i, j in apart]) if n > 1 else None,
    "uniformity": np.log(np.mean(far)) if n > 1 else None,
    "effective_rank": eigenvalues.sum() ** 2 / (eigenvalues**2).sum()
    if eigenvalues is not None
    else None,
    "distinct": n,
  }


def spread(vectors, valid, keys, shape=(1, 1)) -> dict[str, float]:
  mesh = sharding.make_mesh(*shape, jax.devices()[: shape[0] * shape[1]])
  run = jax.jit(lambda *of: geometry.spread(*of, mesh))
  return jax.device_get(run(vectors, valid, keys.astype(np.uint32)))


@settings(max_examples=6, deadline=None, derandomize=True)
@given(st.integers(0, 2**31), st.integers(2, SIZE), st.integers(2, 60))
def test_the_figures_are_those_of_the_definitions(seed, filled, texts) -> None:
  """Some texts occur twice; places that are empty hold anything."""
  rng = np.random.default_rng(seed)
  keys = rng.integers(0, texts, SIZE)
  of_text = unit(rng.standard_normal((texts, WIDTH)) + rng.standard_normal(1))
  valid = np.isin(np.arange(SIZE), rng.permutation(SIZE)[:filled])
  vectors = np.where(valid[:, None], of_text[keys], np.eye(WIDTH)[0])
  vectors = vectors.astype(np.float32)
  want = transcribed(vectors, valid, keys)
  for shape in MESHES:
    got = spread(vectors, valid, keys, shape)
    assert set(got) == set(want)
    for name, value in want.items():
      if value is None:
        assert np.isnan(got[name])
      else:
        np.testing.assert_allclose(got[name], value, rtol=2e-4, atol=1e-5)


def test_at_right_angles_and_all_as_one() -> None:
  every, keys = np.ones(8, bool), np.arange(8)
  got = spread(np.eye(8, dtype=np.float32), every, keys)
  for name, want in (
    ("mean_cosine", 0),
    ("uniformity", -4),
    ("effective_rank", 7),  # the mean takes one
    ("distinct", 8),
  ):
    np.testing.assert_allclose(got[name], want, atol=1e-5)
  one = np.tile(np.eye(8, dtype=np.float32)[:1], (8, 1))
  got = spread(one, every, keys)
  assert got["mean_cosine"] == 1 and got["uniformity"] == 0
  assert got["effective_rank"] == 0


def test_one_text_has_no_spread() -> None:
  vectors = np.tile(np.eye(8, dtype=np.float32)[:1], (8, 1))
  got = spread(vectors, np.ones(8, bool), np.zeros(8, int))
  assert got.pop("distinct") == 1
  assert np.isnan(list(got.values())).all()


@pytest.mark.parametrize("single", [False, True])
def test_of_single_texts_there_are_queries_alone(single: bool) -> None:
  rng = np.random.default_rng(0)
  query, positive = unit(rng.standard_normal((2, 8, WIDTH)))
  valid = np.arange(8)[None] < 6
  text = Text(*np.zeros((2, 1, 1, 1), np.int32), valid)
  keys = np.arange(16, dtype=np.uint32).reshape(8, 2)
  other = None if single else text
  batch = PairBatch(text, other, None, None, keys, np.asarray(0, np.int32))
  seen = Seen({}, query, None if single else positive, None)
  mesh = sharding.make_mesh(1, 1, jax.devices()[:1])
  run = jax.jit(lambda *of: geometry.figures(*of, mesh))
  got = jax.device_get(run(seen, batch))
  assert ("alignment" in got) == (not single)
  assert any(name.endswith("/positive") for name in got) == (not single)
  if not single:
    want = np.mean(np.sum((query - positive)[:6] ** 2, axis=1))
    np.testing.assert_allclose(got["alignment"], want, rtol=1e-5)
  assert got["distinct/query"] == 6
