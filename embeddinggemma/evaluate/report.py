"""What a person sees after a run: report.html and a table in the terminal.

The page holds everything it shows: no script, no address outside it. Beside
each figure stands one sentence on what the paper found there.
"""

import html
import math
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from embeddinggemma.evaluate import metrics, plots

if TYPE_CHECKING:
  from rich.table import Table

MOST_COLUMNS = 12  # tasks; more of them are the rows of the page's table
PAPER = {
  "loss": (
    "In the paper, where training starts from decides most: the mean over "
    "MTEB multilingual tasks is 60.4 from the adapted encoder-decoder, 59.7 "
    "from the decoder and 45.2 from random weights."
  ),
  "grad_norm": (
    "The paper pre-finetunes with a larger batch “to stabilize the "
    "gradient”; it prints neither norms nor batch sizes."
  ),
  "tokens_per_s": (
    "The paper trained on about 2.1 trillion tokens in all: 314 billion in "
    "pre-finetuning and 20 billion in finetuning."
  ),
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

CURVES = (
  ("loss", "Loss"),
  ("grad_norm", "Gradient norm"),
  ("tokens_per_s", "Tokens per second"),
)

STYLE = """
:root { color-scheme: light dark; --ink: #1c2024; --paper: #fcfcfd;
  --soft: #60646c; --line: #d9dbe0; --best: #0b6e4f; }
@media (prefers-color-scheme: dark) { :root { --ink: #e6e8eb;
  --paper: #15171a; --soft: #9aa0a8; --line: #33373d; --best: #4cc38a; } }
* { box-sizing: border-box; }
body { margin: 0 auto; padding: 1rem; max-width: 56rem; color: var(--ink);
  background: var(--paper); font: 16px/1.5 system-ui, sans-serif; }
h1 { font-size: 1.5rem; } h2 { font-size: 1.15rem; margin-top: 2.2rem; }
h3 { font-size: 1rem; margin: 1.2rem 0 .2rem; }
.wide { overflow-x: auto; }
table { border-collapse: collapse; font-variant-numeric: tabular-nums;
  font-size: .875rem; }
th, td { padding: .3rem .7rem .3rem 0; text-align: right;
  border-bottom: 1px solid var(--line); white-space: nowrap; }
th { color: var(--soft); font-weight: 500; white-space: normal;
  vertical-align: bottom; }
code { overflow-wrap: anywhere; font-size: .8125rem; }
th:first-child, td:first-child { text-align: left; }
.best { color: var(--best); font-weight: 600; }
p.note { color: var(--soft); font-size: .875rem; margin: .3rem 0; }
pre { white-space: pre-wrap; overflow-wrap: anywhere; padding: .7rem;
  border: 1px solid var(--line); border-radius: .4rem; font-size: .8125rem; }
svg { width: 100%; max-width: 36rem; height: auto; display: block; }
svg text { font-family: system-ui, sans-serif; }
"""


def write_report(path: Path, summary: Mapping[str, Any]) -> None:
  """Writes the page.

  summary: {"stages": [{"name", "seconds", "cached", "checkpoint", "hash",
  "metrics"}], "final", "seconds", "curves": [metrics rows], "quality":
  {system: {task: {dim or "": {metric: value}}}}, "command", "data_hash",
  "versions": {package: version}}; every part may be missing or empty.
  """
  body = [
    "<h1>embeddinggemma: the run</h1>",
    *_run(summary),
    *_command(summary),
    *_quality(summary.get("quality") or {}),
    *_curves(summary.get("curves") or []),
    *_origin(summary),
  ]
  page = (
    '<!doctype html><html lang="en"><head><meta charset="utf-8">'
    '<meta name="viewport" content="width=device-width, initial-scale=1">'
    f"<title>embeddinggemma: report</title><style>{STYLE}</style></head>"
    f"<body>{''.join(body)}</body></html>\n"
  )
  path.write_text(page, encoding="utf-8", newline="\n")


def terminal_table(summary: Mapping[str, Any]) -> "Table":
  """The quality table for rich: a row a task, a column a system.

  Short columns, so that it fits the 80 characters of a plain terminal.
  """
  from rich import box, table, text

  header, rows = _quality_rows(summary.get("quality") or {})
  shown = table.Table(
    title="Quality on held-out data",
    title_justify="left",
    box=box.SIMPLE_HEAD,
    padding=(0, 1, 0, 0),
    pad_edge=False,
    show_edge=False,
  )
  shown.add_column("", min_width=14, overflow="fold")
  for row in rows:
    name = row[0].replace(" @ ", "\n@ ").replace(" + ", "\n+ ")
    width = max(map(len, name.split()))
    shown.add_column(
      text.Text(name), justify="right", width=max(width, 5), overflow="fold"
    )
  best = _best(rows)
  for column, name in enumerate(header[1:], 1):
    styles = [
      "bold green" if (row, column) in best else "" for row in range(len(rows))
    ]
    cells = [_cell(row[column]) for row in rows]
    shown.add_row(name, *map(text.Text, cells, styles))
  return shown


def _run(summary: Mapping[str, Any]) -> Iterable[str]:
  stages = summary.get("stages") or []
  if "seconds" in summary:
    yield f"<p>{_duration(summary['seconds'])} in all.</p>"
  if stages:
    rows = [
      (
        stage["name"],
        "cached" if stage.get("cached") else _duration(stage["seconds"]),
        _numbers(_only_numbers(stage.get("metrics") or {})),
        str(stage.get("hash") or "")[:12],
      )
      for stage in stages
    ]
    yield _table(("stage", "time", "result", "weights"), rows)
  if summary.get("final"):
    yield f"<p>Final: {_escape(_numbers(summary['final']))}</p>"


def _only_numbers(metrics: Mapping[str, Any]) -> dict[str, Any]:
  """Without hashes and paths, which stand elsewhere and make rows too wide."""
  return {name: value for name, value in metrics.items() if _is_number(value)}


def _command(summary: Mapping[str, Any]) -> Iterable[str]:
  if summary.get("command"):
    yield "<h2>Ask it something</h2>"
    yield f"<pre>{_escape(summary['command'])}</pre>"


def _quality(quality: Mapping[str, Any]) -> Iterable[str]:
  header, rows = _quality_rows(quality)
  if not rows:
    return
  yield "<h2>Quality on held-out data</h2>"
  best = _best(rows)
  if len(header) > MOST_COLUMNS + 1:
    header, *rows = map(list, zip(header, *rows, strict=True))
    header[0] = "task"
    # The header is a row of its own: row 1 becomes column 1, column 1 row 0.
    best = {(column - 1, row + 1) for row, column in best}
  yield _table(header, [list(map(_cell, row)) for row in rows], best)
  yield f'<p class="note">{PAPER["quality"]}</p>'
  series, levels = _by_dimension(quality)
  ticks = sorted({dim for dims, _ in series.values() for dim in dims})
  if len(ticks) > 1:
    yield "<h3>Quality against dimension</h3>"
    yield plots.lines(
      "dims", series, "dimension", "mean over tasks", levels, ticks
    )
    yield f'<p class="note">{PAPER["dims"]}</p>'


def _curves(rows: Sequence[Mapping[str, Any]]) -> Iterable[str]:
  for number, (key, title) in enumerate(CURVES):
    points = [
      (row["step"], row[key])
      for row in rows
      if "step" in row and _is_number(row.get(key))
    ]
    if not number and points:
      yield "<h2>Training</h2>"
    if points:
      xs, ys = zip(*_thinned(points), strict=True)
      yield f"<h3>{title}</h3>"
      yield plots.lines(key, {title: (xs, ys)}, "step", title)
      yield f'<p class="note">{PAPER[key]}</p>'


def _origin(summary: Mapping[str, Any]) -> Iterable[str]:
  versions = summary.get("versions") or {}
  data = summary.get("data_hash")
  if versions or data:
    yield "<h2>Made from</h2>"
  if data:
    yield f"<p>data, SHA-256 <code>{_escape(data)}</code></p>"
  if versions:
    yield _table(("package", "version"), list(versions.items()))


def _quality_rows(
  quality: Mapping[str, Any],
) -> tuple[list[str], list[list[Any]]]:
  """Header and rows of the table; a missing score is None."""
  tasks = list(dict.fromkeys(task for by in quality.values() for task in by))
  names: dict[str, str] = {}
  rows: list[list[Any]] = []
  for system, by_task in quality.items():
    dims = dict.fromkeys(str(dim) for by in by_task.values() for dim in by)
    for dim in dims:
      row: list[Any] = [f"{system} @ {dim}" if dim else system]
      for task in tasks:
        scores = {str(d): s for d, s in by_task.get(task, {}).items()}.get(dim)
        metric = metrics.main_metric(scores) if scores else ""
        names[task] = metric or names.get(task, "")
        row.append(scores[metric] if scores else None)
      rows.append(row)
  return ["system", *(f"{task} {names[task]}" for task in tasks)], rows


def _best(rows: Sequence[Sequence[Any]]) -> set[tuple[int, int]]:
  """(row, column) of each column's highest number, when there are several."""
  best: set[tuple[int, int]] = set()
  for column in range(1, len(rows[0]) if rows else 0):
    values = [row[column] for row in rows]
    known = [value for value in values if _is_number(value)]
    if len(known) > 1:
      best.add((values.index(max(known)), column))
  return best


def _by_dimension(
  quality: Mapping[str, Any],
) -> tuple[plots.Series, dict[str, float]]:
  """Means over the tasks that every system has: lines, and levels."""
  common = [set(by_task) for by_task in quality.values() if by_task]
  tasks = sorted(set.intersection(*common)) if common else []
  series: dict[str, tuple[list[float], list[float]]] = {}
  levels: dict[str, float] = {}
  for system, by_task in quality.items():
    for dim in by_task.get(tasks[0], {}) if tasks else ():
      cells = [by_task[task].get(dim) for task in tasks]
      values = [cell[metrics.main_metric(cell)] for cell in cells if cell]
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


def _table(
  header: Sequence[str],
  rows: Sequence[Sequence[Any]],
  best: Iterable[tuple[int, int]] = (),
) -> str:
  best = set(best)
  head = "".join(f"<th>{_escape(name)}</th>" for name in header)
  lines = []
  for number, row in enumerate(rows):
    cells = "".join(
      f"<td{' class=best' if (number, i) in best else ''}>{_escape(cell)}</td>"
      for i, cell in enumerate(row)
    )
    lines.append(f"<tr>{cells}</tr>")
  return (
    f'<div class="wide"><table><tr>{head}</tr>{"".join(lines)}</table></div>'
  )


def _thinned(points: Sequence[tuple], most: int = 400) -> Sequence[tuple]:
  step = -(-len(points) // most)
  return [*points[:-1:step], points[-1]]


def _numbers(values: Mapping[str, Any]) -> str:
  return ", ".join(
    f"{key} {_cell(value)}"
    for key, value in values.items()
    if isinstance(value, str | bool) or _is_number(value)
  )


def _cell(value: Any) -> str:
  if value is None:
    return "-"
  if isinstance(value, float):
    return f"{value:.3f}" if abs(value) < 100 else f"{value:,.0f}"
  return str(value)


def _duration(seconds: float) -> str:
  if seconds < 60:
    return f"{seconds:.1f} s"
  return f"{int(seconds) // 60} min {int(seconds) % 60} s"


def _is_number(value: Any) -> bool:
  numeric = isinstance(value, int | float) and not isinstance(value, bool)
  return numeric and math.isfinite(value)


def _escape(value: Any) -> str:
  return html.escape(str(value))
