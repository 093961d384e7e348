"""Whether a stage learns: accuracy by task, how vectors lie, what pulls them."""

from collections.abc import Iterable, Mapping, Sequence

from embeddinggemma.losses import collapse, geometry
from embeddinggemma.losses.probe import GRADIENT
from embeddinggemma.losses.terms import TERMS
from embeddinggemma.report import page, plots, series
from embeddinggemma.report.series import MOST_TASKS, Point, Rows

_SIDES = {"query": "queries", "positive": "positives"}

ACCURACY = (
  "How often a query's own positive is the nearest of all positives of its"
  " batch. It should rise, and level off below 1 where batches hold near"
  " duplicates. It falls as batches grow or negatives get harder, so compare it"
  " at one batch size."
)
SPREAD = (
  "Alignment is the mean squared distance of a query to its positive: lower is"
  " better. Uniformity is the logarithm of the mean of exp(-2 |x - y|²) over"
  " different texts: 0 if all are one, -4 if all are at right angles, so lower is"
  " better too (Wang and Isola, arXiv 2005.10242). One falling at the other's"
  " cost is no progress; both falling is."
)
RANK = (
  "The number of directions along which the texts of a batch vary, if they used"
  " all alike: (Σλ)² / Σλ² of the eigenvalues of their covariance. It is below"
  " the number of texts, so compare it at one batch size. It may fall some in"
  " training; a fall towards 1 is a collapse."
)
COSINE = (
  "The mean cosine of different texts of a batch. It is higher where they are of"
  " one topic. Towards 1, no text can be told from another."
)
PULL = (
  "The norm of the gradient of each term, times its weight, by the batch's"
  " vectors: how strong it pulls. A term that is far below the others decides"
  " nothing; one that is far above leaves the others no say. Its weight is the key"
  " of that name under config.loss."
)
BY_DIMENSION = (
  "The same by Matryoshka dimension. The shortest often pulls most, since it can"
  " tell the fewest texts apart."
)


def section(stage: str, rows: Rows) -> Iterable[str]:
  """The plots of a stage on pairs or texts, as parts of HTML."""
  found = collapse.raised(rows)
  if found:
    yield f"<p><strong>Warning: {page.escape(found[1])}.</strong></p>"
  yield from _plot("In-batch accuracy", stage, _accuracy(rows), ACCURACY)
  aligned = {"alignment": series.points(rows, geometry.ALIGNMENT)}
  spread = aligned | _by_side(rows, geometry.UNIFORMITY, "uniformity of ")
  yield from _plot("Alignment and uniformity", stage, spread, SPREAD)
  yield from _plot("Effective rank", stage, _by_side(rows, geometry.RANK), RANK)
  cosines = _by_side(rows, geometry.COSINE)
  yield from _plot("Mean cosine of different texts", stage, cosines, COSINE)
  yield from _gradients(stage, rows)


def _accuracy(rows: Rows) -> dict[str, list[Point]]:
  by_task = series.by_task(rows, "accuracy")
  if len(by_task) > MOST_TASKS:
    return {f"{len(by_task)} tasks": series.points(rows, "accuracy")}
  return by_task


def _by_side(rows: Rows, name: str, before: str = "") -> dict[str, list[Point]]:
  return {
    f"{before}{words}": series.points(rows, f"{name}/{side}")
    for side, words in _SIDES.items()
  }


def _gradients(stage: str, rows: Rows) -> Iterable[str]:
  """What each term pulls, where there are several, and each dimension."""
  there = {key: None for row in rows for key in row}
  of = lambda names: {
    " ".join(name.split("/")[1:]): series.points(rows, name) for name in names
  }
  terms = [f"{GRADIENT}/{name}" for name in TERMS]
  terms = [name for name in terms if name in there]
  if len(terms) > 1:
    yield from _plot("Gradient by term", stage, of(terms), PULL)
  parts = [key for name in terms for key in there if key.startswith(f"{name}/")]
  yield from _plot("Gradient by dimension", stage, of(parts), BY_DIMENSION)


def _plot(
  title: str,
  stage: str,
  found: Mapping[str, Sequence[Point]],
  note: str,
) -> Iterable[str]:
  """A plot of running means with a sentence for its reader."""
  lines = series.smoothed(found)
  if not lines:
    return
  yield f"<h3>{page.escape(title)}: {page.escape(stage)}</h3>"
  drawn = series.thinned(lines)
  yield plots.lines(f"{title} {stage}", drawn, "step", title.lower())
  yield page.note(note)
