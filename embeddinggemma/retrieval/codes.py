"""Vectors in one byte or one bit a number, and the nearest of them.

Codes choose candidates; what they are worth is decided by the vectors, which
are kept in float16. Vectors are cut to a Matryoshka dimension and brought back
to unit length before they get here.

int8 has one scale for all. A bit says on which side of the mean a number is:
embeddings share a direction, and the bare signs would mostly tell of that.
"""

from collections.abc import Iterator
from typing import Any, Literal, NamedTuple

import numpy as np
from jaxtyping import Float, Int, Shaped

Kind = Literal["int8", "binary"]
# Found by codes for the vectors to judge. By measurement, of 20,000 chunks of
# code at 256 dimensions they hold .999 of the ten nearest in int8 (.994 through
# a graph) and .992 in binary (.990): tests/benchmarks/search.py, on a model
# whose vectors share more than most (their mean is .9 long).
CANDIDATES = {"int8": 1000, "binary": 5000}
# Below, every code is compared, in about 20 ms at 256 dimensions; above, a graph
# (HNSW) leads to the near ones.
EXACT_UP_TO = 250_000
_METRICS = {"int8": "IP", "binary": "Hamming"}
_ROWS = 2**16  # converted at a time


class Spread(NamedTuple):
  """What codes are made with, and what cosines are judged by."""

  mean: Float[np.ndarray, "D"]
  covariance: Float[np.ndarray, "D D"]
  scale: Float[np.ndarray, ""]  # what 127 stands for; rare peaks are clipped


def spread(vectors: Float[np.ndarray, "n D"]) -> Spread:
  """The spread of unit vectors; 127 is the 99th percentile of their peaks."""
  size, dim = vectors.shape
  total, products = np.zeros(dim), np.zeros((dim, dim))
  peaks = [np.zeros(0, np.float32)]
  for block in _blocks(vectors):
    total += block.sum(axis=0)
    products += block.T @ block
    peaks.append(np.abs(block).max(axis=1))
  mean = total / size
  return Spread(
    mean.astype(np.float32),
    (products / size - np.outer(mean, mean)).astype(np.float32),
    np.asarray(np.quantile(np.concatenate(peaks), 0.99)),
  )


def encode(
  vectors: Float[np.ndarray, "n D"], kind: Kind, spread: Spread
) -> Shaped[np.ndarray, "n _"]:
  """int8 (n, D), or bits (n, D / 8 rounded up) as uint8."""
  one = _int8 if kind == "int8" else _bits
  return np.concatenate([one(block, spread) for block in _blocks(vectors)])


def _int8(block: Float[np.ndarray, "n D"], spread: Spread) -> np.ndarray:
  codes = np.round(block / spread.scale * 127)
  return np.clip(codes, -127, 127).astype(np.int8)


def _bits(block: Float[np.ndarray, "n D"], spread: Spread) -> np.ndarray:
  return np.packbits(block > spread.mean, axis=1)


def of_query(
  query: Float[np.ndarray, "D"], kind: Kind, spread: Spread
) -> Shaped[np.ndarray, "_"]:
  """A query as its nearest codes are asked for: in int8 at its own scale."""
  if kind == "binary":
    return _bits(query[None], spread)[0]
  return np.round(query / np.abs(query).max() * 127).astype(np.int8)


def nearest(
  codes: Shaped[np.ndarray, "n _"],
  query: Shaped[np.ndarray, "_"],
  kind: Kind,
  count: int,
  graph: Any | None = None,
) -> Int[np.ndarray, "k"]:
  """Places of the codes nearest to a query's: of all, or through the graph.

  More than the `count` that the vectors are to pick from them.
  """
  from usearch import index as usearch

  count = min(max(2 * count, CANDIDATES[kind]), len(codes))
  if graph is not None:
    found = graph.search(query, count, threads=1)
  else:
    metric = usearch.MetricKind[_METRICS[kind]]
    found = usearch.search(
      codes, query[None], count, metric, exact=True, threads=1
    )
  return np.asarray(found.keys, np.int64).reshape(-1)


def make_graph(codes: Shaped[np.ndarray, "n _"], kind: Kind, dim: int) -> Any:
  """The graph of codes, known by their places."""
  graph = empty_graph(kind, dim)
  graph.add(np.arange(len(codes)), codes)
  return graph


def empty_graph(kind: Kind, dim: int) -> Any:
  """A usearch index, to fill or to read one into."""
  from usearch import index as usearch

  dtype = "i8" if kind == "int8" else "b1"
  metric = usearch.MetricKind[_METRICS[kind]]
  return usearch.Index(ndim=dim, metric=metric, dtype=dtype)


def _blocks(vectors: np.ndarray) -> Iterator[np.ndarray]:
  for start in range(0, len(vectors), _ROWS):
    yield vectors[start : start + _ROWS].astype(np.float32)
