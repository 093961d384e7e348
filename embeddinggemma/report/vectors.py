"""Report section on embeddings of fewer dimensions and fewer bits."""

import math
from collections.abc import Iterable, Mapping, Sequence

from embeddinggemma.evaluation.vectors import FORMS, TIMED, Row
from embeddinggemma.report import page, plots

PAPER = (
  "The paper prints what fewer numbers cost (61.15, 60.71, 59.68 and 58.23 on"
  " MTEB multilingual at 768, 512, 256 and 128), and nothing of fewer bits."
)


MEANING = (
  "The vectors of documents are stored like this, those of queries are not"
  " rounded. What an index finds by such codes it sorts again by vectors of 16"
  " bits, which gives back most of what codes lose."
)


def section(found: Mapping[str, Sequence[Row]]) -> Iterable[str]:
  """The section as parts of HTML, from {side: rows}."""
  for side, rows in found.items():
    if not rows:
      continue
    yield "<h2>Quality against the precision of the vectors</h2>"
    dims = list(dict.fromkeys(row["dim"] for row in rows))
    cells = {(row["vectors"], row["dim"]): row for row in rows}
    yield page.table(
      (f"retrieval on {side}", *map(str, dims)),
      [[form, *(_cell(cells[form, dim]) for dim in dims)] for form in FORMS],
    )
    yield page.note(
      f"Bytes of a vector, and milliseconds of a query among {TIMED:,}, all of"
      " which are compared."
    )
    yield plots.lines(
      "vectors",
      {form: _line(rows, form) for form in FORMS},
      "bytes of a vector",
      "mean over retrieval tasks",
      x_ticks=_powers([row["bytes"] for row in rows]),
    )
    yield page.note(MEANING)
    yield page.note(PAPER)


def _cell(row: Row) -> page.Noted:
  note = f"{row['bytes']:,} B, {row['ms']:.2f} ms"
  return page.Noted(page.figure(row["score"]), note)


def _line(
  rows: Sequence[Row], form: str
) -> tuple[Sequence[float], Sequence[float]]:
  points = sorted(
    (row["bytes"], row["score"]) for row in rows if row["vectors"] == form
  )
  return [x for x, _ in points], [y for _, y in points]


def _powers(values: Sequence[int]) -> list[int]:
  """Powers of two between the least and the most."""
  least, most = math.ceil(math.log2(min(values))), int(math.log2(max(values)))
  return [2**n for n in range(least, most + 1)]
