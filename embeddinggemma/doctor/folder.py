"""A check of a sentence-transformers folder as other programs read it.

`load` refuses most faulty folders; but it reads tokenizer.model, while other
programs read tokenizer.json and its settings.
"""

import pathlib
from collections.abc import Sequence

import numpy as np
import tokenizers

from embeddinggemma.convert import folder as folders
from embeddinggemma.data.tokenizer import Tokenizer
from embeddinggemma.doctor.opened import Finding
from embeddinggemma.types import BadInput

_IDS, _SETTINGS = "tokenizer.json", "tokenizer_config.json"
_ENDS = ("add_bos_token", "add_eos_token")


def check_folder(
  path: pathlib.Path, tokenizer: Tokenizer, texts: Sequence[str]
) -> Finding:
  """Check that tokenizer.json gives the same ids as tokenizer.model."""
  try:
    reason, fix = _fault(path, tokenizer, texts)
  except BadInput as error:
    reason, fix = str(error), "export the folder again"
  if reason:
    return Finding("folder", False, reason, fix)
  has = folders.has(path, _IDS)
  said = f"{_IDS} gives our ids for {len(texts)} texts" if has else f"no {_IDS}"
  return Finding("folder", True, said)


def _fault(
  path: pathlib.Path, tokenizer: Tokenizer, texts: Sequence[str]
) -> tuple[str, str]:
  """(reason, fix), or two empty strings."""
  settings = folders.read_json(path, _SETTINGS)
  for key in _ENDS:
    if settings.get(key) is not True:
      return (
        f"{_SETTINGS}: {key} is missing or false; transformers 4 then leaves"
        " that token out",
        f"set {key} to true",
      )
  if not folders.has(path, _IDS):
    return "", ""
  theirs = _read(folders.inside(path, _IDS))
  for text in texts:
    ours = tokenizer.encode(text)
    found = np.array(theirs.encode(text).ids)
    if not np.array_equal(found, ours):
      return (
        f"{_IDS} gives {text[:20]!r} the ids {_short(found)}, tokenizer.model"
        f" {_short(ours)}",
        f"take both files from one model; {_IDS} adds BOS and EOS in its"
        " post_processor",
      )
  return "", ""


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
