"""One byte or one bit a number, against ten lines of numpy."""

import numpy as np
import pytest

from embeddinggemma.retrieval import codes


def _vectors(count, dim, seed=0):
  """Unit vectors with a direction in common, as float16."""
  rng = np.random.default_rng(seed)
  vectors = rng.normal(size=(count, dim)) + 2 * rng.normal(size=dim)
  vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
  return vectors.astype(np.float16)


@pytest.mark.parametrize("rows", [7, 2**16])
def test_the_spread_is_that_of_all(monkeypatch, rows):
  monkeypatch.setattr(codes, "_ROWS", rows)
  vectors = _vectors(200, 24)
  found, exact = codes.spread(vectors), vectors.astype(np.float64)
  np.testing.assert_allclose(found.mean, exact.mean(axis=0), atol=1e-6)
  covariance = np.cov(exact.T, bias=True)
  np.testing.assert_allclose(found.covariance, covariance, atol=1e-6)
  peaks = np.abs(exact).max(axis=1)
  np.testing.assert_allclose(found.scale, np.quantile(peaks, 0.99), rtol=1e-6)


def test_int8_has_one_scale_and_clips_rare_peaks():
  vectors = _vectors(500, 24)
  spread = codes.spread(vectors)
  found = codes.encode(vectors, "int8", spread)
  assert found.dtype == np.int8 and found.shape == vectors.shape
  restored = found * (spread.scale / 127)
  clipped = np.clip(vectors.astype(float), -spread.scale, spread.scale)
  np.testing.assert_allclose(restored, clipped, atol=spread.scale / 250)
  peaks = np.abs(vectors.astype(float)).max(axis=1)
  assert 0 < np.mean(peaks > spread.scale) <= 0.01


def test_a_bit_is_the_side_of_the_mean():
  vectors = _vectors(500, 20)
  spread = codes.spread(vectors)
  found = codes.encode(vectors, "binary", spread)
  assert found.dtype == np.uint8 and found.shape == (500, 3)
  bits = np.unpackbits(found, axis=1, count=20)
  np.testing.assert_array_equal(bits, vectors > spread.mean)


@pytest.mark.parametrize("dim", [13, 64])
@pytest.mark.parametrize("kind", ["int8", "binary"])
def test_the_nearest_codes_are_those_of_all(monkeypatch, kind, dim):
  monkeypatch.setitem(codes.CANDIDATES, kind, 30)
  vectors = _vectors(300, dim)
  spread = codes.spread(vectors)
  coded = codes.encode(vectors, kind, spread)
  query = codes.of_query(_vectors(1, dim, 1)[0].astype("f4"), kind, spread)
  if kind == "int8":
    likeness = coded.astype(int) @ query.astype(int)
  else:
    likeness = -np.unpackbits(coded ^ query, axis=1).sum(axis=1, dtype=int)
  found = codes.nearest(coded, query, kind, 10)
  assert len(set(found)) == 30
  np.testing.assert_array_equal(
    np.sort(likeness[found]), np.sort(likeness)[-30:]
  )
  assert len(codes.nearest(coded, query, kind, 40)) == 80
  assert len(codes.nearest(coded[:5], query, kind, 10)) == 5
  graph = codes.make_graph(coded, kind, dim)
  through = codes.nearest(coded, query, kind, 10, graph)
  assert len(set(through) & set(found)) >= 24
