"""tokenizer.json of a SentencePiece model in Gemma's manner."""

from typing import Any

import tokenizers
from sentencepiece import sentencepiece_model_pb2
from tokenizers import decoders, models, normalizers, pre_tokenizers, processors

_SPACE = "\u2581"  # how SentencePiece writes a space
_UNKNOWN, _CONTROL, _USER = 2, 3, 4  # types of pieces; 1 is a normal one
_SPECIAL = (_UNKNOWN, _CONTROL)


def tokenizer_json(model: bytes) -> bytes:
  """The tokenizer of Hugging Face that gives the ids of a SentencePiece model.

  A text gets BOS and EOS around it.
  """
  pieces = _pieces(model)
  vocab = {piece.piece: n for n, piece in enumerate(pieces)}
  tokenizer = tokenizers.Tokenizer(
    models.BPE(
      vocab,
      _merges(pieces, vocab),
      fuse_unk=True,
      unk_token="<unk>",
      byte_fallback=True,
    )
  )
  tokenizer.normalizer = normalizers.Replace(" ", _SPACE)
  tokenizer.pre_tokenizer = pre_tokenizers.Split(" ", "merged_with_previous")
  tokenizer.decoder = decoders.Sequence(
    [decoders.Replace(_SPACE, " "), decoders.ByteFallback(), decoders.Fuse()]
  )
  added = [_added(piece) for piece in pieces if piece.type != 1]
  tokenizer.add_special_tokens([t for t in added if t and t.special])
  tokenizer.add_tokens([t for t in added if t and not t.special])
  tokenizer.post_processor = processors.TemplateProcessing(
    single="<bos> $A <eos>",
    pair="<bos> $A <eos> <bos> $B <eos>",
    special_tokens=[("<bos>", 2), ("<eos>", 1)],
  )
  return tokenizer.to_str().encode()


def tokenizer_config(model: bytes, max_length: int) -> dict[str, Any]:
  """tokenizer_config.json beside it."""
  added = {
    str(n): {
      "content": token.content,
      "lstrip": False,
      "normalized": token.normalized,
      "rstrip": False,
      "single_word": False,
      "special": token.special,
    }
    for n, piece in enumerate(_pieces(model))
    if (token := _added(piece))
  }
  return {
    "tokenizer_class": "GemmaTokenizer",
    "add_bos_token": True,
    "add_eos_token": True,
    "bos_token": "<bos>",
    "eos_token": "<eos>",
    "pad_token": "<pad>",
    "unk_token": "<unk>",
    "padding_side": "right",
    "model_max_length": max_length,
    "clean_up_tokenization_spaces": False,
    "added_tokens_decoder": added,
  }


def _pieces(model: bytes) -> list[Any]:
  read = getattr(sentencepiece_model_pb2, "ModelProto")  # noqa: B009 (made at run time)
  return list(read.FromString(model).pieces)


def _added(piece: Any) -> tokenizers.AddedToken | None:
  """Control pieces, and users' own; runs of spaces are matched as normalised."""
  if piece.type in _SPECIAL:
    return tokenizers.AddedToken(piece.piece, special=True, normalized=False)
  if piece.type != _USER:
    return None
  spaces = not piece.piece.strip(_SPACE)
  return tokenizers.AddedToken(piece.piece, special=False, normalized=spaces)


def _merges(pieces: list[Any], vocab: dict[str, int]) -> list[tuple[str, str]]:
  found = []
  for n, piece in enumerate(pieces):
    text = piece.piece
    if piece.type != 1:
      continue
    for cut in range(1, len(text)):
      left, right = text[:cut], text[cut:]
      if left in vocab and right in vocab:
        found.append((-piece.score, n, vocab[left], vocab[right], left, right))
  return [row[4:] for row in sorted(found)]
