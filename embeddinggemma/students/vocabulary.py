"""Prune a vocabulary to the pieces that some texts use.

A byte-pair encoding merges two neighbours whose joint text is a piece, the one
of the highest score first. If all pieces are kept that merging makes on the way
to a piece, then a smaller vocabulary makes the same merges in the same order,
and cuts a text as before wherever the pieces of that cut are kept. What is not
kept falls apart into smaller pieces, and at last into characters or bytes.
"""

import itertools
import re
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Int

from embeddinggemma.convert import sentencepiece_model
from embeddinggemma.convert.sentencepiece_model import Piece
from embeddinggemma.data.sentencepiece_file import NORMAL, USER_DEFINED
from embeddinggemma.data.tokenizer import NO_LIMIT, NUM_SPARE, Tokenizer
from embeddinggemma.students import cuts
from embeddinggemma.students.cuts import Cut
from embeddinggemma.types import BadInput

_BATCH = 1024  # texts that are tokenised together
_LETTERS = 4  # one piece in so many may be kept for being a character
_SPARE = re.compile(r"<unused(\d+)>")


class Pruned(NamedTuple):
  """A smaller vocabulary, and what it costs on the texts it was made for."""

  model: bytes  # SentencePiece
  ids: Int[np.ndarray, "V"]  # of its pieces in the larger one, ascending
  used: int  # pieces of the larger one that the texts use
  lost: int  # of them, those that were cut
  whole: Cut  # how it cuts all of the texts
  parts: Sequence[Cut]  # and those of each label, the worst first

  @property
  def share(self) -> float:
    """Of the texts' tokens, those that are cut as before."""
    return self.whole.share

  @property
  def figures(self) -> dict[str, Any]:
    """What recipe.json keeps of it, and --json shows."""
    return {
      "pieces": len(self.ids),
      "used": self.used,
      "lost": self.lost,
      **self.whole.figures,
      "parts": [{"data": x.data, **x.figures} for x in self.parts],
    }


