"""The report that a person reads after a run: report.html, and a table.

The page is self-contained: no script, no address outside of it. Beside each
figure stands a sentence on the paper's result.
"""

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from embeddinggemma.evaluation import kinds
from embeddinggemma.evaluation.scoring.bootstrap import LEVEL
from embeddinggemma.evaluation.scoring.scored import MODEL
from embeddinggemma.report import (
  ablations,
  by_stage,
  curves,
  exports,
  forgetting,
  long_context,
  mixtures,
  page,
  plots,
  precision,
  starts,
  students,
)
from embeddinggemma.report import vectors as vectors_lib
from embeddinggemma.terminal.table import Cell, Table

MOST_COLUMNS = 12  # tasks; with more, tasks are the rows of the page's table
PAPER = {
  "quality": (
    "EmbeddingGemma (308M) reaches 61.15 on MTEB multilingual, 69.67 on "
    "English and 68.76 on code, on other tasks than these: compare the rows, "
    "not the numbers."
  ),
  "dims": (
    "In the paper, cutting 768 numbers to 128 costs 61.15 to 58.23 on MTEB "
    "multilingual; retrieval loses most (62.5 to 55.3), similarity little "
    "(74.7 to 73.8)."
  ),
}


def write_report(path: Path, summary: Mapping[str, Any]) -> None:
  """Write report.html.

  Args:
    path: of the file.
    summary: {"stages": [{"name", "seconds", "cached", "checkpoint", "hash",
      "metrics"}], "final", "seconds", "curves": {stage: [metrics rows]},
      "quality": {system: {task: {dim or "": {metric: value}}}}, "command",
      "data_hash", "versions": {package: version}}, and what the sections take:
      "initialisation" (starts), "mixtures" and "souped" (mixtures), "ablation",
      "forgetting", "students", "precision", "vectors", "long_context", "exports".
      Every part may be missing or empty.
  """
  body = [
    "<h1>embeddinggemma: the run</h1>",
    *_run(summary),
    *_command(summary),
    *_quality(summary.get("quality") or {}),
    *forgetting.section(summary.get("forgetting") or {}),
    *students.section(summary.get("students") or {}),
    *by_stage.section(
      summary.get("souped") or {}, summary.get("precision") or {}
    ),
    *mixtures.soup_section(summary.get("souped") or {}),
    *precision.section(summary.get("precision") or {}),
    *vectors_lib.section(summary.get("vectors") or {}),
    *long_context.section(summary.get("long_context") or {}),
    *exports.section(summary.get("exports") or []),
    *ablations.section(summary.get("ablation") or {}),
    *mixtures.section(summary.get("mixtures") or {}),
    *starts.section(summary.get("initialisation") or {}),
    *curves.section(summary.get("curves") or {}),
    *_origin(summary),
  ]
  whole = page.document("embeddinggemma: report", body)
  path.write_text(whole, encoding="utf-8", newline="\n")


def terminal_table(summary: Mapping[str, Any]) -> Table:
  """The quality table for the terminal: a row for each task, a column a system.

  The best system of a task is in green. With "intervals" ({system: {task: {dim:
  ends}}}), each figure has half the width of its 95% interval behind it; with a
  "summary" of several tasks there are rows of the means.
  """
  quality, means = summary.get("quality") or {}, summary.get("summary") or {}
  header, rows = _quality_rows(quality, means.get("main") or {})
  best, spreads = page.best(rows), _spreads(quality, summary)
  shown = []
  for column, name in enumerate(header[1:], 1):
    cells = []
    for row, values in enumerate(rows):
      style = "bold green" if (row, column) in best else ""
      cells.append(_spread(values[column], spreads[row][column - 1], style))
    shown.append([name, *cells])
  if len(shown) > 1:
    shown += _mean_rows(quality, means)
  systems = [row[0] for row in rows]
  title = "Quality on held-out data"
  if any(ends for row in spreads for ends in row):
    title += f" (± half of the {LEVEL}% interval)"
  return Table(["", *systems], shown, title)


def _spread(value: Any, ends: Sequence[float], style: str) -> Cell:
  """A figure, and half the width of its interval if it has one."""
  figure = (page.figure(value), style)
  if not ends:
    return [figure]
  half = f"{(ends[1] - ends[0]) / 2:.3f}".removeprefix("0")
  return [figure, (f" ±{half}", "dim")]


def _spreads(
  quality: Mapping[str, Any], summary: Mapping[str, Any]
) -> list[list[Sequence[float]]]:
  """The ends of the interval of each cell of `_quality_rows`; () for none."""
  intervals = summary.get("intervals") or {}
  tasks = list(dict.fromkeys(task for by in quality.values() for task in by))
  return [
    [intervals.get(system, {}).get(task, {}).get(dim, ()) for task in tasks]
    for system, dim in _columns(quality)
  ]


def _mean_rows(
  quality: Mapping[str, Any], means: Mapping[str, Any]
) -> Iterable[list[Cell]]:
  """Rows of the model's means; other systems are not scored on every task."""
  intervals = means.get("intervals") or {}
  names = {"mean_task": "mean over tasks", "mean_type": "mean over task types"}
  for key, name in names.items():
    by_dim, ends = means.get(key) or {}, intervals.get(key) or {}
    row: list[Cell] = [
      _spread(by_dim.get(dim), ends.get(dim, ()), "")
      if system == MODEL
      else _spread(None, (), "")
      for system, dim in _columns(quality)
    ]
    if by_dim:
      yield [name, *row]


