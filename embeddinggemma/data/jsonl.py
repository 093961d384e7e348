"""Read and write JSONL; an error in a user's file names FILE:LINE."""

import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from embeddinggemma.types import BadInput


def parse_row(
  line: bytes,
  fields: Sequence[str],
  optional: Sequence[str] = (),
  check: Callable[[str, Any], str] | None = None,
) -> dict[str, Any]:
  """Parse a JSONL line into a dict in which `fields` are texts.

  White space in texts is kept. `fields` must hold more than white space unless
  another `check` is given; `optional` fields may be missing, null or blank, and
  are then "". Raises ValueError with the reason for any other line.
  """
  check = check or checked
  outermost: list[tuple[str, Any]] = []  # of the objects, which ends last

  def objects(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    outermost[:] = pairs
    return dict(pairs)

  row = parse_json(line, objects)
  if not isinstance(row, dict):
    raise ValueError(f"not a JSON object but {type(row).__name__}")
  unique([pair for pair in outermost if pair[0] in (*fields, *optional)])
  for field in fields:
    if field not in row:
      raise ValueError(f"no field {field!r}")
    row[field] = check(field, row[field])
  for field in optional:
    row[field] = optional_text(field, row.get(field))
  return row


class Twice(ValueError):
  """A JSON object that has a key with two values, of which one would be lost."""


def unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
  """The object of a decoder's pairs; Twice if a key has two values."""
  found = dict(pairs)
  for name, value in pairs if len(found) < len(pairs) else ():
    if value != found[name]:
      raise Twice(f"the field {name!r} comes twice, with two values")
  return found


def parse_json(
  line: bytes,
  objects: Callable[[list[tuple[str, Any]]], dict[str, Any]] = unique,
) -> Any:
  """The JSON value of a line; ValueError with the reason if it is none.

  `objects` makes an object of its names and values.
  """
  if not line.strip():
    raise ValueError("empty line")
  try:
    return json.loads(line.decode("utf-8"), object_pairs_hook=objects)
  except UnicodeDecodeError as error:
    raise ValueError(f"not UTF-8 (byte {error.start + 1})") from None
  except Twice:
    raise
  except (ValueError, RecursionError) as error:
    comma = line.rstrip().endswith((b"},", b"],"))
    hint = "; take away the comma at its end" if comma else ""
    raise ValueError(f"not JSON ({error}){hint}") from None


def read_rows(
  path: Path,
  fields: Sequence[str],
  optional: Sequence[str] = (),
  check: Callable[[str, Any], str] | None = None,
) -> Iterator[tuple[str, dict[str, Any]]]:
  """(FILE:LINE, row) of a JSONL file; BadInput at the first bad line."""
  for origin, line in read_lines(path):
    try:
      yield origin, parse_row(line, fields, optional, check)
    except ValueError as error:
      raise BadInput(f"{origin}: {error}") from None


def read_lines(path: Path) -> Iterator[tuple[str, bytes]]:
  """(FILE:LINE, bytes) of each line; a byte order mark is dropped."""
  with path.open("rb") as file:
    for number, line in enumerate(file, 1):
      if number == 1:
        line = line.removeprefix(b"\xef\xbb\xbf")
      yield f"{path}:{number}", line


def without_end(line: bytes) -> bytes:
  """The line without its line terminator; other white space is kept."""
  return line.removesuffix(b"\n").removesuffix(b"\r")


def any_text(field: str, value: Any) -> str:
  """The value if it is a text, even a blank one; else ValueError."""
  if not isinstance(value, str):
    raise ValueError(f"{field!r} is not text but {type(value).__name__}")
  if not value.isascii():
    try:
      value.encode("utf-8")
    except UnicodeEncodeError:
      raise ValueError(f"{field!r} holds half a surrogate pair") from None
  return value


def checked(field: str, value: Any) -> str:
  """The value if it is a text with more than white space; else ValueError."""
  text = any_text(field, value)
  if not text or text.isspace():
    raise ValueError(f"{field!r} is empty")
  return text


def optional_text(field: str, value: Any) -> str:
  """Like `checked`, but null and white space become an empty text."""
  nothing = value is None or (isinstance(value, str) and not value.strip())
  return "" if nothing else checked(field, value)


def write_jsonl(path: Path, rows: Sequence[Mapping[str, Any]]) -> None:
  """Write one JSON object a line; missing parent folders are created."""
  path.parent.mkdir(parents=True, exist_ok=True)
  lines = [json.dumps(row, ensure_ascii=False) + "\n" for row in rows]
  write_text(path, "".join(lines))


def write_text(path: Path, text: str) -> None:
  """Writes UTF-8 with plain newlines on every platform."""
  path.write_text(text, encoding="utf-8", newline="\n")
