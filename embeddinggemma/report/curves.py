"""Report section with training curves, stage by stage."""

import itertools
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from embeddinggemma.losses.objectives import WITHOUT_NEGATIVES
from embeddinggemma.losses.terms import TERMS
from embeddinggemma.report import page, plots

SMOOTHED = 30  # points from which a line gets a running mean beside it
MOST_POINTS = 400  # that are drawn of a line
_SUM = "The running mean of each, without its weight in the sum."
_PREFIXES = (
  "The running mean of each, on that many first numbers of a vector; their sum"
  " is the term."
)
MOST_TASKS = 12  # with a line each; more tasks share one line
LAST = (("grad_norm", "Gradient norm"), ("tokens_per_s", "Tokens per second"))

# Stage -> what its language model predicts.
PREDICTED = {"pretrain": "next tokens", "adapt": "target tokens"}

PAPER = {
  "pretrain": (
    "The paper starts from a 300M Gemma 3 decoder that is not public."
  ),
  "adapt": (
    "T5Gemma 2 adapts with UL2, five denoisers mixed at 1:1:1:1:4, and "
    "averages the last five checkpoints."
  ),
  "prefinetune": (
    "The paper pre-finetunes without hard negatives on an even mixture of "
    "question answering, sentence similarity, code retrieval and web search."
  ),
  "grad_norm": (
    "The paper pre-finetunes with a larger batch “to stabilize the "
    "gradient”; it prints neither norms nor batch sizes."
  ),
  "tokens_per_s": (
    "The paper trained on about 2.1 trillion tokens in all: 314 billion in "
    "pre-finetuning and 20 billion in finetuning."
  ),
}

Rows = Sequence[Mapping[str, Any]]
Point = tuple[int, float]  # step, value


def section(curves: Mapping[str, Rows]) -> Iterable[str]:
  """The section as parts of HTML: each stage's loss, the last stage's speed.

  Args:
    curves: {stage: rows of its metrics.jsonl}.
  """
  parts = [
    part for stage, rows in curves.items() for part in _loss(stage, rows)
  ]
  for stage, rows in list(curves.items())[-1:]:
    parts += _last(stage, rows)
  if parts:
    yield "<h2>Training</h2>"
    yield from parts


def _loss(stage: str, rows: Rows) -> Iterable[str]:
  by_task = _by_task(rows)
  if not by_task:
    return
  series = by_task
  if len(by_task) == 1 or len(by_task) > MOST_TASKS:
    points = _points(rows, "loss")
    series = {"loss": points}
    if len(by_task) == 1 and len(points) >= SMOOTHED:
      series["running mean"] = _running_mean(points)
  if len(by_task) > 1:
    series = {name: _running_mean(points) for name, points in series.items()}
  yield f"<h3>Loss: {page.escape(stage)}</h3>"
  yield plots.lines(f"loss {stage}", _thinned(series), "step", "loss")
  if len(by_task) > 1:
    lines = "One line a task"
    if len(by_task) > MOST_TASKS:
      lines = f"{len(by_task)} tasks in one line"
    yield page.note(
      f"{lines}: the running mean over a tenth of its batches, at least three,"
      " for batches of different tasks differ in loss."
    )
  yield from _parts(stage, rows)
  yield from _without_negatives(rows)
  yield from _accuracy(stage, rows)
  if stage in PAPER:
    yield page.note(PAPER[stage])


def _parts(stage: str, rows: Rows) -> Iterable[str]:
  """The terms of the loss, where there are several, and the parts of each."""
  there = {key: None for row in rows for key in row}
  known = [name for name in TERMS if name in there]
  groups = {"term": known if len(known) > 1 else []}
  for name in known:
    groups[name] = [key for key in there if key.startswith(f"{name}/")]
  for group, names in groups.items():
    found = {name.split("/")[-1]: _points(rows, name) for name in names}
    series = {name: _running_mean(points) for name, points in found.items()}
    series = {name: points for name, points in series.items() if points}
    if series:
      title = "by term" if group == "term" else f"{group} by dimension"
      yield f"<h3>Loss {page.escape(title)}: {page.escape(stage)}</h3>"
      yield plots.lines(f"{title} {stage}", _thinned(series), "step", "loss")
      yield page.note(_SUM if group == "term" else _PREFIXES)


def _without_negatives(rows: Rows) -> Iterable[str]:
  """How many pairs had nothing to be compared with, if any had not."""
  points = _points(rows, WITHOUT_NEGATIVES)
  share = sum(y for _, y in points) / max(len(points), 1)
  if share:
    empty = sum(y == 1 for _, y in points)
    yield page.note(
      f"{share:.1%} of the pairs had no negative in their batch, and taught"
      f" nothing by comparison; in {empty} of {len(points)} batches no pair had"
      " any. Loss and accuracy are means over the others."
    )


def _by_task(rows: Rows) -> dict[str, list[Point]]:
  """The loss curve of each task, the task with the most batches first."""
  tasks = dict.fromkeys(row.get("task") for row in rows)
  found = {
    str(task): _points([r for r in rows if r.get("task") == task], "loss")
    for task in tasks
  }
  most = sorted(found.items(), key=lambda item: -len(item[1]))
  return {task: points for task, points in most if points}


def _accuracy(stage: str, rows: Rows) -> Iterable[str]:
  points = _points(rows, "accuracy")
  if stage in PREDICTED and points:
    tail = [y for _, y in points[-max(1, len(points) // 10) :]]
    yield (
      f"<p>Over the last tenth of the steps {sum(tail) / len(tail):.1%} of the"
      f" {PREDICTED[stage]} were predicted right.</p>"
    )


def _last(stage: str, rows: Rows) -> Iterable[str]:
  for key, title in LAST:
    points = _points(rows, key)
    if points:
      yield f"<h3>{title}: {page.escape(stage)}</h3>"
      yield plots.lines(key, _thinned({title: points}), "step", title.lower())
      yield page.note(PAPER[key])


def _points(rows: Rows, key: str) -> list[Point]:
  """(step, value) of the rows that have both."""
  return [
    (row["step"], row[key])
    for row in rows
    if "step" in row and page.is_number(row.get(key))
  ]


def _running_mean(
  points: Sequence[Point],
) -> list[Point]:
  """Each point the mean of the last tenth of all points, at least of three."""
  width = max(3, len(points) // 10)
  sums = [0.0, *itertools.accumulate(y for _, y in points)]
  return [
    (x, (sums[end] - sums[max(0, end - width)]) / min(end, width))
    for end, (x, _) in enumerate(points, 1)
  ]


def _thinned(
  series: Mapping[str, Sequence[Point]],
) -> plots.Series:
  """(xs, ys) of each line with at most MOST_POINTS points, also the last."""
  thinned: dict[str, tuple[Sequence[float], Sequence[float]]] = {}
  for name, points in series.items():
    step = max(1, -(-(len(points) - 1) // (MOST_POINTS - 1)))
    xs, ys = zip(*points[:-1:step], points[-1], strict=True)
    thinned[name] = (xs, ys)
  return thinned
