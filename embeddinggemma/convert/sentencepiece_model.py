"""Read and write SentencePiece model files: pieces, and treatment of text.

The package's processor tells neither which pieces are user-defined nor how the
model was made. Its protobuf module does, but transformers has one of the same
name, and protobuf refuses to load both in a process. So the few fields that
matter are read here (protobuf's wire format; sentencepiece_model.proto).
"""

import functools
import struct
from collections.abc import Iterable, Iterator
from typing import Any, NamedTuple

from embeddinggemma.data.tokenizer import BOS, EOS, PAD, UNK, Tokenizer
from embeddinggemma.types import BadInput

NORMAL, UNKNOWN, CONTROL, USER_DEFINED, UNUSED, BYTE = range(1, 7)
KINDS = {1: "unigram", 2: "bpe", 3: "word", 4: "char"}


class Piece(NamedTuple):
  """An entry of the vocabulary; its id is its index."""

  text: str
  score: float  # the merge that makes the piece of highest score comes first
  type: int


class SentencePieceModel(NamedTuple):
  """The fields of a model that decide which ids a text gets."""

  pieces: list[Piece]
  kind: str  # one of KINDS
  identity: bool  # the normaliser changes no character
  dummy_prefix: bool  # a space before each text
  remove_extra_spaces: bool
  escape_spaces: bool  # a space is written U+2581


@functools.lru_cache(maxsize=1)  # seconds, for 262,144 pieces
def parse(model: bytes) -> SentencePieceModel:
  """Read a model file; BadInput if it is invalid or without Gemma's ids."""
  Tokenizer(model)
  pieces: list[Piece] = []
  trainer: dict[int, Any] = {}
  normaliser: dict[int, Any] = {}
  for number, value in _fields(model):
    if number == 1:
      pieces.append(_piece(value, len(pieces)))
    elif number == 2:
      trainer |= dict(_fields(value))
    elif number == 3:
      normaliser |= dict(_fields(value))
  return SentencePieceModel(
    pieces,
    KINDS.get(trainer.get(3, 1), "unknown"),
    not normaliser.get(2),
    bool(normaliser.get(3, 1)),
    bool(normaliser.get(4, 1)),
    bool(normaliser.get(5, 1)),
  )


def serialise(model: SentencePieceModel) -> bytes:
  """A model file with these fields, Gemma's control ids and byte fallback.

  It is the inverse of `parse`. The control pieces' names are taken from their
  ids, since the processor looks them up by name.
  """
  kinds = {name: number for number, name in KINDS.items()}
  names = {n: model.pieces[n].text for n in (UNK, BOS, EOS, PAD)}
  trainer = [
    _number(3, kinds[model.kind]),
    _number(4, len(model.pieces)),
    _number(35, 1),  # byte_fallback
    *(_number(40 + n, number) for n, number in enumerate(names)),
    *(_text(45 + n, name) for n, name in enumerate(names.values())),
  ]
  flags = (model.dummy_prefix, model.remove_extra_spaces, model.escape_spaces)
  normaliser = [
    _text(1, "identity"),
    *(_number(3 + n, int(flag)) for n, flag in enumerate(flags)),
  ]
  return b"".join(
    [
      *(_message(1, [*_of_piece(piece)]) for piece in model.pieces),
      _message(2, trainer),
      _message(3, normaliser),
    ]
  )


def gemma_pieces(model: bytes, form: str) -> list[Piece]:
  """The pieces of a BPE model that treats text as Gemma's tokenizer does.

  Raises BadInput otherwise: `form` is the format that cannot express it.
  """
  given = parse(model)
  unused = next((p.text for p in given.pieces if p.type == UNUSED), None)
  faults = {
    f"it is a {given.kind} model, not bpe": given.kind != "bpe",
    "its normaliser changes characters": not given.identity,
    "it puts a space before each text": given.dummy_prefix,
    "it removes spaces": given.remove_extra_spaces,
    "it does not write spaces as U+2581": not given.escape_spaces,
    f"the piece {unused!r} is unused": unused is not None,
  }
  for fault, found in faults.items():
    if found:
      raise refusal(form, fault)
  return given.pieces


def refusal(form: str, fault: str) -> BadInput:
  """The error for a tokenizer that a format cannot hold."""
  return BadInput(
    f"{form} cannot hold this tokenizer: {fault}; train one with this package,"
    " or use a Gemma tokenizer"
  )


def _piece(data: bytes, number: int) -> Piece:
  fields = dict(_fields(data))
  try:
    text = fields.get(1, b"").decode()
  except UnicodeDecodeError:
    raise BadInput(f"piece {number} of the tokenizer is not UTF-8") from None
  return Piece(text, fields.get(2, 0.0), fields.get(3, NORMAL))


def _fields(data: bytes) -> Iterator[tuple[int, Any]]:
  """A message's (field number, value): an int, a float or bytes."""
  at = 0
  while at < len(data):
    tag, at = _varint(data, at)
    number, wire = tag >> 3, tag & 7
    if wire == 0:
      value, at = _varint(data, at)
    elif wire == 2:
      size, at = _varint(data, at)
      value, at = data[at : at + size], at + size
    elif wire == 5:
      value, at = struct.unpack_from("<f", data, at)[0], at + 4
    elif wire == 1:
      value, at = struct.unpack_from("<d", data, at)[0], at + 8
    else:
      raise BadInput(f"the tokenizer has a field of wire type {wire}")
    yield number, value


def _varint(data: bytes, at: int) -> tuple[int, int]:
  """A number at a position, and the position after it.

  It is in groups of seven bits, the lowest first.
  """
  value = shift = 0
  while True:
    byte = data[at]
    value |= (byte & 127) << shift
    at, shift = at + 1, shift + 7
    if byte < 128:
      return value, at


def _of_piece(piece: Piece) -> Iterator[bytes]:
  yield _text(1, piece.text)
  yield _to_varint(2 << 3 | 5) + struct.pack("<f", piece.score)
  yield _number(3, piece.type)


def _message(number: int, fields: Iterable[bytes]) -> bytes:
  return _bytes(number, b"".join(fields))


def _text(number: int, value: str) -> bytes:
  return _bytes(number, value.encode())


def _bytes(number: int, value: bytes) -> bytes:
  return _to_varint(number << 3 | 2) + _to_varint(len(value)) + value


def _number(number: int, value: int) -> bytes:
  return _to_varint(number << 3) + _to_varint(value)


def _to_varint(value: int) -> bytes:
  """A number as bytes that `_varint` reads."""
  found = bytearray()
  while value > 127:
    found.append(value & 127 | 128)
    value >>= 7
  return bytes((*found, value))
