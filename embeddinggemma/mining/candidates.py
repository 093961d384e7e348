"""Decide which neighbours of a query may be its hard negatives.

Neighbours that score too near the positive are dropped, by a margin (Qwen3
Embedding, arXiv 2506.05176) or a ratio (NV-Retriever, arXiv 2407.15831).
"""

import dataclasses
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Bool, Float32, Int, UInt8
from scipy import sparse
from scipy.sparse import csgraph

from embeddinggemma.data import beir, prompts
from embeddinggemma.mining import neighbours
from embeddinggemma.types import BadInput, Pair

SEARCHES = ("dense", "plain", "stemmed")
CHOICES = ("lowest", "random")

# What became of a candidate; the first that applies. Their places are in the
# ledgers on disk: append only.
REASONS = (
  "chosen",
  "left over, others were chosen",
  "is its positive",
  "is a positive of an equal query",
  "is the query's own text",
  "near-duplicate of the positive, by cosine",
  "near-duplicate of the positive, by words",
  "near-duplicate of the query, by cosine",
  "near-duplicate of the query, by words",
  "scores above the positive and the margin",
  "scores above the ratio of the positive's",
  "is joined to the query by pairs of its task",
)
NO_NEIGHBOUR = "no neighbours"
(
  CHOSEN,
  LEFT_OVER,
  _POSITIVE,
  _ANSWER,
  _QUERY,
  _ALIKE,
  _WORDED,
  _QUERY_ALIKE,
  _QUERY_WORDED,
  _MARGIN,
  _RATIO,
  _JOINED,
) = range(len(REASONS))


@dataclasses.dataclass(frozen=True)
class MiningConfig:
  """What is searched, what is dropped, and which of the rest is taken."""

  search: str  # "dense", or BM25 over "plain" or "stemmed" words
  negatives: int  # of a query, at most
  top_k: int  # neighbours that are looked at
  choose: str  # of those left: the "lowest" scores, or "random" ones
  margin: float | None  # most by which a score may exceed the positive's
  ratio: float | None  # most that a score may be of the positive's
  near_cosine: float | None  # above this cosine, texts are near-duplicates
  near_words: float | None  # the same for the Jaccard similarity of words
  seed: int

  def __post_init__(self) -> None:
    for name, known in ("search", SEARCHES), ("choose", CHOICES):
      value = getattr(self, name)
      if value not in known:
        raise BadInput(f"{name}={value!r} is unknown; use {' or '.join(known)}")
    if not 1 <= self.negatives <= self.top_k:
      raise BadInput(
        f"negatives={self.negatives} top_k={self.top_k}: use 1 <= negatives <="
        " top_k"
      )
    for name in "margin", "ratio", "near_cosine", "near_words":
      value = getattr(self, name)
      if value is not None and not np.isfinite(value):
        raise BadInput(f"{name}={value} is no number; None leaves it out")


class Sides(NamedTuple):
  """Unit vectors of the pairs' queries and of their positives."""

  query: Float32[np.ndarray, "n M"]
  positive: Float32[np.ndarray, "n M"]


class Texts:
  """The distinct texts of one task's pairs, numbered.

  The distinct positives are the documents (columns) 0 to C - 1; a query that
  equals a document has the document's number.
  """

  def __init__(self, pairs: Sequence[Pair]):
    known: dict[str, int] = {}
    number = lambda text: known.setdefault(beir.normalised(text), len(known))
    # Documents have the numbers below C; so does a query that equals one.
    self.column = np.array([number(pair.positive) for pair in pairs])
    self.query = np.array([number(pair.query) for pair in pairs])
    _, self.rows = np.unique(self.column, return_index=True)  # first pairs
    self._answers = np.unique(self._answer(self.query, self.column))
    self._parts = None
    if prompts.document_prompt(pairs[0].task) != "document":
      self._parts = _components(self.query, self.column)

  def is_answer(
    self, rows: Int[np.ndarray, "n"], columns: Int[np.ndarray, "n"]
  ) -> Bool[np.ndarray, "n"]:
    """Whether the document is a positive of the row's query, in any pair."""
    asked = self._answer(self.query[rows], columns)
    places = np.searchsorted(self._answers, asked)
    return self._answers[np.minimum(places, len(self._answers) - 1)] == asked

  def is_joined(
    self, rows: Int[np.ndarray, "n"], columns: Int[np.ndarray, "n"]
  ) -> Bool[np.ndarray, "n"]:
    """Whether a chain of pairs connects the row's query with the document.

    It is always False unless the task is symmetric, as similarity is: there,
    texts that are alike to one text count as alike to each other.
    """
    if self._parts is None:
      return np.zeros(len(rows), bool)
    return self._parts[self.query[rows]] == self._parts[columns]

  def _answer(
    self, query: Int[np.ndarray, "n"], column: Int[np.ndarray, "n"]
  ) -> Int[np.ndarray, "n"]:
    return query * len(self.rows) + column


