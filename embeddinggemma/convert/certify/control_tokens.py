"""What a runtime makes of a control token that stands in a text as characters.

Ours reads "<eos>" as five characters: whoever types it, or quotes it from a
page, does not end the text. llama.cpp's server finds the token in it, and so
does sentence-transformers, save in folders that say split_special_tokens, as
those do that we export. A vocabulary's user-defined pieces ("<start_of_turn>",
"<unused0>") are taken for pieces by everyone, ours included.
"""

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Float, Int

from embeddinggemma import checkpoint
from embeddinggemma.convert.certify import golden
from embeddinggemma.convert.certify.golden import Item
from embeddinggemma.convert.write.exporting import Job
from embeddinggemma.data.tokenizer import BOS, EOS, PAD, UNK, Tokenizer

KEY = "control_tokens"  # of a certificate, on which no verdict rests
_BEFORE, _AFTER = "hi ", " bye"
_USER_DEFINED = ("<start_of_turn>", "<unused0>")


class Word(NamedTuple):
  """A text with such a word in it."""

  item: Item  # as our tokenizer reads it
  as_token: Int[np.ndarray, "_"]  # the ids if the word is its token


def words(job: Job) -> list[Word]:
  """A text with each control token, and with pieces that are none."""
  tokenizer = Tokenizer(job.files[checkpoint.TOKENIZER_FILE])
  pieces = {piece: n for n, piece in enumerate(tokenizer.pieces)}
  names = [tokenizer.pieces[n] for n in (PAD, EOS, BOS, UNK)]
  before, after = tokenizer.encode(_BEFORE)[:-1], tokenizer.encode(_AFTER)[1:]
  found = []
  for name in [*names, *(x for x in _USER_DEFINED if x in pieces)]:
    text = f"{_BEFORE}{name}{_AFTER}"
    as_token = np.array([*before, pieces[name], *after], np.int32)
    found.append(Word(Item(text, tokenizer.encode(text)), as_token))
  return found


def report(
  job: Job, asked: Sequence[Word], vectors: Float[np.ndarray, "n M"]
) -> dict[str, Any]:
  """The runtime's vectors of the texts beside both of ours: {KEY: a row each}.

  `cosine` is to the vector of our ids, `cosine_as_token` to that of the token.
  Nothing for vectors of another width or such that are not finite.
  """
  rows = [row for x in asked for row in (x.item.ids, x.as_token)]
  ours = golden.of_written(job, rows)
  if vectors.shape != ours[::2].shape or not np.isfinite(vectors).all():
    return {}
  norms = np.linalg.norm(vectors, axis=1, keepdims=True)
  theirs = vectors / np.maximum(norms, np.finfo(np.float32).tiny)
  as_text, as_token = (np.sum(theirs * ours[n::2], axis=1) for n in (0, 1))
  return {
    KEY: [
      {
        "text": word.item.text,
        "ids": word.item.ids.tolist(),
        "cosine": float(text),
        "cosine_as_token": float(token),
      }
      for word, text, token in zip(asked, as_text, as_token, strict=True)
    ]
  }


def summary(found: Mapping[str, Any]) -> str:
  """How the runtime reads them, for the certificate's line, or ""."""
  rows = found.get(KEY, ())
  if not rows:
    return ""
  taken = any(row["cosine_as_token"] > row["cosine"] for row in rows)
  return f'; "<eos>" in a text is {"the token" if taken else "text"}'
