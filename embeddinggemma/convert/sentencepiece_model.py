"""Read and write SentencePiece models: pieces, and treatment of text."""

import functools
from typing import NamedTuple

from embeddinggemma.data import sentencepiece_file
from embeddinggemma.data.sentencepiece_file import UNUSED
from embeddinggemma.data.tokenizer import BOS, EOS, PAD, UNK, Tokenizer
from embeddinggemma.types import BadInput

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


@functools.lru_cache(maxsize=1)  # a tenth of a second, for 262,144 pieces
def parse(model: bytes) -> SentencePieceModel:
  """Read a model file; BadInput if it is invalid or without Gemma's ids."""
  Tokenizer(model)
  read = sentencepiece_file.Model.FromString(model)
  normaliser = read.normalizer_spec
  return SentencePieceModel(
    [
      Piece(_text(piece.piece, n), piece.score, piece.type)
      for n, piece in enumerate(read.pieces)
    ],
    KINDS.get(read.trainer_spec.model_type, "unknown"),
    not normaliser.precompiled_charsmap,
    normaliser.add_dummy_prefix,
    normaliser.remove_extra_whitespaces,
    normaliser.escape_whitespaces,
  )


def serialise(model: SentencePieceModel) -> bytes:
  """A model file with these fields, Gemma's control ids and byte fallback.

  It is the inverse of `parse`. The control pieces' names are taken from their
  ids, since the processor looks them up by name.
  """
  kinds = {name: number for number, name in KINDS.items()}
  made = sentencepiece_file.Model()
  for piece in model.pieces:
    made.pieces.add(
      piece=piece.text.encode(), score=piece.score, type=piece.type
    )
  trainer, normaliser = made.trainer_spec, made.normalizer_spec
  trainer.model_type = kinds[model.kind]
  trainer.vocab_size = len(model.pieces)
  trainer.byte_fallback = True
  for name, n in {"unk": UNK, "bos": BOS, "eos": EOS, "pad": PAD}.items():
    setattr(trainer, f"{name}_id", n)
    setattr(trainer, f"{name}_piece", model.pieces[n].text.encode())
  normaliser.name = b"identity"
  normaliser.add_dummy_prefix = model.dummy_prefix
  normaliser.remove_extra_whitespaces = model.remove_extra_spaces
  normaliser.escape_whitespaces = model.escape_spaces
  return made.SerializeToString()


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


def _text(data: bytes, number: int) -> str:
  try:
    return data.decode()
  except UnicodeDecodeError:
    raise BadInput(f"piece {number} of the tokenizer is not UTF-8") from None