def _components(
  query: Int[np.ndarray, "n"], column: Int[np.ndarray, "n"]
) -> Int[np.ndarray, "texts"]:
  """The connected component of each text, with pairs as edges."""
  texts = 1 + int(max(query.max(), column.max()))
  joined = sparse.coo_array(
    (np.ones(len(query)), (query, column)), (texts,) * 2
  )
  return csgraph.connected_components(joined, directed=False)[1]


class Judge:
  """Gives each found neighbour a reason, before any is chosen.

  The reason is a code of REASONS: why it is dropped, or LEFT_OVER.
  """

  def __init__(
    self,
    pairs: Sequence[Pair],
    texts: Texts,
    vectors: Sides | None,
    config: MiningConfig,
  ):
    self.texts, self.vectors, self.config = texts, vectors, config
    self._bags = None
    if config.near_words is not None:
      documents = [pairs[row].positive for row in texts.rows]
      queries = [pair.query for pair in pairs]
      self._bags = neighbours.Bags([*documents, *queries])

  def __call__(
    self, found: neighbours.Found, rows: Int[np.ndarray, "n"]
  ) -> UInt8[np.ndarray, "n"]:
    """The reasons of neighbours, as codes.

    Args:
      found: n neighbours of a chunk of queries.
      rows: each neighbour's pair, as a row of the pairs.
    """
    texts, column, score = self.texts, found.document, found.score
    own, config = found.own[found.query], self.config
    reason = np.full(len(rows), LEFT_OVER, np.uint8)

    def drop(code: int, which: Callable[[Any], Any]) -> None:
      """Give a code where `which` holds; it sees only neighbours still left."""
      left = np.flatnonzero(reason == LEFT_OVER)
      reason[left[which(left)]] = code

    drop(_POSITIVE, lambda i: column[i] == texts.column[rows[i]])
    drop(_ANSWER, lambda i: texts.is_answer(rows[i], column[i]))
    drop(_QUERY, lambda i: column[i] == texts.query[rows[i]])
    drop(_JOINED, lambda i: texts.is_joined(rows[i], column[i]))
    query, positive = self.vectors or (None, None)
    drop(_ALIKE, lambda i: self._alike(positive, rows[i], column[i]))
    drop(_WORDED, lambda i: self._worded(texts.column[rows[i]], column[i]))
    drop(_QUERY_ALIKE, lambda i: self._alike(query, rows[i], column[i]))
    drop(
      _QUERY_WORDED,
      lambda i: self._worded(len(texts.rows) + rows[i], column[i]),
    )
    if config.margin is not None:
      most = own + config.margin
      drop(_MARGIN, lambda i: score[i] > most[i])
    if config.ratio is not None:
      # Below a negative score, too, for a ratio below 1.
      least = own - (1.0 - config.ratio) * np.abs(own)
      drop(_RATIO, lambda i: score[i] > least[i])
    return reason

  def _alike(
    self,
    side: Float32[np.ndarray, "_n _M"] | None,
    rows: Int[np.ndarray, "n"],
    columns: Int[np.ndarray, "n"],
  ) -> Bool[np.ndarray, "n"]:
    """Whether cosines of a side's rows and documents exceed `near_cosine`."""
    if side is None or self.vectors is None or self.config.near_cosine is None:
      return np.zeros(len(rows), bool)
    others = self.texts.rows[columns]
    found = neighbours.cosines(side, rows, self.vectors.positive, others)
    return found > self.config.near_cosine

  def _worded(
    self, bags: Int[np.ndarray, "n"], columns: Int[np.ndarray, "n"]
  ) -> Bool[np.ndarray, "n"]:
    """Whether the Jaccard similarity of words exceeds `near_words`."""
    if self._bags is None or self.config.near_words is None:
      return np.zeros(len(bags), bool)
    return self._bags.jaccard(bags, columns) > self.config.near_words
