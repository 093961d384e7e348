"""Progress of long work: a bar, or a line every few seconds."""

import time
from types import TracebackType

import rich.progress
from rich.console import Console
from rich.table import Column

from embeddinggemma.terminal.printable import printable

_NARROW = 50  # columns; with fewer, figures take the place of name and time
_BESIDE = 64  # columns that name, figures and time take beside the bar
_BAR = range(8, 41)  # widths of a bar that are worth drawing


class Progress:
  """A bar on a terminal, a plain line every few seconds elsewhere."""

  def __init__(
    self, console: Console, name: str, total: int, every_seconds: float = 10.0
  ):
    self._console, self._name, self._total = console, printable(name), total
    self._drawn = console.is_terminal and not console.is_dumb_terminal
    self._every, self._last = every_seconds, 0.0
    self._pace: tuple[float, int] | None = None  # (time, done) to measure from
    self._bar = rich.progress.Progress(
      *_columns(console.width), console=console, disable=not self._drawn
    )
    self._task = self._bar.add_task(self._name, total=total, note="")

  def __enter__(self) -> "Progress":
    self._bar.start()
    return self

  def __exit__(
    self,
    kind: type[BaseException] | None,
    error: BaseException | None,
    trace: TracebackType | None,
  ) -> None:
    self._bar.stop()

  def start_at(self, done: int) -> None:
    """Set what an earlier call did, which does not count for the speed."""
    self._bar.update(self._task, completed=done)
    self._bar.reset(self._task, completed=done)

  def show_of(self, done: int, total: int) -> None:
    """Moves to `done` of a total that was not known before."""
    self._total = total
    self._bar.update(self._task, total=total)
    self.show(done, "")

  def show(self, done: int, note: str) -> None:
    """Moves to `done` of the total."""
    note = printable(note)
    self._bar.update(self._task, completed=done, note=note)
    now = time.perf_counter()
    ended = done == self._total
    early = now - self._last < self._every and not ended
    if self._drawn or early:
      return
    self._last = now
    self._console.print(
      f"{self._name}: {done}/{self._total}{note and ' '}{note}"
      f"{self._left(now, done)}",
      highlight=False,
      markup=False,
      emoji=False,
      soft_wrap=True,
    )

  def _left(self, now: float, done: int) -> str:
    """The time left, at the pace since the first report.

    Work before it includes compilation.
    """
    if self._pace is None or done <= self._pace[1]:
      self._pace = now, done
      return ""
    if done >= self._total:
      return ""
    began, first = self._pace
    seconds = (now - began) / (done - first) * (self._total - done)
    return f", {seconds:.0f} s left"


def _columns(width: int) -> list[rich.progress.ProgressColumn]:
  """What fits a terminal of a width; a long note is folded, not cropped."""
  folds = Column(overflow="fold", no_wrap=False)
  figures: list[rich.progress.ProgressColumn] = [
    rich.progress.MofNCompleteColumn(),
    rich.progress.TextColumn(
      "{task.fields[note]}", markup=False, table_column=folds
    ),
  ]
  if width < _NARROW:
    return figures
  bar = min(width - _BESIDE, _BAR[-1])
  return [
    rich.progress.TextColumn("{task.description:<12}", markup=False),
    *([rich.progress.BarColumn(bar)] if bar in _BAR else []),
    *figures,
    rich.progress.TimeRemainingColumn(),
  ]
