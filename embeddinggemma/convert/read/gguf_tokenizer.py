"""Rebuild a SentencePiece model from the tokenizer in a GGUF file.

llama.cpp's files keep the pieces, their scores and types, and whether a space
precedes a text. The converter also writes spaces into user-defined pieces,
drops the scores of added tokens, marks as control tokens what looks like one
(Gemma's `<unused0>` and `<start_of_turn>` are user-defined in its SentencePiece
model, and so found in a text), and fills the table with `[PADn]`. All this is
undone, so that ids equal those of the published model.
"""

import collections
import re
from collections.abc import Sequence
from typing import Any

import numpy as np

from embeddinggemma.convert.read.gguf_file import File
from embeddinggemma.convert.sentencepiece_model import (
  Piece,
  SentencePieceModel,
  serialise,
)
from embeddinggemma.data.sentencepiece_file import (
  CONTROL,
  UNKNOWN,
  UNUSED,
  USER_DEFINED,
)
from embeddinggemma.data.tokenizer import BOS, EOS, PAD, UNK
from embeddinggemma.types import BadInput

PREFIX = "tokenizer.ggml."
_SPACE = "\u2581"  # as SentencePiece writes it
_FILLER = re.compile(r"\[PAD\d+\]")
_IDS = {
  "padding_token_id": PAD,
  "eos_token_id": EOS,
  "bos_token_id": BOS,
  "unknown_token_id": UNK,
}
_OWN = {PAD: CONTROL, EOS: CONTROL, BOS: CONTROL, UNK: UNKNOWN}
# What would change a text before it is cut into pieces: Gemma has none of it.
_OTHERS = ("precompiled_charsmap", "remove_extra_whitespaces")


def model_of(file: File) -> bytes:
  """The SentencePiece model; BadInput for a tokenizer of another kind.

  Rows of the table after the last piece have no piece.
  """
  said = lambda name: file.keys.get(PREFIX + name)
  if said("model") != "llama":
    raise BadInput(
      f"{file.path}: {PREFIX}model={said('model')!r} is not supported; Gemma 3's"
      " is 'llama', SentencePiece"
    )
  for name in _OTHERS:
    if said(name) is not None and said(name) is not False:
      raise BadInput(f"{file.path}: {PREFIX}{name} is not supported")
  for name, wanted in _IDS.items():
    if said(name) not in (None, wanted):
      raise BadInput(
        f"{file.path}: {PREFIX}{name}={said(name)!r} is not supported; Gemma's"
        f" is {wanted}"
      )
  columns = [_column(file, name) for name in ("tokens", "scores", "token_type")]
  lengths = {len(column) for column in columns}
  if len(lengths) > 1:
    raise BadInput(
      f"{file.path}: {PREFIX}tokens, scores and token_type are"
      f" {', '.join(str(len(c)) for c in columns)} long, not alike"
    )
  pieces = _pieces(*columns)
  _check(file, pieces)
  prefix = bool(said("add_space_prefix"))
  return serialise(SentencePieceModel(pieces, "bpe", True, prefix, False, True))


def _column(file: File, name: str) -> Sequence[Any]:
  found = file.keys.get(PREFIX + name)
  if found is None:
    raise BadInput(
      f"{file.path} has no {PREFIX}{name}, so no tokenizer; convert the model"
      " anew with its tokenizer.model"
    )
  if not isinstance(found, list if name == "tokens" else np.ndarray):
    raise BadInput(f"{file.path}: {PREFIX}{name} is no list of its kind")
  return found if isinstance(found, list) else found.tolist()


def _pieces(
  texts: Sequence[str], scores: Sequence[float], types: Sequence[int]
) -> list[Piece]:
  """The pieces by id, without the rows at the end that only fill the table."""
  count = len(texts)
  while (
    count and types[count - 1] == UNUSED and _FILLER.match(texts[count - 1])
  ):
    count -= 1
  return [
    _piece(n, *row)
    for n, row in enumerate(zip(texts[:count], scores, types, strict=False))
  ]


def _piece(number: int, text: str, score: float, kind: int) -> Piece:
  if number in _OWN:
    return Piece(text, 0.0, _OWN[number])
  if kind not in (CONTROL, USER_DEFINED):
    return Piece(text, score, kind)
  return Piece(text.replace(" ", _SPACE), 0.0, USER_DEFINED)


def _check(file: File, pieces: Sequence[Piece]) -> None:
  """Raise BadInput, with a reason, for pieces that SentencePiece refuses."""
  text, count = collections.Counter(p.text for p in pieces).most_common(1)[0]
  more = [
    p.text for n, p in enumerate(pieces) if p.type == UNKNOWN and n != UNK
  ]
  faults = {
    f"{len(pieces)} pieces, fewer than Gemma's own": len(pieces) <= len(_OWN),
    f"the piece {text!r} twice": count > 1,
    "an empty piece": any(not piece.text for piece in pieces),
    f"a second unknown piece, {''.join(more[:1])!r}": bool(more),
    "a piece of an unknown type": any(
      p.type not in range(1, 7) for p in pieces
    ),
  }
  for fault, found in faults.items():
    if found:
      raise BadInput(f"{file.path}: its tokenizer has {fault}; it is corrupt")
