"""The console of every verb: rich, without its ways to misread a name."""

import os
import shutil
from collections.abc import Iterable, Mapping
from typing import Any

from rich.console import Console, ConsoleOptions, RenderableType
from rich.segment import Segment
from rich.text import Text

from embeddinggemma.terminal import printable


class Terminal(Console):
  """A console for text that may come from files.

  Text is shown as it is: no markup ("[red]"), no emoji codes (":warning:"), no
  control characters. Lines are left to the terminal to wrap, so that a path can
  be copied and a pipe gets it whole.
  """

  def __init__(self, stderr: bool, quiet: bool = False):
    super().__init__(
      stderr=stderr,
      quiet=quiet,
      markup=False,
      emoji=False,
      highlight=False,
      soft_wrap=True,
      _environ=_environment(),
    )
    if self.is_dumb_terminal:  # whose COLUMNS rich does not read
      self.size = shutil.get_terminal_size()  # type: ignore

  @property
  def bounded(self) -> bool:
    """Whether lines have a width: not in a pipe or file, unless COLUMNS is set."""
    return self.is_terminal or "COLUMNS" in _environment()

  def render_str(self, text: str, **style: Any) -> Text:
    """A string as rich text; what it hides is seen and measured."""
    return super().render_str(printable.lines(text), **style)

  def render(
    self,
    renderable: RenderableType,
    options: ConsoleOptions | None = None,
  ) -> Iterable[Segment]:
    """The pieces of what is shown; only rich itself moves the cursor."""
    for piece in super().render(renderable, options):
      if piece.control:
        yield piece
      else:
        yield piece._replace(text=printable.lines(piece.text))


def _environment() -> Mapping[str, str]:
  """The environment, without a size that is none, as COLUMNS=0 of an editor."""
  is_odd = lambda text: not text.isdecimal() or int(text) == 0
  odd = {n for n in ("COLUMNS", "LINES") if is_odd(os.environ.get(n, "1"))}
  return {name: text for name, text in os.environ.items() if name not in odd}
