"""Warnings at the line of the user's program that called this package."""

import sys
import warnings
from types import FrameType
from typing import Any

from embeddinggemma.terminal.printable import printable

_PACKAGE = __name__.partition(".")[0]


def warn(line: str, category: type[Warning]) -> None:
  """Warns at the caller's line, at every call.

  Python shows equal warnings of a line once: a registry of its own makes each
  call the first. All filters count as ever.
  """
  frame: FrameType | None = sys._getframe(1)
  while frame is not None and _is_ours(frame) and frame.f_back is not None:
    frame = frame.f_back
  place: Any = (frame.f_code.co_filename, frame.f_lineno) if frame else ("", 0)
  module = frame.f_globals.get("__name__") if frame else None
  said = printable(line)
  warnings.warn_explicit(said, category, *place, module=module, registry=None)


def _is_ours(frame: FrameType) -> bool:
  """Whether a frame runs code of this package."""
  name = frame.f_globals.get("__name__") or ""
  return name == _PACKAGE or name.startswith(f"{_PACKAGE}.")
