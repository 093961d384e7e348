"""Exact search for the k nearest documents of many queries, in bounded memory.

A matrix product compares a chunk of queries with all documents. Its rounding
depends on the chunk's size, so near-ties are scored again pair by pair: the
result is the same for every chunk size.
"""

from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Float, Float32, Int
from scipy import sparse

from embeddinggemma import lexical
from embeddinggemma.types import BadInput

CHUNK_BYTES = 64 * 2**20  # of scores held at a time
MAX_QUERIES = 4096  # per chunk
BLOCK = 2**20  # numbers of each side that pairs are compared by

_UNIT = 1e-3  # how far from 1 a unit vector's length may be


class Found(NamedTuple):
  """The neighbours of a chunk of q queries, as flat arrays of n rows.

  A query's neighbours are sorted by score, best first, and ties by document.
  """

  query: Int[np.ndarray, "n"]  # index in the chunk
  rank: Int[np.ndarray, "n"]  # from 0
  document: Int[np.ndarray, "n"]
  score: Float32[np.ndarray, "n"]
  own: Float32[np.ndarray, "q"]  # scores of the queries' own positives


# (a chunk of the queries, their own documents) -> their neighbours.
Search = Callable[[slice, Int[np.ndarray, "q"]], Found]


def chunks(start: int, queries: int, documents: int) -> Iterator[slice]:
  """Slices of queries, from `start` on, whose scores fit in CHUNK_BYTES."""
  size = CHUNK_BYTES // (4 * max(documents, 1))
  size = min(max(size, 1), MAX_QUERIES)
  for first in range(start, queries, size):
    yield slice(first, min(first + size, queries))


def by_vectors(
  queries: Float32[np.ndarray, "Q M"],
  documents: Float32[np.ndarray, "C M"],
  k: int,
) -> Search:
  """Search by the cosine of unit vectors."""
  # Twice what rounding can do to a sum of M products.
  slack = queries.shape[1] * np.finfo(np.float32).eps + 1e-6

  def search(part: slice, own: Int[np.ndarray, "q"]) -> Found:
    scores = queries[part] @ documents.T
    least = _kth_largest(scores, k)
    query, document = np.nonzero(scores >= least[:, None] - slack)
    del scores
    chunk = queries[part]
    score = cosines(chunk, query, documents, document)
    every = np.arange(len(chunk))
    return _ranked(
      query, document, score, k, cosines(chunk, every, documents, own)
    )

  return search


def by_words(
  queries: Sequence[str], documents: Sequence[str], analyser: str, k: int
) -> Search:
  """Search by BM25; a document without a word of the query is not found."""
  bm25 = lexical.bm25(documents, analyser)

  def search(part: slice, own: Int[np.ndarray, "q"]) -> Found:
    scores = bm25(queries[part])
    least = _kth_largest(scores, k)
    query, document = np.nonzero((scores >= least[:, None]) & (scores > 0))
    score = scores[query, document]
    return _ranked(
      query, document, score, k, scores[np.arange(len(scores)), own]
    )

  return search


def check_unit(vectors: Float32[np.ndarray, "n M"], name: str) -> None:
  """Raise BadInput, with `name`, unless every row is finite and of length 1."""
  for rows in _blocks(len(vectors), vectors.shape[1]):
    lengths = np.linalg.norm(vectors[rows], axis=1)
    bad = ~(np.abs(lengths - 1.0) <= _UNIT)
    if bad.any():
      row = rows.start + int(np.argmax(bad))
      raise BadInput(
        f"{name} vector {row} has length {lengths[row - rows.start]:.4g};"
        " mining needs finite vectors of length 1"
      )


def cosines(
  left: Float[np.ndarray, "Q M"],
  rows: Int[np.ndarray, "n"],
  right: Float[np.ndarray, "C M"],
  columns: Int[np.ndarray, "n"],
) -> Float32[np.ndarray, "n"]:
  """left[rows[i]] . right[columns[i]], for each i.

  Each is the same to the bit, whatever the other rows of a call are.
  """
  out = np.empty(len(rows), np.float32)
  for part in _blocks(len(rows), left.shape[1]):
    a = left[rows[part]].astype(np.float64)
    b = right[columns[part]].astype(np.float64)
    out[part] = np.einsum("nm,nm->n", a, b)
  return out


class Bags:
  """The sets of words of texts, to be compared pair by pair."""

  def __init__(self, texts: Sequence[str]):
    known: dict[str, int] = {}
    columns, ends = [], [0]
    for text in texts:
      words = sorted(set(lexical.tokens(text)))
      columns += [known.setdefault(word, len(known)) for word in words]
      ends.append(len(columns))
    ones = np.ones(len(columns), np.int32)
    shape = (len(texts), max(len(known), 1))
    self._bags = sparse.csr_array((ones, columns, ends), shape=shape)
    self._sizes = np.diff(ends)

  def jaccard(
    self, rows: Int[np.ndarray, "n"], others: Int[np.ndarray, "n"]
  ) -> Float[np.ndarray, "n"]:
    """The Jaccard similarity of pairs of texts: shared words over all words.

    It is 0 where neither text has a word.
    """
    out = np.zeros(len(rows))
    longest = int(self._sizes.max(initial=1))
    for part in _blocks(len(rows), longest):
      a, b = rows[part], others[part]
      shared: Any = self._bags[a]
      shared = shared.multiply(self._bags[b]).sum(axis=1)
      union = self._sizes[a] + self._sizes[b] - shared
      out[part] = shared / np.maximum(union, 1)
    return out


def _kth_largest(
  scores: Float32[np.ndarray, "q C"], k: int
) -> Float32[np.ndarray, "q"]:
  """Each row's k-th largest score."""
  place = max(scores.shape[1] - k, 0)
  return np.partition(scores, place, axis=1)[:, place]


def _ranked(
  query: Int[np.ndarray, "m"],
  document: Int[np.ndarray, "m"],
  score: Float32[np.ndarray, "m"],
  k: int,
  own: Float32[np.ndarray, "q"],
) -> Found:
  order = np.lexsort((document, -score, query))
  query = query[order]
  rank = np.arange(len(query)) - np.searchsorted(query, query)
  kept = rank < k
  order = order[kept]
  return Found(query[kept], rank[kept], document[order], score[order], own)


def _blocks(rows: int, width: int) -> Iterator[slice]:
  size = max(1, BLOCK // max(width, 1))
  for start in range(0, rows, size):
    yield slice(start, min(start + size, rows))