def prune(
  tokenizer: Tokenizer,
  texts: Sequence[str],
  size: int,
  prompts: Sequence[str] = (),
  labels: Sequence[str] = (),
) -> Pruned:
  """The vocabulary of at most `size` pieces that serves the texts best.

  It keeps control pieces, bytes, pieces that are matched whole (of the spare
  ones as many as this project's own tokenizers have), and then the pieces that
  are most frequent in the texts, each with those from which it is merged.
  The pieces of `prompts`, which stand before every text, come first, and then
  the texts' characters, up to a quarter of all pieces: what loses its piece
  should not fall into bytes.

  Args:
    tokenizer: the larger vocabulary.
    texts: what it is to serve.
    size: pieces at most.
    prompts: texts that stand before others.
    labels: of each text, such as its language; how a label's texts are cut is
      measured apart. (): of none.

  Raises:
    BadInput: there is no text, the tokenizer is no byte-pair encoding of
      Gemma's kind, or `size` does not hold what is always kept, or is more
      than there are.
  """
  counts, first = count(tokenizer, texts), count(tokenizer, prompts)
  if not counts.sum():
    raise BadInput("there is no text whose pieces a vocabulary could keep")
  kept = require_size(tokenizer, size, counts)
  pieces = sentencepiece_model.parse(tokenizer.model).pieces
  used = [*_most(first), *_most(np.where(first > 0, 0, counts))]
  letters = _most(_characters(pieces, counts))[: size // _LETTERS]
  _add(kept, [*_most(first), *letters, *used], pieces, size)
  ids = np.array(sorted(kept))
  model = sentencepiece_model.serialise(
    sentencepiece_model.parse(tokenizer.model)._replace(
      pieces=[pieces[n] for n in ids]
    )
  )
  lost = sum(n not in kept for n in used)
  whole, parts = cuts.compare(tokenizer, Tokenizer(model), ids, texts, labels)
  return Pruned(model, ids, len(used), lost, whole, parts)


def _most(counts: Int[np.ndarray, "V"]) -> list[int]:
  """The ids that are counted, the commonest first."""
  return [int(n) for n in np.argsort(-counts, kind="stable") if counts[n]]


def _characters(
  pieces: Sequence[Piece], counts: Int[np.ndarray, "V"]
) -> Int[np.ndarray, "V"]:
  """How often each piece of one character stands in the texts, in any piece."""
  alone = {p.text: n for n, p in enumerate(pieces) if p.type == NORMAL}
  found = np.zeros_like(counts)
  for n in np.flatnonzero(counts).tolist():
    if pieces[n].type == NORMAL:
      for character in pieces[n].text:
        if character in alone:
          found[alone[character]] += counts[n]
  return found


def require_size(
  tokenizer: Tokenizer, size: int, counts: Int[np.ndarray, "V"] | None = None
) -> set[int]:
  """The pieces that are kept in any case, where texts use some so often.

  Raises BadInput if a vocabulary of this size does not hold them, is larger
  than the whole one, or is of another kind than Gemma's.
  """
  pieces = sentencepiece_model.gemma_pieces(tokenizer.model, "a student")
  if size > len(pieces):
    raise BadInput(
      f"--vocabulary={size} is more than the {len(pieces)} pieces of the model;"
      " give fewer, or leave it out to keep all"
    )
  if counts is None:
    counts = np.zeros(len(pieces), np.int64)
  kept = _always(pieces, counts)
  if size < len(kept):
    raise BadInput(
      f"--vocabulary={size} is too small: control pieces, bytes and pieces that"
      f" are matched whole alone are {len(kept)}"
    )
  return kept


def _add(
  kept: set[int], wanted: Sequence[int], pieces: Sequence[Piece], size: int
) -> None:
  """Add pieces to those kept, each with what merging makes it of, up to size."""
  scores = {p.text: p.score for p in pieces if p.type == NORMAL}
  by_text = {p.text: n for n, p in enumerate(pieces) if p.type == NORMAL}
  for n in wanted:
    if n in kept:
      continue
    made = merged_from(pieces[n].text, scores)
    more = {by_text[text] for text in made} - kept
    if len(kept) + len(more) <= size:
      kept |= more
    if len(kept) == size:
      return


def count(tokenizer: Tokenizer, texts: Sequence[str]) -> Int[np.ndarray, "V"]:
  """How often each piece occurs in the texts, BOS and EOS left out."""
  total = np.zeros(tokenizer.vocab_size, np.int64)
  for start in range(0, len(texts), _BATCH):
    rows, _ = tokenizer.encode_batch(texts[start : start + _BATCH], NO_LIMIT)
    ids = np.concatenate([row[1:-1] for row in rows])
    total += np.bincount(ids, minlength=len(total))
  return total


def _always(pieces: Sequence[Piece], counts: Int[np.ndarray, "V"]) -> set[int]:
  """Ids of the pieces that every vocabulary keeps."""

  def is_kept(n: int, piece: Piece) -> bool:
    spare = _SPARE.fullmatch(piece.text)
    few = not spare or int(spare[1]) < NUM_SPARE or counts[n] > 0
    return piece.type != NORMAL and (piece.type != USER_DEFINED or few)

  return {n for n, piece in enumerate(pieces) if is_kept(n, piece)}


def merged_from(text: str, scores: Mapping[str, float]) -> set[str]:
  """A piece, and all from which merging makes it; {} if it does not.

  Merging takes the pair whose joint piece has the highest score, of equal ones
  the first.
  """
  parts, made = list(text), set(text)
  if not made <= scores.keys():
    return set()
  while len(parts) > 1:
    joint = [a + b for a, b in itertools.pairwise(parts)]
    known = [n for n, piece in enumerate(joint) if piece in scores]
    if not known:
      return set()
    best = max(known, key=lambda n: (scores[joint[n]], -n))
    parts[best : best + 2] = [joint[best]]
    made.add(joint[best])
  return made
