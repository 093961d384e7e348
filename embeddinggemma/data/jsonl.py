"""JSONL files that people wrote: every fault gets its FILE:LINE."""

import json
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from embeddinggemma.types import BadInput


def parse_row(
  line: bytes, fields: Sequence[str], optional: Sequence[str] = ()
) -> dict[str, Any]:
  """A JSONL line as a dict in which `fields` are texts; else ValueError.

  `optional` fields are texts too; one that is missing or null is empty.
  """
  if not line.strip():
    raise ValueError("empty line")
  try:
    row = json.loads(line.decode("utf-8"))
  except UnicodeDecodeError as error:
    raise ValueError(f"not UTF-8 (byte {error.start + 1})") from None
  except (ValueError, RecursionError) as error:
    raise ValueError(f"not JSON ({error})") from None
  if not isinstance(row, dict):
    raise ValueError(f"not a JSON object but {type(row).__name__}")
  for field in fields:
    if field not in row:
      raise ValueError(f"no field {field!r}")
    row[field] = checked(field, row[field])
  for field in optional:
    row[field] = optional_text(field, row.get(field))
  return row


def read_rows(
  path: Path, fields: Sequence[str], optional: Sequence[str] = ()
) -> Iterator[tuple[str, dict[str, Any]]]:
  """(FILE:LINE, row) of a JSONL file; BadInput at the first bad line."""
  for origin, line in read_lines(path):
    try:
      yield origin, parse_row(line, fields, optional)
    except ValueError as error:
      raise BadInput(f"{origin}: {error}") from None


def read_lines(path: Path) -> Iterator[tuple[str, bytes]]:
  """(FILE:LINE, bytes) of each line; a byte order mark is dropped."""
  with path.open("rb") as file:
    for number, line in enumerate(file, 1):
      if number == 1:
        line = line.removeprefix(b"\xef\xbb\xbf")
      yield f"{path}:{number}", line


def checked(field: str, value: Any) -> str:
  """The value as stripped text; ValueError names the field and the fault."""
  if not isinstance(value, str):
    raise ValueError(f"{field!r} is not text but {type(value).__name__}")
  text = value.strip()
  if not text:
    raise ValueError(f"{field!r} is empty")
  try:
    text.encode("utf-8")
  except UnicodeEncodeError:
    raise ValueError(f"{field!r} holds half a surrogate pair") from None
  return text


def optional_text(field: str, value: Any) -> str:
  """Like `checked`, but nothing (null, white space) is an empty text."""
  nothing = value is None or (isinstance(value, str) and not value.strip())
  return "" if nothing else checked(field, value)


def write_jsonl(path: Path, rows: Sequence[Mapping[str, Any]]) -> None:
  """Writes one object a line, and the folders above the file."""
  path.parent.mkdir(parents=True, exist_ok=True)
  lines = [json.dumps(row, ensure_ascii=False) + "\n" for row in rows]
  write_text(path, "".join(lines))


def write_text(path: Path, text: str) -> None:
  """Writes UTF-8 with plain newlines on every platform."""
  path.write_text(text, encoding="utf-8", newline="\n")
