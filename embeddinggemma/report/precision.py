"""Report on quantised weights: what fewer bits cost, what QAT recovers."""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

from embeddinggemma.report import page, plots
from embeddinggemma.report.mixtures import NOISE
from embeddinggemma.terminal.table import Table

# {"weights": PLAIN, ROUNDED or TRAINED, "precision", "bytes", "scores": {task
# type or "mean": score}}
Row = Mapping[str, Any]
PLAIN, ROUNDED, TRAINED = "as trained", "rounded", "trained for it"

PAPER = (
  "In the paper, with training for it, MTEB multilingual falls from 61.15 in"
  " bfloat16 to 60.93 in int8 by block, 60.69 mixed by channel and 60.62 in int4"
  " by block; it prints nothing of rounding alone."
)


class Cost(NamedTuple):
  """The cost of one precision, in the mean over task types."""

  precision: str
  bytes: int
  rounded: float  # score after rounding the weights
  trained: float  # score after quantisation-aware training
  lost: float  # score lost by rounding, against float
  recovered: float | None  # share of it that training recovers; None: no loss


def costs(rows: Sequence[Row]) -> Iterator[Cost]:
  """The cost of each precision that has rows for rounding and for training."""
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


def table(rows: Sequence[Row]) -> Table:
  """A table for the terminal with the means, one row for each precision."""
  shown = [
    [
      row["precision"],
      row["weights"],
      f"{row['bytes'] / 1e6:.1f}",
      f"{row['scores']['mean']:.4f}",
    ]
    for row in rows
  ]
  header = ("precision", "weights", "MB", "mean")
  return Table(header, shown, "Quality by precision of the weights")


def section(found: Mapping[str, Sequence[Row]]) -> Iterable[str]:
  """The section as parts of HTML, from {side: rows}."""
  for side, rows in found.items():
    yield "<h2>Quality against the precision of the weights</h2>"
    types = list(rows[0]["scores"])
    cells = [
      [page.Noted(row["precision"], row["weights"]), row["bytes"] / 1e6]
      + [row["scores"][name] for name in types]
      for row in rows
    ]
    best = {(row, column) for row, column in page.best(cells) if column > 1}
    yield page.table(
      (f"on {side}", "MB", *types),
      [
        [name, f"{size:.1f}", *map(page.figure, scores)]
        for name, size, *scores in cells
      ],
      best,
    )
    for cost in costs(rows):
      yield f"<p>{page.escape(_said(cost))}</p>"
    yield plots.dots("precision", _by_weights(rows), "mean over task types")
    yield page.note(PAPER)


def _said(cost: Cost) -> str:
  end = cost.trained - cost.rounded - cost.lost
  said = f"{cost.precision}: rounding loses {cost.lost:.4f}"
  if cost.recovered is None or cost.lost < NOISE:
    return (
      f"{said}, within noise; trained for it, the model is {end:+.4f} from"
      " float."
    )
  return f"{said}, training for it gives back {cost.recovered:.0%} of that."


def _by_weights(
  rows: Sequence[Row],
) -> Mapping[str, Mapping[str, Sequence[float]]]:
  """{how the weights came about: {precision: mean scores}}."""
  series: dict[str, dict[str, list[float]]] = {}
  for row in rows:
    by_precision = series.setdefault(row["weights"], {})
    by_precision.setdefault(row["precision"], []).append(row["scores"]["mean"])
  return series
