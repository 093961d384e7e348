"""What weights of fewer bits cost, and what training for them recovers.

The paper's table 1: 61.15 on MTEB multilingual in bfloat16, 60.93 in int8 by
block, 60.69 mixed by channel, 60.62 in int4 by block, each of them trained for.
"""

from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

if TYPE_CHECKING:
  from rich.table import Table

# {"weights": one of these, "precision", "bytes", "scores": {task type or
# "mean": score}}
Row = Mapping[str, Any]
PLAIN, ROUNDED, TRAINED = "as trained", "rounded", "trained for it"


class Cost(NamedTuple):
  """Of one precision, in the mean over task types."""

  precision: str
  bytes: int
  rounded: float  # score
  trained: float
  lost: float  # by rounding, against float
  recovered: float | None  # part of that; None: nothing was lost


def costs(rows: Sequence[Row]) -> Iterator[Cost]:
  """A row for each precision that the model was rounded to and trained for."""
  by_kind = {(row["weights"], row["precision"]): row for row in rows}
  mean = lambda row: row["scores"]["mean"]
  plain = next(mean(row) for row in rows if row["weights"] == PLAIN)
  for (weights, precision), row in by_kind.items():
    trained = by_kind.get((TRAINED, precision))
    if weights != ROUNDED or trained is None:
      continue
    lost, back = plain - mean(row), mean(trained) - mean(row)
    yield Cost(
      precision,
      row["bytes"],
      mean(row),
      mean(trained),
      lost,
      back / lost if lost > 0 else None,
    )


def table(rows: Sequence[Row]) -> "Table":
  """For the terminal: a row each, and the means."""
  from rich import box
  from rich.table import Table

  shown = Table(
    title="Quality by precision of the weights",
    title_justify="left",
    box=box.SIMPLE_HEAD,
    padding=(0, 1, 0, 0),
  )
  for name in ("precision", "weights", "MB", "mean"):
    shown.add_column(name, justify="left" if name < "N" else "right")
  for row in rows:
    size, mean = f"{row['bytes'] / 1e6:.1f}", f"{row['scores']['mean']:.4f}"
    shown.add_row(row["precision"], row["weights"], size, mean)
  return shown
