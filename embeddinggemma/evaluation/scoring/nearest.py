"""Search in a corpus that comes in blocks, of which only one is held.

What is kept is the best documents of each query, or the scores of its candidates:
a corpus of millions takes no more memory than a block of it.
"""

from collections.abc import Callable, Sequence

import numpy as np
from jaxtyping import Float

from embeddinggemma import lexical
from embeddinggemma.evaluation import metrics
from embeddinggemma.evaluation.scoring.scored import Scored

BLOCK = 2**14  # documents that are encoded, and held as vectors, at a time
Judge = Callable[[Sequence[metrics.Ranking]], Scored]  # rankings -> scores
_PAIRS = 2**13  # queries beside candidates, whose vectors are copied at a time


class Best:
  """The best documents of each query among those that were added.

  Of equal scores, the document that comes first is ranked first.

  Args:
    queries: their unit vectors.
    depth: documents that are kept of each query.
  """

  def __init__(self, queries: Float[np.ndarray, "Q M"], depth: int):
    self._queries, self._depth = queries, depth
    self.places = np.zeros((len(queries), 0), np.int64)  # best first
    self._scores = np.zeros((len(queries), 0), np.float32)

  def add(self, start: int, documents: Float[np.ndarray, "c M"]) -> None:
    """Take the unit vectors of the documents start, start + 1, ..."""
    score = metrics.dense_scores(self._queries, documents)
    width = min(self._depth, self.places.shape[1] + len(documents))
    best = np.zeros((len(self._queries), width), np.int64)
    scores = np.zeros((len(self._queries), width), np.float32)
    compared = len(documents) + self._depth
    for chunk in lexical.query_chunks(len(self._queries), compared):
      found, values = lexical.top_k(score(chunk), self._depth)
      # What was kept stands first, so that ties stay in the corpus's order.
      places = np.hstack([self.places[chunk], found + start])
      values = np.hstack([self._scores[chunk], values])
      order, scores[chunk] = lexical.top_k(values, width)
      best[chunk] = np.take_along_axis(places, order, axis=1)
    self.places, self._scores = best, scores


class Nearest:
  """The best documents of each query among all; a `Search`.

  Args:
    queries: their unit vectors.
    same: per query, the document that is the query itself and is left out; -1
      for none.
    depth: documents that are ranked per query.
    judge: what gives the scores of rankings.
  """

  def __init__(
    self,
    queries: Float[np.ndarray, "Q M"],
    same: Sequence[int],
    depth: int,
    judge: Judge,
  ):
    self._best = Best(queries, depth + 1)
    self._same, self._depth, self._judge = same, depth, judge

  def add(self, start: int, documents: Float[np.ndarray, "c M"]) -> None:
    """Take the unit vectors of the documents start, start + 1, ..."""
    self._best.add(start, documents)

  def scored(self) -> Scored:
    """The task's scores, after all documents."""
    return self._judge(
      [
        row[row != itself][: self._depth].tolist()
        for row, itself in zip(self._best.places, self._same, strict=True)
      ]
    )


class Candidates:
  """The candidates of each query in the order of their scores; a `Search`.

  Args:
    candidates: of each query, in the order in which equal scores are ranked.
    queries: their unit vectors.
    depth: documents that are ranked per query.
    judge: what gives the scores of rankings.
  """

  def __init__(
    self,
    candidates: Sequence[Sequence[int]],
    queries: Float[np.ndarray, "Q M"],
    depth: int,
    judge: Judge,
  ):
    self._candidates, self._queries = candidates, queries
    self._depth, self._judge = depth, judge
    lengths = [len(own) for own in candidates]
    self._ends = np.cumsum([0, *lengths])
    self._asking = np.repeat(np.arange(len(lengths)), lengths)
    self._asked = np.array(
      [place for own in candidates for place in own], np.int64
    )
    self._scores = np.zeros(len(self._asked), np.float32)

  def add(self, start: int, documents: Float[np.ndarray, "c M"]) -> None:
    """Take the unit vectors of the documents start, start + 1, ..."""
    metrics.require_directions(self._queries, documents)
    within = (self._asked >= start) & (self._asked < start + len(documents))
    places = np.flatnonzero(within)
    for first in range(0, len(places), _PAIRS):
      some = places[first : first + _PAIRS]
      self._scores[some] = np.einsum(
        "nm,nm->n",
        self._queries[self._asking[some]],
        documents[self._asked[some] - start],
      )

  def scored(self) -> Scored:
    """The task's scores, after all documents."""
    rankings: list[metrics.Ranking] = []
    for own, start in zip(self._candidates, self._ends):
      scores = self._scores[start : start + len(own)]
      order = np.argsort(-scores, kind="stable")[: self._depth]
      rankings.append([own[place] for place in order])
    return self._judge(rankings)
