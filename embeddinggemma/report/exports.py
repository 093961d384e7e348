"""Report section on exports: files, sizes, certificates."""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from embeddinggemma.report import page

PAPER = (
  "The paper released its int4, int8 and mixed checkpoints as GGUF and LiteRT"
  " files of 300M parameters; it prints their quality, not their agreement with"
  " what was trained."
)


def section(rows: Sequence[Mapping[str, Any]]) -> Iterable[str]:
  """The section as parts of HTML, from the rows that the export returns."""
  if not rows:
    return
  yield "<h2>What was exported</h2>"
  yield page.table(
    ("model", "format", "weights", "MB", "certificate", "cosine, least"),
    [
      [
        row["model"],
        row["format"],
        row["dtype"],
        f"{row['bytes'] / 1e6:.1f}",
        row["verdict"],
        "-" if row["cosine"] is None else f"{row['cosine']:.5f}",
      ]
      for row in rows
    ],
  )
  yield page.note(
    "A certificate compares the runtime's own vectors of golden texts with this"
    " model's, on the same grid. Unchecked: the runtime is not installed here."
  )
  yield page.note(PAPER)
