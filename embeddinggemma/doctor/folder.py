"""A check of a sentence-transformers folder as other programs read it.

`load` makes a SentencePiece model of what the folder's files say of its
tokenizer, and refuses what that cannot express; here the library that other
programs use is asked.
"""

import pathlib
from collections.abc import Mapping, Sequence

import numpy as np
import tokenizers

from embeddinggemma.convert import folder as folders
from embeddinggemma.convert import origin
from embeddinggemma.convert.card import model
from embeddinggemma.data import datasheet
from embeddinggemma.data.tokenizer import Tokenizer
from embeddinggemma.doctor.opened import Finding
from embeddinggemma.types import BadInput

_IDS = "tokenizer.json"


def check_folder(
  path: pathlib.Path,
  tokenizer: Tokenizer,
  texts: Sequence[str],
  notes: Sequence[str] = (),
) -> Finding:
  """Check that the folder's tokenizer.json gives the ids of `load`.

  `notes` are what was found when the folder was read.
  """
  said = "; ".join(notes)
  if not folders.has(path, _IDS):
    return Finding("folder", True, f"no {_IDS}", said)
  try:
    reason = _fault(folders.inside(path, _IDS), tokenizer, texts)
  except BadInput as error:
    reason = str(error)
  if reason:
    fix = f"take {_IDS} of the base model, or export the folder again"
    return Finding("folder", False, reason, fix)
  reason = f"{_IDS} gives our ids for {len(texts)} texts"
  return Finding("folder", True, reason, said)


def lost_of_card(
  path: pathlib.Path, prompts: Mapping[str, str]
) -> list[Finding]:
  """A note if an export's model card lost its licence or the model's prompts.

  The folder works without them, and whoever gets it lacks what they need to
  know. [] of a card that has both.
  """
  reason, fix = _lost(path, prompts), "take the README.md that it had"
  return [Finding("card", True, reason, fix)] if reason else []


def _lost(path: pathlib.Path, prompts: Mapping[str, str]) -> str:
  place = folders.inside(path, origin.CARD)
  if not place.is_file():
    return f"no {origin.CARD}, which names licence and prompts"
  if not datasheet.words(datasheet.of_readme(place).get("license")):
    return f"{origin.CARD} names no licence"
  told = model.prompts_in(place.read_text("utf-8", "replace"))
  for name in sorted(told):
    if prompts.get(name) != told[name]:
      ours = repr(prompts[name]) if name in prompts else "none"
      return (
        f"{origin.CARD} has the prompt {name!r} as {told[name]!r}, the model has"
        f" {ours}"
      )
  return ""


def _fault(
  path: pathlib.Path, tokenizer: Tokenizer, texts: Sequence[str]
) -> str:
  """The first text that gets other ids, in words; "" if there is none."""
  theirs = _read(path)
  theirs.no_truncation()
  theirs.no_padding()
  for text in texts:
    ours = tokenizer.encode(text)
    found = np.array(theirs.encode(text).ids)
    if not np.array_equal(found, ours):
      return (
        f"{_IDS} gives {text[:20]!r} the ids {_short(found)}, we {_short(ours)}"
      )
  return ""


def _read(path: pathlib.Path) -> tokenizers.Tokenizer:
  try:
    return tokenizers.Tokenizer.from_file(str(path))
  except Exception as error:  # the library has no exceptions of its own
    raise BadInput(f"{path} cannot be read: {error}") from None


def _short(ids: np.ndarray) -> str:
  """The first and the last ids, for a message."""
  if len(ids) <= 6:
    return str(ids.tolist())
  return (
    f"[{', '.join(map(str, ids[:3]))}, ..., {', '.join(map(str, ids[-3:]))}]"
  )
