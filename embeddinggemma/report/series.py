"""Lines of plots out of the rows of metrics.jsonl."""

import itertools
from collections.abc import Mapping, Sequence
from typing import Any

from embeddinggemma.report import page, plots

MOST_POINTS = 400  # that are drawn of a line
MOST_TASKS = 12  # with a line each; more tasks share one line

Rows = Sequence[Mapping[str, Any]]
Point = tuple[int, float]  # step, value


def points(rows: Rows, key: str) -> list[Point]:
  """(step, value) of the rows that have both."""
  return [
    (row["step"], row[key])
    for row in rows
    if "step" in row and page.is_number(row.get(key))
  ]


def by_task(rows: Rows, key: str) -> dict[str, list[Point]]:
  """The points of each task, the task with the most batches first."""
  tasks = dict.fromkeys(row.get("task") for row in rows)
  found = {
    str(task): points([r for r in rows if r.get("task") == task], key)
    for task in tasks
  }
  most = sorted(found.items(), key=lambda item: -len(item[1]))
  return {task: values for task, values in most if values}


def running_mean(given: Sequence[Point]) -> list[Point]:
  """Each point the mean of the last tenth of all points, at least of three."""
  width = max(3, len(given) // 10)
  sums = [0.0, *itertools.accumulate(y for _, y in given)]
  return [
    (x, (sums[end] - sums[max(0, end - width)]) / min(end, width))
    for end, (x, _) in enumerate(given, 1)
  ]


def smoothed(found: Mapping[str, Sequence[Point]]) -> dict[str, list[Point]]:
  """The running mean of each line that has a point."""
  means = {name: running_mean(given) for name, given in found.items()}
  return {name: given for name, given in means.items() if given}


def thinned(series: Mapping[str, Sequence[Point]]) -> plots.Series:
  """(xs, ys) of each line with at most MOST_POINTS points, also the last."""
  found: dict[str, tuple[Sequence[float], Sequence[float]]] = {}
  for name, given in series.items():
    step = max(1, -(-(len(given) - 1) // (MOST_POINTS - 1)))
    xs, ys = zip(*given[:-1:step], given[-1], strict=True)
    found[name] = (xs, ys)
  return found