def _run(summary: Mapping[str, Any]) -> Iterable[str]:
  stages = summary.get("stages") or []
  if "seconds" in summary:
    yield f"<p>{page.duration(summary['seconds'])} in all.</p>"
  if stages:
    rows = [
      (
        stage["name"],
        "cached" if stage.get("cached") else page.duration(stage["seconds"]),
        page.numbers(_only_numbers(stage.get("metrics") or {})),
        str(stage.get("hash") or "")[:12],
      )
      for stage in stages
    ]
    yield page.table(("stage", "time", "result", "weights"), rows)
  if summary.get("final"):
    yield f"<p>Final: {page.escape(page.numbers(summary['final']))}</p>"


def _only_numbers(metrics: Mapping[str, Any]) -> dict[str, Any]:
  """The numeric metrics; hashes and paths stand elsewhere and are too wide."""
  return {
    name: value for name, value in metrics.items() if page.is_number(value)
  }


def _command(summary: Mapping[str, Any]) -> Iterable[str]:
  if summary.get("command"):
    yield "<h2>Ask it something</h2>"
    yield f"<pre>{page.escape(summary['command'])}</pre>"


def _quality(quality: Mapping[str, Any]) -> Iterable[str]:
  header, rows = _quality_rows(quality)
  if not rows:
    return
  yield "<h2>Quality on held-out data</h2>"
  best = page.best(rows)
  if len(header) > MOST_COLUMNS + 1:
    header, *rows = map(list, zip(header, *rows, strict=True))
    header[0] = "task"
    # The header is a row of its own: row 1 becomes column 1, column 1 row 0.
    best = {(column - 1, row + 1) for row, column in best}
  yield page.table(header, [list(map(page.figure, row)) for row in rows], best)
  yield page.note(PAPER["quality"])
  series, levels = _by_dimension(quality)
  ticks = sorted({dim for dims, _ in series.values() for dim in dims})
  if len(ticks) > 1:
    yield "<h3>Quality against dimension</h3>"
    yield plots.lines(
      "dims", series, "dimension", "mean over tasks", levels, ticks
    )
    yield page.note(PAPER["dims"])


def _origin(summary: Mapping[str, Any]) -> Iterable[str]:
  versions = summary.get("versions") or {}
  data = summary.get("data_hash")
  if versions or data:
    yield "<h2>Made from</h2>"
  if data:
    yield f"<p>data, SHA-256 <code>{page.escape(data)}</code></p>"
  if versions:
    yield page.table(("package", "version"), list(versions.items()))


def _quality_rows(
  quality: Mapping[str, Any], main: Mapping[str, str] = {}
) -> tuple[list[str], list[list[Any]]]:
  """Header and rows of the table; a missing score is None.

  `main` is the metric by which a task is judged, where its scores do not tell.
  """
  tasks = list(dict.fromkeys(task for by in quality.values() for task in by))
  names: dict[str, str] = {}
  rows: list[list[Any]] = []
  for system, dim in _columns(quality):
    row: list[Any] = [f"{system} @ {dim}" if dim else system]
    for task in tasks:
      found = quality[system].get(task, {})
      scores = {str(d): s for d, s in found.items()}.get(dim)
      metric = _main(scores, main.get(task, "")) if scores else ""
      names[task] = metric or names.get(task, "")
      row.append(scores[metric] if scores else None)
    rows.append(row)
  return ["system", *(f"{task} {names[task]}" for task in tasks)], rows


def _main(scores: Mapping[str, float], named: str) -> str:
  return named if named in scores else kinds.main_metric(scores)


def _columns(quality: Mapping[str, Any]) -> list[tuple[str, str]]:
  """(system, dimension) of each row of the table; "" of one without."""
  return [
    (system, dim)
    for system, by_task in quality.items()
    for dim in dict.fromkeys(str(d) for by in by_task.values() for d in by)
  ]


def _by_dimension(
  quality: Mapping[str, Any],
) -> tuple[plots.Series, dict[str, float]]:
  """Means over the tasks that every system has.

  Systems with several dimensions are lines, the others horizontal levels.
  """
  common = [set(by_task) for by_task in quality.values() if by_task]
  tasks = sorted(set.intersection(*common)) if common else []
  series: dict[str, tuple[list[float], list[float]]] = {}
  levels: dict[str, float] = {}
  for system, by_task in quality.items():
    for dim in by_task.get(tasks[0], {}) if tasks else ():
      cells = [by_task[task].get(dim) for task in tasks]
      values = [cell[kinds.main_metric(cell)] for cell in cells if cell]
      mean = sum(values) / len(values)
      if str(dim):
        xs, ys = series.setdefault(system, ([], []))
        xs.append(int(dim))
        ys.append(mean)
      else:
        levels[system] = mean
  ordered = {}
  for system, (xs, ys) in series.items():
    points = sorted(zip(xs, ys, strict=True))
    ordered[system] = ([x for x, _ in points], [y for _, y in points])
  return ordered, levels
