"""What a model does not read of its input: counted, and said in every call.

That is the end of a text that is too long, and a title for which a prompt has
no place.

A call of a model warns by itself. Long work makes many calls, collects their
counts (`counted`), and warns once (`report`).
"""

import contextlib
import contextvars
import dataclasses
import sys
import warnings
from collections.abc import Iterator
from types import FrameType
from typing import Any

import numpy as np
from jaxtyping import Int

from embeddinggemma.types import Notice, Truncated

_PACKAGE = __name__.partition(".")[0]


@dataclasses.dataclass
class Counts:
  """How many of some texts were cut."""

  cut: int = 0
  of: int = 0
  longest: int = 0  # in tokens, before the cut
  max_length: int = 0
  untitled: int = 0  # titles that were left out

  def add(self, other: "Counts") -> None:
    """Counts other texts as well."""
    self.cut += other.cut
    self.of += other.of
    self.longest = max(self.longest, other.longest)
    self.max_length = max(self.max_length, other.max_length)
    self.untitled += other.untitled

  def as_json(self) -> dict[str, int]:
    """{"cut", "of", "longest", "max_length"}, for files."""
    names = ("cut", "of", "longest", "max_length")
    return {name: getattr(self, name) for name in names}

  def __str__(self) -> str:
    is_, was = ("is", "was") if self.cut == 1 else ("are", "were")
    texts = "text" if self.of == 1 else "texts"
    return (
      f"{self.cut} of {self.of} {texts} {is_} longer than"
      f" max_length={self.max_length} tokens and {was} cut; the longest has"
      f" {self.longest}"
    )


_collecting: contextvars.ContextVar[Counts | None] = contextvars.ContextVar(
  "collecting", default=None
)


def of_lengths(lengths: Int[np.ndarray, "n"], max_length: int) -> Counts:
  """Counts of texts by their tokens, prompt and special tokens included."""
  cut = int((lengths > max_length).sum())
  return Counts(cut, len(lengths), int(lengths.max(initial=0)), max_length)


@contextlib.contextmanager
def counted() -> Iterator[Counts]:
  """Collects what calls within cut, which then do not warn.

  What is to be said of it is `report`ed after the block.
  """
  counts = Counts()
  token = _collecting.set(counts)
  try:
    yield counts
  finally:
    _collecting.reset(token)


def report(counts: Counts) -> None:
  """Adds counts to those of the `counted` around, or else warns of them."""
  around = _collecting.get()
  if around is not None:
    around.add(counts)
    return
  if counts.cut:
    _warn(str(counts), Truncated)
  if counts.untitled:
    one = counts.untitled == 1
    _warn(
      f"{counts.untitled} {'title is' if one else 'titles are'} left out: the"
      " prompt has no place for titles, as 'document' has",
      Notice,
    )


def _warn(line: str, category: type[Notice]) -> None:
  """Warns at the caller's line, at every call.

  Python shows equal warnings of a line once: a registry of its own makes each
  call the first. All filters count as ever.
  """
  frame: FrameType | None = sys._getframe(1)
  while frame is not None and _is_ours(frame) and frame.f_back is not None:
    frame = frame.f_back
  place: Any = (frame.f_code.co_filename, frame.f_lineno) if frame else ("", 0)
  module = frame.f_globals.get("__name__") if frame else None
  warnings.warn_explicit(line, category, *place, module=module, registry=None)


def _is_ours(frame: FrameType) -> bool:
  """Whether a frame runs code of this package."""
  name = frame.f_globals.get("__name__") or ""
  return name == _PACKAGE or name.startswith(f"{_PACKAGE}.")
