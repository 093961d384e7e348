"""Quantised vectors (one byte or one bit a number) and the search in them.

Codes only select candidates, which are then scored by the vectors themselves,
kept in float16. Vectors arrive here cut to a Matryoshka dimension and
renormalised. int8 codes share one scale. A binary code says on which side of
the mean a number lies: embeddings share a direction, which plain signs would
mostly encode.
"""

from collections.abc import Iterator
from typing import Any, Literal, NamedTuple

import numpy as np
from jaxtyping import Float, Int, Shaped

Kind = Literal["int8", "binary"]
# Candidates that are selected by codes and scored by vectors. Among 20,000
# chunks of code at 256 dimensions they contain .999 of the ten nearest in int8
# (.994 through a graph) and .992 in binary (.990): tests/benchmarks/search.py,
# on a model whose vectors are unusually alike (their mean has norm .9).
CANDIDATES = {"int8": 1000, "binary": 5000}
# Up to this number of vectors every code is compared, in about 20 ms at 256
# dimensions; above it, an HNSW graph is searched.
EXACT_UP_TO = 250_000
_METRICS = {"int8": "IP", "binary": "Hamming"}
_ROWS = 2**16  # vectors that are converted at a time


class Spread(NamedTuple):
  """Statistics of an index's vectors, by which codes are made."""

  mean: Float[np.ndarray, "D"]
  covariance: Float[np.ndarray, "D D"]
  scale: Float[np.ndarray, ""]  # the value of int8 code 127; larger are clipped


def spread(vectors: Float[np.ndarray, "n D"]) -> Spread:
  """Statistics of unit vectors; int8's scale is a 99th percentile.

  It is that of the vectors' largest absolute coordinates.
  """
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
  """Codes of vectors: int8 (n, D), or bits (n, ceil(D / 8)) as uint8."""
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
  """The code of a query; an int8 query is scaled by its own largest number."""
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
  """Places of the codes nearest to a query's, by comparing all or by the graph.

  There are more than `count` of them, from which the caller selects by vectors.
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
  """An HNSW graph of codes, whose keys are their places."""
  graph = empty_graph(kind, dim)
  graph.add(np.arange(len(codes)), codes)
  return graph


def empty_graph(kind: Kind, dim: int) -> Any:
  """An empty usearch index, to be filled or loaded."""
  from usearch import index as usearch

  dtype = "i8" if kind == "int8" else "b1"
  metric = usearch.MetricKind[_METRICS[kind]]
  return usearch.Index(ndim=dim, metric=metric, dtype=dtype)


def _blocks(vectors: np.ndarray) -> Iterator[np.ndarray]:
  for start in range(0, len(vectors), _ROWS):
    yield vectors[start : start + _ROWS].astype(np.float32)
