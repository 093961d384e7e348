"""Observers of training: metrics on disk, and what a person sees."""

import json
import pathlib
import time
from types import TracebackType
from typing import IO, Any

import rich.progress
from rich.console import Console

from embeddinggemma.training.fit import Observer, StepInfo

METRICS = "metrics.jsonl"


def row_of(info: StepInfo) -> dict[str, Any]:
  """One line of metrics.jsonl: tokens are real ones, padding is not counted."""
  loaded = info.loaded
  return {
    "step": info.step,
    "task": loaded.task,
    **info.metrics,
    "tokens": loaded.tokens,
    "tokens_per_s": round(loaded.tokens / max(info.seconds, 1e-9), 1),
    "seconds": round(info.seconds, 6),
    "data_wait_s": round(info.waited, 6),
    "padding": round(1 - loaded.tokens / loaded.capacity, 6),
    "rows": loaded.rows.tolist(),
  }


class MetricsLog:
  """metrics.jsonl and TensorBoard events in the workdir.

  On a resume, lines of steps that will be done again are dropped first.
  """

  def __init__(self, workdir: pathlib.Path, start: int):
    import tensorboardX

    path = workdir / METRICS
    kept = [row for row in read_metrics(path) if row["step"] <= start]
    text = "".join(json.dumps(row) + "\n" for row in kept)
    if path.is_file() and path.read_text() != text:
      partial = path.with_name(f"{path.name}.partial")
      partial.write_text(text)
      partial.replace(path)
    self._file: IO[str] = path.open("a")
    self._events = tensorboardX.SummaryWriter(
      str(workdir / "tensorboard"), purge_step=start or None
    )

  def __call__(self, info: StepInfo) -> None:
    row = row_of(info)
    self._file.write(json.dumps(row) + "\n")
    self._file.flush()
    for name, value in row.items():
      if isinstance(value, int | float) and name != "step":
        self._events.add_scalar(name, value, info.step)

  def close(self) -> None:
    """Ends both files."""
    self._file.close()
    self._events.close()


def read_metrics(path: pathlib.Path) -> list[dict]:
  """Rows of a metrics.jsonl; a last line that a kill cut short is dropped."""
  rows = []
  if path.is_file():
    for line in path.read_text().splitlines():
      try:
        rows.append(json.loads(line))
      except json.JSONDecodeError:
        break
  return rows


class Progress:
  """A bar on a terminal, a plain line every few seconds elsewhere."""

  def __init__(
    self, console: Console, name: str, total: int, every_seconds: float = 10.0
  ):
    self._console, self._name, self._total = console, name, total
    self._every, self._last = every_seconds, 0.0
    self._pace: tuple[float, int] | None = None  # counted from then and there
    columns = (
      rich.progress.TextColumn("{task.description:<12}"),
      rich.progress.BarColumn(),
      rich.progress.MofNCompleteColumn(),
      rich.progress.TextColumn("{task.fields[note]}"),
      rich.progress.TimeRemainingColumn(),
    )
    self._bar = rich.progress.Progress(
      *columns, console=console, disable=not console.is_terminal
    )
    self._task = self._bar.add_task(name, total=total, note="")

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
    """Counts what an earlier call did, without timing it."""
    self._bar.update(self._task, completed=done)
    self._bar.reset(self._task, completed=done)

  def show_of(self, done: int, total: int) -> None:
    """Moves to `done` of a total that was not known before."""
    self._total = total
    self._bar.update(self._task, total=total)
    self.show(done, "")

  def show(self, done: int, note: str) -> None:
    """Moves to `done` of the total."""
    self._bar.update(self._task, completed=done, note=note)
    now = time.perf_counter()
    ended = done == self._total
    early = now - self._last < self._every and not ended
    if self._console.is_terminal or early:
      return
    self._last = now
    self._console.print(
      f"{self._name}: {done}/{self._total}{note and ' '}{note}"
      f"{self._left(now, done)}",
      highlight=False,
      soft_wrap=True,
    )

  def _left(self, now: float, done: int) -> str:
    """The time left at the pace since the first report, which compiles."""
    if self._pace is None or done <= self._pace[1]:
      self._pace = now, done
      return ""
    if done >= self._total:
      return ""
    began, first = self._pace
    seconds = (now - began) / (done - first) * (self._total - done)
    return f", {seconds:.0f} s left"


def progress_observer(progress: Progress) -> Observer:
  """Shows loss (smoothed) and tokens/s (of the last steps) on a bar."""
  smooth: dict[str, float] = {}

  def observe(info: StepInfo) -> None:
    row = row_of(info)
    compiled = not smooth  # the first step compiles: no speed to speak of
    for name in ("loss", "tokens_per_s"):
      value = float(row[name])
      smooth[name] = 0.9 * smooth.get(name, value) + 0.1 * value
    note = f"loss {smooth['loss']:.3f}"
    if compiled:
      del smooth["tokens_per_s"]
    else:
      note += f" {smooth['tokens_per_s'] / 1000:.1f}k tokens/s"
    progress.show(info.step, note)

  return observe
