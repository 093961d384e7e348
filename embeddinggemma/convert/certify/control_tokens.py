"""How a runtime reads a control token's name that stands in a text.

Our tokenizer reads "<eos>" as five characters, so that a text that contains it
does not end there. llama.cpp's server reads the token, and so does
sentence-transformers, except in folders with split_special_tokens, such as our
exports. All read a vocabulary's user-defined pieces ("<start_of_turn>",
"<unused0>") as pieces.
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
  """A text that contains the name of a control token, or of another piece."""

  item: Item  # as our tokenizer reads it
  as_token: Int[np.ndarray, "_"]  # the ids if the name is read as the token


def words(job: Job) -> list[Word]:
  """One text per control token, and per some pieces that are none."""
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
  """Compare the runtime's vectors of the texts with both of ours.

  Returns {KEY: a row per text}, where `cosine` is to the vector of our ids and
  `cosine_as_token` to that with the token; {} for vectors of another width or
  that are not finite.
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
  """How the runtime reads them, for the certificate's line; or ""."""
  rows = found.get(KEY, ())
  if not rows:
    return ""
  taken = any(row["cosine_as_token"] > row["cosine"] for row in rows)
  return f'; "<eos>" in a text is {"the token" if taken else "text"}'
