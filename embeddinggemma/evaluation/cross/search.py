"""The nearest passages of each question, found by blocks of passages.

The vectors of a block are compared with all questions at each dimension and
dropped; what stays is the best so far of each question. So memory does not
depend on how many passages there are.
"""

import dataclasses
from collections.abc import Callable, Mapping, Sequence

import numpy as np
from jaxtyping import Float, Int

from embeddinggemma import encode as encode_lib
from embeddinggemma import lexical
from embeddinggemma.data import prompts
from embeddinggemma.evaluation import metrics
from embeddinggemma.evaluation.cross.passages import Passages
from embeddinggemma.evaluation.remembered import forgetful
from embeddinggemma.types import BadInput, TextEncoder

BLOCK = 8192  # passages that are encoded and compared at once
MOST_BYTES = 2 * 10**9  # of all that is kept of the search
_KEPT = 12  # bytes of a score and of the number of its passage

Say = Callable[[str], None]  # how far the search is, for people


@dataclasses.dataclass
class _Best:
  """The best passages so far, best first; ties by number."""

  numbers: Int[np.ndarray, "Q k"]
  scores: Float[np.ndarray, "Q k"]


def nearest(
  encode: TextEncoder,
  questions: Sequence[str],
  prompt: str,
  passages: Passages,
  dims: Sequence[int],
  depth: int,
  say: Say,
) -> Mapping[int, Int[np.ndarray, "Q k"]]:
  """Dimension -> the numbers of the passages nearest to each question.

  Args:
    encode: the model; passages are encoded once, as documents with titles.
    questions: all of them, Q.
    prompt: the task whose prompts questions and passages get.
    passages: of which the best are found.
    dims: by how many leading coordinates they are compared.
    depth: how many passages are found; k is less if there are fewer.
    say: is told after each block.

  Raises BadInput if what is kept would be more than MOST_BYTES.
  """
  depth = min(depth, passages.count)
  _require_room(len(questions), depth, len(dims))
  document = prompts.document_prompt(prompt)
  vectors = encode(questions, prompt)
  asked = {dim: encode_lib.truncate(vectors, dim) for dim in dims}
  best = {dim: _nothing(len(questions)) for dim in dims}
  for block in passages.blocks(BLOCK):
    found = forgetful(encode)(block.texts, document, block.titles)
    for dim in dims:
      part = encode_lib.truncate(found, dim)
      best[dim] = _merged(best[dim], asked[dim], part, block.first, depth)
    say(f"{block.first + len(block.texts)} of {passages.count} passages")
  return {dim: kept.numbers for dim, kept in best.items()}


def among(
  asked: Float[np.ndarray, "Q D"], vectors: Float[np.ndarray, "C D"], depth: int
) -> Int[np.ndarray, "Q k"]:
  """The numbers of the vectors that are nearest to each of those asked."""
  return _merged(_nothing(len(asked)), asked, vectors, 0, depth).numbers


def _require_room(num_questions: int, depth: int, num_dims: int) -> None:
  size = num_questions * depth * num_dims * _KEPT
  if size > MOST_BYTES:
    raise BadInput(
      f"{num_questions:,} questions with {depth:,} passages each, at {num_dims}"
      f" dimensions, take {size / 1e9:.1f} GB; give at most"
      f" {num_questions * MOST_BYTES // size:,} questions at once"
    )


def _nothing(num_questions: int) -> _Best:
  return _Best(
    np.zeros((num_questions, 0), np.int64),
    np.zeros((num_questions, 0), np.float32),
  )


def _merged(
  best: _Best,
  asked: Float[np.ndarray, "Q D"],
  block: Float[np.ndarray, "n D"],
  first: int,
  depth: int,
) -> _Best:
  """The best of those so far and of a block whose first number is `first`."""
  score = metrics.dense_scores(asked, block)
  size = min(depth, best.scores.shape[1] + len(block))
  numbers = np.empty((len(asked), size), np.int64)
  scores = np.empty((len(asked), size), np.float32)
  for chunk in lexical.query_chunks(len(asked), len(block) + depth):
    known = best.numbers[chunk]
    new = np.arange(first, first + len(block))
    new = np.broadcast_to(new, (len(known), len(block)))
    both = np.concatenate([best.scores[chunk], score(chunk)], axis=1)
    places = top(both, size)
    scores[chunk] = np.take_along_axis(both, places, axis=1)
    joined = np.concatenate([known, new], axis=1)
    numbers[chunk] = np.take_along_axis(joined, places, axis=1)
  return _Best(numbers, scores)


def top(scores: Float[np.ndarray, "Q C"], k: int) -> Int[np.ndarray, "Q k"]:
  """Where the k best of each row stand, best first, and of equals the first.

  `lexical.top_k` orders equals so, but which of those at its end it keeps is
  not said; such rows are sorted here, so that blocks of any size give the same.
  """
  places, values = lexical.top_k(scores, k)
  last = values[:, -1:]
  more = (scores == last).sum(axis=1) > (values == last).sum(axis=1)
  for row in np.flatnonzero(more):
    places[row] = np.argsort(-scores[row], kind="stable")[:k]
  return places
