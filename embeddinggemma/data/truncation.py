"""What a model does not read of its input: counted, and said in every call.

That is the end of a text that is too long, and a title for which a prompt has
no place. What it reads byte by byte is counted too; see data/coverage.py.

A call of a model warns by itself. Long work makes many calls, collects their
counts (`counted`), and warns once (`report`).
"""

import contextlib
import contextvars
import dataclasses
from collections.abc import Iterator

import numpy as np
from jaxtyping import Int

from embeddinggemma.terminal.warn import warn
from embeddinggemma.types import Notice, Truncated


@dataclasses.dataclass
class Counts:
  """How many of some texts were cut."""

  cut: int = 0
  of: int = 0
  longest: int = 0  # in tokens, before the cut
  max_length: int = 0
  untitled: int = 0  # titles that were left out
  bytes: int = 0  # tokens of a single byte, for want of a piece
  tokens: int = 0

  def add(self, other: "Counts") -> None:
    """Counts other texts as well."""
    self.cut += other.cut
    self.of += other.of
    self.longest = max(self.longest, other.longest)
    self.max_length = max(self.max_length, other.max_length)
    self.untitled += other.untitled
    self.bytes += other.bytes
    self.tokens += other.tokens

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
    warn(str(counts), Truncated)
  if counts.untitled:
    one = counts.untitled == 1
    warn(
      f"{counts.untitled} {'title is' if one else 'titles are'} left out: the"
      " prompt has no place for titles, as 'document' has",
      Notice,
    )
