"""Write a SentencePiece model as tokenizer.json of the library `tokenizers`.

transformers, sentence-transformers and many servers read it. A text gets the
ids of our `Tokenizer`: BOS, its pieces, EOS. One difference is by design of
those libraries: the words <pad>, <eos>, <bos> and <unk> in a text. Our
`Tokenizer` treats them as any text, so that no text can end itself.
`tokenizers` reads them as control tokens; transformers reads them as text if
the config has `split_special_tokens`.
"""

from collections.abc import Iterator, Sequence
from typing import Any

import tokenizers
from tokenizers import decoders, models, normalizers, processors

from embeddinggemma.convert import sentencepiece_model
from embeddinggemma.convert.sentencepiece_model import Piece
from embeddinggemma.data.sentencepiece_file import (
  CONTROL,
  NORMAL,
  UNKNOWN,
  USER_DEFINED,
)
from embeddinggemma.data.tokenizer import BOS, EOS, PAD, UNK

_FORMAT = "tokenizer.json"
_SPACE = "\u2581"
_ADDED = {UNKNOWN: True, CONTROL: True, USER_DEFINED: False}  # type -> special


def tokenizer_json(model: bytes) -> bytes:
  """The bytes of tokenizer.json for a BPE model of Gemma's kind.

  Raises:
    BadInput: the model is of another kind, or the format cannot hold it.
  """
  pieces = _pieces(model)
  bpe = models.BPE(
    vocab={piece.text: n for n, piece in enumerate(pieces)},
    merges=_merges(pieces),
    unk_token=pieces[UNK].text,
    fuse_unk=True,
    byte_fallback=True,
  )
  made = tokenizers.Tokenizer(bpe)
  made.normalizer = normalizers.Replace(" ", _SPACE)
  made.decoder = decoders.Sequence(
    [decoders.Replace(_SPACE, " "), decoders.ByteFallback(), decoders.Fuse()]
  )
  added = _added_tokens(pieces).values()
  made.add_special_tokens([token for token in added if token.special])
  made.add_tokens([token for token in added if not token.special])
  bos, eos = pieces[BOS].text, pieces[EOS].text
  made.post_processor = processors.TemplateProcessing(
    single=f"{bos} $A {eos}",
    pair=f"{bos} $A {eos} {bos} $B {eos}",
    special_tokens=[(bos, BOS), (eos, EOS)],
  )
  return made.to_str(pretty=True).encode()


def tokenizer_config(model: bytes, max_length: int) -> dict[str, Any]:
  """The tokenizer_config.json beside it: what transformers reads on top.

  Without `add_eos_token` transformers 4 drops EOS; without `padding_side`
  version 5 pads on the left. The mask is a piece like any other: named here, it
  would count as a control token.

  Args:
    model: the SentencePiece model.
    max_length: tokens of a text, BOS and EOS included.
  """
  pieces = _pieces(model)
  flags = (
    "content",
    "lstrip",
    "normalized",
    "rstrip",
    "single_word",
    "special",
  )
  names = {"bos": BOS, "eos": EOS, "pad": PAD, "unk": UNK}
  return {
    "tokenizer_class": "GemmaTokenizer",
    **{f"{name}_token": pieces[n].text for name, n in names.items()},
    "mask_token": None,
    "add_bos_token": True,
    "add_eos_token": True,
    "padding_side": "right",
    "model_max_length": max_length,
    "clean_up_tokenization_spaces": False,
    "split_special_tokens": True,
    "added_tokens_decoder": {
      str(n): {flag: getattr(token, flag) for flag in flags}
      for n, token in _added_tokens(pieces).items()
    },
  }


def _pieces(model: bytes) -> list[Piece]:
  """The pieces of a model; BadInput for one that the format cannot hold."""
  pieces = sentencepiece_model.gemma_pieces(model, _FORMAT)
  if fault := _fault(pieces):
    raise sentencepiece_model.refusal(_FORMAT, fault)
  return pieces


def _fault(pieces: Sequence[Piece]) -> str:
  """Why merges by rank cannot express these pieces; "" if they can."""
  known = {p.text for p in pieces if p.type in (NORMAL, USER_DEFINED)}
  scores: dict[float, str] = {}
  for piece in pieces:
    if piece.type != NORMAL or len(piece.text) == 1:
      continue
    if lacking := set(piece.text) - known:
      return f"{piece.text!r} is a piece and its {min(lacking)!r} is none"
    other = scores.setdefault(piece.score, piece.text)
    if other != piece.text:
      return f"the pieces {other!r} and {piece.text!r} have one score"
  return ""


def _merges(pieces: Sequence[Piece]) -> list[tuple[str, str]]:
  """Every pair of pieces that forms a piece, in the order of merging.

  SentencePiece merges any two neighbours whose joint text is a normal piece,
  the highest score first; the format lists such pairs instead.
  """
  ids = {p.text: n for n, p in enumerate(pieces) if p.type == NORMAL}

  def pairs() -> Iterator[tuple[float, int, int]]:
    for text, n in ids.items():
      for cut in range(1, len(text)):
        left, right = ids.get(text[:cut]), ids.get(text[cut:])
        if left is not None and right is not None:
          yield -pieces[n].score, left, right

  return [(pieces[a].text, pieces[b].text) for _, a, b in sorted(pairs())]


def _added_tokens(pieces: Sequence[Piece]) -> dict[int, tokenizers.AddedToken]:
  """By id, the control tokens, and pieces that no merge may cross.

  The latter are searched for after spaces became U+2581 (`normalized`), or else
  runs of spaces, which are among them, would be missed.
  """
  return {
    n: tokenizers.AddedToken(
      p.text, special=_ADDED[p.type], normalized=not _ADDED[p.type]
    )
    for n, p in enumerate(pieces)
    if p.type in _ADDED
  }
