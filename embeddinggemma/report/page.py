"""Parts of report.html: the frame, tables, notes, and the format of figures."""

import html
import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, NamedTuple

from embeddinggemma.terminal.printable import lines

# The page needs nothing but its own style; whatever got into it, nothing runs
# and nothing is fetched.
POLICY = "default-src 'none'; style-src 'unsafe-inline'; base-uri 'none'"
STYLE = """
:root { color-scheme: light dark; --ink: #1c2024; --paper: #fcfcfd;
  --soft: #60646c; --line: #d9dbe0; --best: #0b6e4f; }
@media (prefers-color-scheme: dark) { :root { --ink: #e6e8eb;
  --paper: #15171a; --soft: #9aa0a8; --line: #33373d; --best: #4cc38a; } }
* { box-sizing: border-box; }
body { margin: 0 auto; padding: 1rem; max-width: 56rem; color: var(--ink);
  background: var(--paper); font: 16px/1.5 system-ui, sans-serif; }
h1 { font-size: 1.5rem; } h2 { font-size: 1.15rem; margin-top: 2.2rem; }
h3 { font-size: 1rem; margin: 1.2rem 0 .2rem; overflow-wrap: anywhere; }
.wide { overflow-x: auto; }
table { border-collapse: collapse; font-variant-numeric: tabular-nums;
  font-size: .875rem; }
th, td { padding: .3rem .7rem .3rem 0; text-align: right; vertical-align: top;
  border-bottom: 1px solid var(--line); white-space: nowrap; }
th { color: var(--soft); font-weight: 500; white-space: normal;
  vertical-align: bottom; }
code { overflow-wrap: anywhere; font-size: .8125rem; }
th:first-child, td:first-child { text-align: left; }
td.long { white-space: normal; text-align: left; min-width: 11rem; }
.best { color: var(--best); font-weight: 600; }
td small { display: block; color: var(--soft); font-size: .75rem;
  font-weight: 400; }
p { overflow-wrap: anywhere; }
p.note { color: var(--soft); font-size: .875rem; margin: .3rem 0; }
pre { white-space: pre-wrap; overflow-wrap: anywhere; padding: .7rem;
  border: 1px solid var(--line); border-radius: .4rem; font-size: .8125rem; }
svg { width: 100%; max-width: 36rem; height: auto; display: block; }
svg text { font-family: system-ui, sans-serif; }
"""


LONG = 40  # characters from which a cell of a table may break into lines


class Noted(NamedTuple):
  """A table cell with a small note under its text."""

  text: str
  note: str


def document(title: str, body: Iterable[str]) -> str:
  """A complete HTML page; the title is plain text, the body is HTML."""
  return (
    '<!doctype html><html lang="en"><head><meta charset="utf-8">'
    f'<meta http-equiv="Content-Security-Policy" content="{POLICY}">'
    '<meta name="viewport" content="width=device-width, initial-scale=1">'
    f"<title>{escape(title)}</title><style>{STYLE}</style></head>"
    f"<body>{''.join(body)}</body></html>\n"
  )


def table(
  header: Sequence[str],
  rows: Sequence[Sequence[Any]],
  marked: Iterable[tuple[int, int]] = (),
) -> str:
  """An HTML table that scrolls sideways if it is too wide; cells are escaped.

  `marked` holds (row, column) of the cells to highlight.
  """
  marked = set(marked)
  head = "".join(f"<th>{escape(name)}</th>" for name in header)
  lines = []
  for number, row in enumerate(rows):
    cells = "".join(
      f"<td{_look(cell, (number, i) in marked)}>{_inside(cell)}</td>"
      for i, cell in enumerate(row)
    )
    lines.append(f"<tr>{cells}</tr>")
  return (
    f'<div class="wide"><table><tr>{head}</tr>{"".join(lines)}</table></div>'
  )


def _look(cell: Any, marked: bool) -> str:
  if marked:
    return " class=best"
  return " class=long" if isinstance(cell, str) and len(cell) > LONG else ""


def _inside(cell: Any) -> str:
  if not isinstance(cell, Noted):
    return escape(cell)
  small = f"<small>{escape(cell.note)}</small>" if cell.note else ""
  return escape(cell.text) + small


def note(text: str) -> str:
  """A paragraph of small, soft text."""
  return f'<p class="note">{escape(text)}</p>'


def best(rows: Sequence[Sequence[Any]]) -> set[tuple[int, int]]:
  """(row, column) of the highest number in each column with several numbers.

  The first column, which names the rows, is skipped.
  """
  found: set[tuple[int, int]] = set()
  for column in range(1, len(rows[0]) if rows else 0):
    values = [row[column] for row in rows]
    known = [value for value in values if is_number(value)]
    if len(known) > 1:
      found.add((values.index(max(known)), column))
  return found


def numbers(values: Mapping[str, Any]) -> str:
  """Values as `name value, name value`: texts, flags and finite numbers."""
  return ", ".join(
    f"{key} {figure(value)}"
    for key, value in values.items()
    if isinstance(value, str | bool) or is_number(value)
  )


def figure(value: Any) -> str:
  """A value as tables show it; None is a dash."""
  if value is None:
    return "-"
  if isinstance(value, float):
    return f"{value:.3f}" if abs(value) < 100 else f"{value:,.0f}"
  return str(value)


def duration(seconds: float) -> str:
  """Seconds as `4.2 s`, or from a minute on as `2 min 12 s`."""
  if seconds < 60:
    return f"{seconds:.1f} s"
  return f"{int(seconds) // 60} min {int(seconds) % 60} s"


def is_number(value: Any) -> bool:
  """Whether a value is a finite number; a bool is none."""
  numeric = isinstance(value, int | float) and not isinstance(value, bool)
  return numeric and math.isfinite(value)


def escape(value: Any) -> str:
  """A value as text that is escaped for HTML, with nothing hidden in it."""
  return html.escape(lines(str(value)))
