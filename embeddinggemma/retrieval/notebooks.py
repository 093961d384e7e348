"""The cells of a Jupyter notebook (nbformat 3 and 4), without their outputs."""

import json
from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple

_BROKEN = "broken notebook"


class Cell(NamedTuple):
  """What was written into a cell; cells are numbered from 1."""

  number: int
  is_code: bool
  text: str


def cells(data: bytes) -> list[Cell]:
  """The cells that hold text; a heading cell of nbformat 3 becomes Markdown.

  Raises ValueError with the reason for what is no notebook.
  """
  try:
    tree = json.loads(data.decode("utf-8-sig"))
  except UnicodeDecodeError:
    raise ValueError("not UTF-8") from None
  except (ValueError, RecursionError):
    raise ValueError(_BROKEN) from None
  try:
    found = [
      Cell(number, cell["cell_type"] == "code", _text(cell))
      for number, cell in enumerate(_all(tree), 1)
    ]
  except (TypeError, LookupError):
    raise ValueError(_BROKEN) from None
  return [cell for cell in found if cell.text.strip()]


def _all(tree: Mapping[str, Any]) -> Iterator[Mapping[str, Any]]:
  if "cells" in tree:
    yield from tree["cells"]
    return
  for sheet in tree["worksheets"]:  # nbformat 3
    yield from sheet["cells"]


def _text(cell: Mapping[str, Any]) -> str:
  source = cell["input"] if "input" in cell else cell["source"]
  text = source if isinstance(source, str) else "".join(source)
  # A character outside Unicode's first plane may be in two halves, or in one.
  text = text.encode("utf-16", "surrogatepass").decode("utf-16", "replace")
  text = text.replace("\r\n", "\n").replace("\r", "\n")
  if cell["cell_type"] == "heading":
    level = cell.get("level", 1)
    return f"{'#' * min(max(level, 1), 6)} {text}"
  return text
