"""The nearest passages of each question, found by blocks of passages.

The vectors of a block are compared with all questions at each dimension and
dropped; what stays is the best so far of each question. So memory does not
depend on how many passages there are.
"""

from collections.abc import Callable, Mapping, Sequence

import numpy as np
from jaxtyping import Float, Int

from embeddinggemma import encode as encode_lib
from embeddinggemma.evaluation.cross.passages import Passages
from embeddinggemma.evaluation.remembered import forgetful
from embeddinggemma.evaluation.scoring import nearest as nearest_lib
from embeddinggemma.types import BadInput, TextEncoder

MOST_BYTES = 2 * 10**9  # of all that is kept of the search
_KEPT = 12  # bytes of a score and of the number of its passage

Say = Callable[[str], None]  # how far the search is, for people


def nearest(
  encode: TextEncoder,
  questions: Sequence[str],
  prompts: Mapping[str, str],
  passages: Passages,
  dims: Sequence[int],
  depth: int,
  say: Say,
) -> Mapping[int, Int[np.ndarray, "Q k"]]:
  """Dimension -> the numbers of the passages nearest to each question.

  Args:
    encode: the model; passages are encoded once, as documents with titles.
    questions: all of them, Q.
    prompts: the names of those of a "query" and of a "document".
    passages: of which the best are found.
    dims: by how many leading coordinates they are compared.
    depth: how many passages are found; k is less if there are fewer.
    say: is told after each block.

  Raises BadInput if what is kept would be more than MOST_BYTES.
  """
  depth = min(depth, passages.count)
  _require_room(len(questions), depth, len(dims))
  vectors = encode(questions, prompts["query"])
  best = {
    dim: nearest_lib.Best(encode_lib.truncate(vectors, dim), depth)
    for dim in dims
  }
  for block in passages.blocks(nearest_lib.BLOCK):
    texts = block.texts, prompts["document"], block.titles
    found = forgetful(encode)(*texts)
    for dim, kept in best.items():
      kept.add(block.first, encode_lib.truncate(found, dim))
    say(f"{block.first + len(block.texts)} of {passages.count} passages")
  return {dim: kept.places for dim, kept in best.items()}


def among(
  asked: Float[np.ndarray, "Q D"], vectors: Float[np.ndarray, "C D"], depth: int
) -> Int[np.ndarray, "Q k"]:
  """The numbers of the vectors that are nearest to each of those asked."""
  best = nearest_lib.Best(asked, depth)
  best.add(0, vectors)
  return best.places


def _require_room(num_questions: int, depth: int, num_dims: int) -> None:
  size = num_questions * depth * num_dims * _KEPT
  if size > MOST_BYTES:
    raise BadInput(
      f"{num_questions:,} questions with {depth:,} passages each, at {num_dims}"
      f" dimensions, take {size / 1e9:.1f} GB; give at most"
      f" {num_questions * MOST_BYTES // size:,} questions at once"
    )
