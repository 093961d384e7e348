"""The texts that a vocabulary is to serve, each with a label."""

import collections
import pathlib
from collections.abc import Callable
from typing import Any, NamedTuple

from embeddinggemma.data import sources, text
from embeddinggemma.data.tables import opening, places
from embeddinggemma.retrieval.measure import BY_CHARACTERS
from embeddinggemma.students import documents
from embeddinggemma.types import BadInput

_FEW = 30  # files that have a label each; of more, each kind of file has one
_KINDS = ("*.jsonl", "*.txt")

Say = Callable[[str], Any]


class Texts(NamedTuple):
  """Texts and their labels: task and language, or the file."""

  texts: list[str]
  labels: list[str]


def read(
  path: pathlib.Path,
  skip_bad_rows: bool = False,
  fields: str = "",
  say: Say = lambda line: None,
) -> Texts:
  """The distinct texts of pairs, or those of a folder or file of texts.

  Args:
    path: pairs, as training reads them; or nothing but *.jsonl ({"text",
      "title"?}) and *.txt, of which a row or line is a text; or what `documents`
      reads.
    skip_bad_rows: leave bad rows out, and say which.
    fields: of pairs, which column is what, as --fields has it.
    say: called with notes on what was read.

  Raises BadInput for a bad row, and if there is no text.
  """
  if fields or sources.has_pairs(path, fields):
    return _of_pairs(path, skip_bad_rows, fields, say)
  if path.is_file() and opening.bare_suffix(path) in places.READERS:
    if not documents.has_texts(path):
      return _of_pairs(path, skip_bad_rows, fields, say)  # or why it is none
  if path.exists() and not _has_rows(path):
    return _of_documents(path, skip_bad_rows, say)
  skipped: list[str] = []
  rows = list(text.read_texts(path, skip_bad_rows, skipped))
  for line in skipped:
    say(f"skipped {line}")
  files = [origin.rpartition(":")[0] for origin, _ in rows]
  return _labelled([found for _, found in rows], files, path)


def _has_rows(path: pathlib.Path) -> bool:
  """Whether a path has files of texts, a text a row, and nothing else."""
  try:
    found = text.text_files(path)
  except BadInput:
    return False
  files = list(documents.visible(path)) if path.is_dir() else [path]
  return bool(found) and {x.suffix for x in files} <= {".jsonl", ".txt"}


def _of_pairs(
  path: pathlib.Path, skip_bad_rows: bool, fields: str, say: Say
) -> Texts:
  pairs, skipped = sources.read_pairs(path, skip_bad_rows, fields, say)
  for line in skipped:
    say(f"skipped {line}")
  known: dict[str, str] = {}
  for pair in pairs:
    label = f"{pair.task} {pair.lang}".strip()
    for found in text.sides(pair):
      known.setdefault(found, label)
  return Texts(list(known), list(known.values()))


def _of_documents(path: pathlib.Path, skip_bad_rows: bool, say: Say) -> Texts:
  """The chunks of a folder's documents."""
  skipped: list[str] | None = [] if skip_bad_rows else None
  found = documents.read(path, BY_CHARACTERS, (), skipped)
  for line in skipped or ():
    say(f"skipped {line}")
  if not found.chunks:
    raise BadInput(
      f"{path} holds no text: neither pairs nor {' and '.join(_KINDS)}, nor"
      " documents that `index` reads"
    )
  kinds = collections.Counter(pathlib.Path(x.path).suffix for x in found.files)
  named = (f"{many} {kind or 'without suffix'}" for kind, many in kinds.items())
  reasons = (f"; {len(x)} left out: {why}" for why, x in found.reasons.items())
  say(f"documents of {path}: {', '.join(named)}{''.join(reasons)}")
  files = [file.path for file in found.files for _ in file.chunks]
  return _labelled([chunk.text for chunk in found.chunks], files, path)


def _labelled(texts: list[str], files: list[str], path: pathlib.Path) -> Texts:
  """Texts labelled by their file, or by its kind where there are many."""
  names = {name: pathlib.Path(name) for name in files}
  if len(names) > _FEW:
    labels = {name: place.suffix or place.name for name, place in names.items()}
  else:
    labels = {name: _inside(place, path) for name, place in names.items()}
  return Texts(texts, [labels[name] for name in files])


def _inside(file: pathlib.Path, folder: pathlib.Path) -> str:
  """The path of a file in a folder."""
  if file.is_relative_to(folder) and file != folder:
    return file.relative_to(folder).as_posix()
  return file.as_posix()
