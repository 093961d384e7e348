"""Observers of training: metrics on disk, and what the terminal shows."""

import json
import math
import pathlib
from collections.abc import Callable
from typing import IO, Any

from embeddinggemma.losses import collapse, objectives
from embeddinggemma.progress import Progress
from embeddinggemma.training.fit import Observer, StepInfo

METRICS = "metrics.jsonl"
# What differs much between tasks has a curve for each in TensorBoard too.
_BY_TASK = ("loss", "accuracy")


def row_of(info: StepInfo) -> dict[str, Any]:
  """A line of metrics.jsonl; `tokens` does not count padding.

  A metric of which the batch has none, such as the accuracy of pairs without a
  negative, is None, and so is the loss of a batch that moved nothing.
  """
  loaded = info.loaded
  metrics: dict[str, float | None] = {
    name: None if math.isnan(value) else value
    for name, value in info.metrics.items()
  }
  if metrics.pop(objectives.IDLE, False):
    metrics["loss"] = None
  return {
    "step": info.step,
    "task": loaded.task,
    **metrics,
    "tokens": loaded.tokens,
    "tokens_per_s": round(loaded.tokens / max(info.seconds, 1e-9), 1),
    "seconds": round(info.seconds, 6),
    "data_wait_s": round(info.waited, 6),
    "padding": round(1 - loaded.tokens / loaded.capacity, 6),
    "rows": loaded.rows.tolist(),
  }


class MetricsLog:
  """Writes metrics.jsonl and TensorBoard events in the workdir.

  It also says, once, when vectors collapse. When training resumes at `start`,
  lines of later steps are dropped first, and the alarm knows the others.
  """

  def __init__(
    self,
    workdir: pathlib.Path,
    start: int,
    alarm: collapse.Alarm,
    say: Callable[[str], None],
  ):
    import tensorboardX

    path = workdir / METRICS
    kept = [row for row in read_metrics(path) if row["step"] <= start]
    self._alarm, self._say = alarm, say
    for row in kept:
      alarm(row)
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
    if words := self._alarm(row):
      row[collapse.KEY] = words
      self._say(f"warning: {words}")
    self._file.write(json.dumps(row) + "\n")
    self._file.flush()
    for name, value in row.items():
      if isinstance(value, int | float) and name != "step":
        self._events.add_scalar(name, value, info.step)
    for name in _BY_TASK:
      if row.get(name) is not None:
        self._events.add_scalar(f"{name}/{row['task']}", row[name], info.step)

  def close(self) -> None:
    """Close both files."""
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


def progress_observer(progress: Progress) -> Observer:
  """An observer that shows loss, accuracy and tokens per second on a bar.

  All are running means in which a step weighs a tenth, which the loss says;
  steps without one leave it as it is.
  """
  smooth: dict[str, float] = {}

  def observe(info: StepInfo) -> None:
    row = row_of(info)
    compiled = not smooth  # the first step compiles: no speed to speak of
    for name in ("loss", "accuracy", "tokens_per_s"):
      value = row.get(name)
      if value is not None:
        smooth[name] = 0.9 * smooth.get(name, value) + 0.1 * value
    note = "no loss: no pair has a negative"
    if "loss" in smooth:
      note = f"loss {smooth['loss']:.3f} (smoothed)"
    if "accuracy" in smooth:
      note += f" accuracy {smooth['accuracy']:.2f}"
    if compiled:
      del smooth["tokens_per_s"]
    else:
      note += f" {smooth['tokens_per_s'] / 1000:.1f}k tokens/s"
    progress.show(info.step, note)

  return observe
