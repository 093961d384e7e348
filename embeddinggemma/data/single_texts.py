"""Texts without a partner: texts.jsonl, from which only distillation learns.

A row is {"text", "prompt", "title"}. The prompt is the name of one of
`prompts.PROMPTS`, by default that of a document, with which alone a title goes.
"""

import array
import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import IO, Any, SupportsIndex

from embeddinggemma.data import jsonl, prompts
from embeddinggemma.data.tables import columns, opening, rows
from embeddinggemma.data.tables.fields import Fields
from embeddinggemma.types import BadInput, SingleText

FILE = "texts.jsonl"
_FIELDS = ("text", "prompt", "title")


def find(path: Path, fields: Fields) -> list[Path]:
  """The files of single texts at a path: texts.jsonl, or */texts.jsonl too.

  They may be packed. A file of that name whose rows are pairs is none of them.

  Args:
    path: a file or a folder.
    fields: what --fields says of pairs.
  """
  near = [path]
  if path.is_dir():
    below = (sorted(path.glob(f"{folder}{FILE}*")) for folder in ("", "*/"))
    near = [file for files in below for file in files]
  return [file for file in near if _is_one(file, fields)]


def _is_one(path: Path, fields: Fields) -> bool:
  named = path.name in (FILE, *(FILE + end for end in opening.PACKED))
  if not (named and path.is_file()):
    return False
  try:
    found = rows.json_lines(path, fields, lambda line: None)
    good = (x.row for x in found if not isinstance(x.row, ValueError))
    first = next(good, None)
  except BadInput:
    return False
  if first is None:
    return False
  return "text" in first and not columns.is_understood(first, fields)


def read(
  files: Sequence[Path], skipped: list[str] | None, others: set[str]
) -> Iterator[SingleText]:
  """The texts of the files that `find` found, checked.

  Args:
    files: their paths.
    skipped: gets a message for each bad row; None: the first one raises
      BadInput, as FILE:LINE: reason.
    others: gets the names of fields that are not read.
  """
  for path in files:
    for found in rows.json_lines(path, Fields(), lambda line: None):
      origin = rows.origin(path, found.number)
      try:
        if isinstance(found.row, ValueError):
          raise found.row
        yield _single_text(found.row, origin)
        others |= found.row.keys() - {*_FIELDS}
      except ValueError as error:
        if skipped is None:
          raise BadInput(f"{origin}: {error}") from None
        skipped.append(f"{origin}: {error}")


def _single_text(row: dict[str, Any], origin: str) -> SingleText:
  """A row's text; ValueError with the reason if it has none."""
  if "text" not in row:
    raise ValueError(f"no field 'text'; found: {columns.found(row)}")
  text = jsonl.checked("text", row["text"])
  title = jsonl.optional_text("title", row.get("title"))
  prompt = jsonl.optional_text("prompt", row.get("prompt")) or "document"
  try:
    words = prompts.prompt_named(prompt)
  except BadInput as error:
    raise ValueError(str(error)) from None
  if title and words != prompts.DOCUMENT:
    raise ValueError(
      f"a title goes with the prompt 'document', and this is {prompt!r}; leave"
      " it out, or put it into the text"
    )
  return SingleText(text, prompt, title, origin)


def write_row(file: IO[str], text: SingleText) -> None:
  """Append a text to an open texts.jsonl."""
  row = {key: getattr(text, key) for key in _FIELDS}
  kept = {key: value for key, value in row.items() if value}
  file.write(json.dumps(kept, ensure_ascii=False) + "\n")


# A bare Sequence, as `Pairs` is.
class Texts(Sequence):
  """The texts of a file that `write_row` wrote, read when they are asked for."""

  def __init__(self, path: Path) -> None:
    self._path = path
    self._places = array.array("Q", [0])
    if path.is_file():
      with path.open("rb") as file:
        for line in file:
          self._places.append(self._places[-1] + len(line))

  def __len__(self) -> int:
    return len(self._places) - 1

  def __iter__(self) -> Iterator[SingleText]:
    if len(self):
      yield from read([self._path], None, set())

  def __getitem__(self, row: SupportsIndex) -> SingleText:  # type: ignore
    place = range(len(self))[row]
    with self._path.open("rb") as file:
      file.seek(self._places[place])
      return _single_text(jsonl.parse_json(file.readline()), self.origin(place))

  def origin(self, row: int) -> str:
    """Where a text comes from, as its `origin` says."""
    return rows.origin(self._path, row + 1)
