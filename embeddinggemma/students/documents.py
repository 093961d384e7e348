"""The texts of a file or folder: as an index cuts them, those of tables by rows.

A table whose columns are neither those of pairs nor of texts is left out, and
said to be: read as plain text, its lines would be taken for passages.
"""

import itertools
import pathlib
from collections.abc import Iterator, Sequence
from typing import Any

from embeddinggemma.data import jsonl, sources
from embeddinggemma.data.tables import fields, opening, places, rows
from embeddinggemma.retrieval import reading
from embeddinggemma.retrieval.measure import Measure
from embeddinggemma.types import BadInput

_NEITHER = "tables whose columns are neither those of pairs nor of texts"
_PROMPT = "the field 'prompt' of its rows"
_LOOKED_AT = 10  # rows that tell what a table holds, since one may be bad
# Of these an index has use as they are: source, settings, notes.
_ALSO_PLAIN = (".json", ".jsonl", ".ndjson")


def read(
  path: pathlib.Path,
  measure: Measure,
  excluded: Sequence[pathlib.Path] = (),
  skipped: list[str] | None = None,
) -> reading.Reading:
  """The chunks of a path, file by file, and what was left out why.

  Args:
    path: a file or a folder.
    measure: of the model that is to read the chunks.
    excluded: folders below it that are not looked at.
    skipped: gets a message for each bad row; None: the first one raises.

  Raises:
    BadInput: a row is bad, or there is nothing but tables that are not
      understood, whose fault is told.
  """
  of_texts = lambda file: reading.of_rows(file, _rows(file, skipped), measure)
  if path.is_file():
    if _is_table(path) and has_texts(path):
      return reading.Reading([of_texts(path)], {})
    return reading.read(path, measure=measure)
  told: list[pathlib.Path] = []
  odd: list[pathlib.Path] = []
  left_out: dict[str, str] = {}
  for file in filter(_is_table, visible(path, excluded)):
    first, name = _first(file), str(file.relative_to(path))
    if _have_text(first):
      told.append(file)
      if any(row.get("prompt") for row in first):
        left_out[name] = _PROMPT
    elif opening.bare_suffix(file) not in _ALSO_PLAIN:
      odd.append(file)
      left_out[name] = _NEITHER
  whole = reading.read(path, [*told, *odd, *excluded], None, measure)
  of_rows = [of_texts(file) for file in told]
  if odd and not (whole.files or of_rows):
    sources.read_pairs(path)  # which says what is wrong with them
  return reading.Reading(
    [*whole.files, *of_rows], {**whole.skipped, **left_out}
  )


def has_texts(file: pathlib.Path) -> bool:
  """Whether one of the first rows of a table has a text of its own."""
  return _have_text(_first(file))


def _have_text(first: Sequence[dict[str, Any]]) -> bool:
  return any(isinstance(row.get("text"), str) for row in first)


def visible(
  root: pathlib.Path, excluded: Sequence[pathlib.Path] = ()
) -> Iterator[pathlib.Path]:
  """The files of a folder in order, without hidden, made and excluded ones."""
  away = [path.resolve() for path in excluded]
  for path in sorted(root.rglob("*")):
    parts = path.relative_to(root).parts
    hidden = any(
      part.startswith(".") or part in reading.GENERATED for part in parts
    )
    if hidden or not path.is_file():
      continue
    if not any(folder in path.resolve().parents for folder in away):
      yield path


def _is_table(file: pathlib.Path) -> bool:
  return opening.bare_suffix(file) in places.READERS


def _first(file: pathlib.Path) -> list[dict[str, Any]]:
  """The first rows of a table that can be read."""
  try:
    found = places.reader_of(file)(file, fields.parse(""), lambda line: None)
    few = list(itertools.islice(found, _LOOKED_AT))
  except BadInput:  # no table, whatever its name
    return []
  return [x.row for x in few if isinstance(x.row, dict)]


def _rows(
  file: pathlib.Path, skipped: list[str] | None
) -> Iterator[tuple[int, str, str]]:
  """(number, title, text) of a table's rows; bad ones as `read` has them."""
  for row in places.reader_of(file)(file, fields.parse(""), lambda line: None):
    try:
      if isinstance(row.row, ValueError):
        raise row.row
      if "text" not in row.row:
        raise ValueError("no field 'text'")
      text = jsonl.checked("text", row.row["text"])
      title = jsonl.optional_text("title", row.row.get("title"))
    except ValueError as error:
      line = f"{rows.origin(file, row.number)}: {error}"
      if skipped is None:
        raise BadInput(line) from None
      skipped.append(line)
      continue
    yield row.number, title, text
