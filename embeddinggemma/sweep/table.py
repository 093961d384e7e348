"""The results of a sweep: each run's result, the table, the page."""

import dataclasses
import json
import pathlib
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from embeddinggemma import cache
from embeddinggemma.report import page, plots
from embeddinggemma.sweep.points import Point
from embeddinggemma.terminal.table import Table

# As in training/hooks.py, which is not imported since it would import JAX.
METRICS = "metrics.jsonl"
_SHOWN = 4  # metrics in the table; SWEEP_FILE has them all


@dataclasses.dataclass(frozen=True)
class Result:
  """The result of one run, as POINT_FILE and SWEEP_FILE hold it."""

  name: str
  point: Point
  command: list[str]
  key: str  # hash of other inputs, such as the content of its config
  exit: int  # exit code; negative if a signal of that number killed it
  seconds: float
  error: str  # the last line of its log if it failed, else ""
  metrics: dict[str, float]


def exit_code(results: Sequence[Result]) -> int:
  """The exit code of the sweep: 1 if any run failed, else 0."""
  return int(any(result.exit for result in results))


def read_metrics(folder: pathlib.Path) -> dict[str, float]:
  """A run's last loss, the mean of its last tenth, and its final metrics."""
  losses = list(_losses(folder / METRICS))
  losses = losses[-max(1, len(losses) // 10) :]
  found = {"loss": sum(losses) / len(losses)} if losses else {}
  summary = cache.read_json(folder / "summary.json")
  for stage in summary.get("stages", []):
    found |= _numbers({"loss": stage.get("metrics", {}).get("loss")})
  return _numbers(found | summary.get("final", {}).get("metrics", {}))


def _losses(path: pathlib.Path) -> Iterator[float]:
  """The losses of a metrics.jsonl, up to a line that a kill cut short."""
  if path.is_file():
    for line in path.read_text(encoding="utf-8").splitlines():
      try:
        row = json.loads(line)
      except ValueError:
        return
      if row.get("loss") is not None:  # null: the step moved nothing
        yield row["loss"]


def _numbers(tree: Mapping[str, Any], prefix: str = "") -> dict[str, float]:
  """The finite numbers of a nested mapping by their dotted paths.

  Others are left out since JSON has no infinity and no NaN.
  """
  found: dict[str, float] = {}
  for key, value in tree.items():
    if isinstance(value, Mapping):
      found |= _numbers(value, f"{prefix}{key}.")
    elif page.is_number(value):
      found[f"{prefix}{key}"] = value
  return found


def _columns(results: Sequence[Result], metric: str) -> list[str]:
  names = dict.fromkeys([metric] if metric else [])
  names |= dict.fromkeys(key for r in results for key in r.metrics)
  return list(names)[:_SHOWN]


def figures(result: Result) -> str:
  """The first few metrics of a result, as one line."""
  return page.numbers(dict(list(result.metrics.items())[:_SHOWN]))


def _rows(results: Sequence[Result], columns: Sequence[str]) -> list[list[str]]:
  return [
    [
      result.name,
      *(page.figure(result.metrics.get(name)) for name in columns),
      page.duration(result.seconds),
      result.error or "done",
    ]
    for result in results
  ]


def table(results: Sequence[Result], metric: str) -> Table:
  """A table for the terminal with one row a run; a failed run is red."""
  columns = _columns(results, metric)
  styles = ["red" if result.exit else "" for result in results]
  rows = [
    [[(cell, style)] for cell in row]
    for row, style in zip(_rows(results, columns), styles)
  ]
  header = ("run", *columns, "time", "")
  return Table(header, rows, "sweep", prose=(len(header) - 1,))


def document(results: Sequence[Result], metric: str) -> str:
  """The table as an HTML page, with a dot plot of the runs' metric."""
  columns = _columns(results, metric)
  body = ["<h1>Sweep</h1>"]
  body.append(
    page.table(["run", *columns, "time", ""], _rows(results, columns))
  )
  values = {r.name: [r.metrics[metric]] for r in results if metric in r.metrics}
  if values:
    body.append(plots.dots("sweep", {metric: values}, metric))
  return page.document("Sweep", body)
