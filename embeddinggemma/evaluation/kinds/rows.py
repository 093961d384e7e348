"""What rows of JSONL files hold besides single texts."""

import sys
from collections.abc import Callable, Set
from pathlib import Path
from typing import Any

from embeddinggemma.data import jsonl
from embeddinggemma.types import BadInput


def first(path: Path) -> dict[str, Any]:
  """The first row of a JSONL file; {} of an empty one."""
  _, row = next(jsonl.read_rows(path, ()), ("", {}))
  return row


def holds(keys: Callable[[], Set[str]], *names: str) -> bool:
  """Whether a file's first row has all of these fields."""
  return set(names) <= keys()


def texts(
  origin: str, row: dict[str, Any], field: str, least: int = 0
) -> list[str]:
  """A field that is a list of at least so many texts; BadInput names the line."""
  values = row.get(field)
  if not isinstance(values, list):
    raise BadInput(f"{origin}: {field!r} is not a list of texts")
  if len(values) < least:
    raise BadInput(f"{origin}: {field!r} has no text")
  try:
    return [jsonl.any_text(field, value) for value in values]
  except ValueError as error:
    raise BadInput(f"{origin}: {error}") from None


def number(origin: str, name: str, value: object) -> float:
  """A finite number; BadInput names the line."""
  if isinstance(value, int | float) and abs(value) <= sys.float_info.max:
    return float(value)
  raise BadInput(f"{origin}: {name!r} is not a finite number")


def label(origin: str, name: str, value: object) -> str:
  """A label, which is text or a whole number; BadInput names the line."""
  if isinstance(value, bool) or not isinstance(value, str | int):
    raise BadInput(f"{origin}: {name!r} is neither text nor a whole number")
  try:
    return jsonl.checked(name, str(value)).strip()
  except ValueError as error:
    raise BadInput(f"{origin}: {error}") from None
