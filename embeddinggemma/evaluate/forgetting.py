"""The report of a model tuned on own pairs: what it gained, what it forgot."""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from embeddinggemma.evaluate import page
from embeddinggemma.evaluate.mixtures import NOISE

if TYPE_CHECKING:
  from rich.table import Table

HEADER = ("", "queries", "before", "after", "change", "soup")
PATH_HEADER = ("weight of the result",)
RULE = (
  "The soup is the point between base and result with the best mean of the own"
  " validation part and the general suite; the result stays what was trained."
)
FEW = 100  # queries, below which noise is more than that


def section(found: Mapping[str, Any]) -> Iterable[str]:
  """HTML of {"before": scores, "after": scores, "soup": {"points", "share",
  "means"}}; scores: {suite: {"mean", "tasks": {task: {"metric", "score",
  "queries"}}}}."""
  if not found:
    return
  yield "<h2>Before and after</h2>"
  yield page.table(HEADER, rows(found))
  yield f"<p>{page.escape(verdict(found))}</p>"
  yield page.note(
    f"Differences under {NOISE} are within noise, and with fewer than {FEW}"
    " queries larger ones may be. No text of the own test and validation parts"
    " is trained on; the general suite shows what is forgotten."
  )
  points = found["soup"]["points"]
  if points:
    yield "<h3>Between base and result</h3>"
    header, shown = path_rows(points)
    numbers = [[None, *point_scores(point)] for point in points]
    yield page.table(header, shown, page.best(numbers))
    yield page.note(RULE)


def rows(found: Mapping[str, Any]) -> list[list[str]]:
  """A row a suite, its mean over task types, then a row each of its tasks."""
  lines = []
  souped = found["soup"]["means"]
  for suite, after in found["after"].items():
    before = found["before"][suite]
    lines.append(
      [
        suite,
        str(sum(task["queries"] for task in after["tasks"].values())),
        *compared(before["mean"], after["mean"]),
        page.figure(souped.get(suite)),
      ]
    )
    for name, task in after["tasks"].items():
      was = before["tasks"][name]["score"]
      lines.append(
        [
          f"  {name}, {task['metric']}",
          str(task["queries"]),
          *compared(was, task["score"]),
          "",
        ]
      )
  return lines


def compared(before: float, after: float) -> tuple[str, str, str]:
  """Both scores and their difference, as they are shown."""
  return page.figure(before), page.figure(after), change(before, after)


def change(before: float, after: float) -> str:
  """The difference of the figures that are shown, and whether it is noise."""
  lead = round(round(after, 3) - round(before, 3), 3)
  return f"{lead:+.3f}{', within noise' if abs(lead) < NOISE else ''}"


def verdict(found: Mapping[str, Any]) -> str:
  """Gain and loss in a sentence."""
  said = [
    f"{suite} {change(found['before'][suite]['mean'], after['mean'])}"
    for suite, after in found["after"].items()
  ]
  share = found["soup"]["share"]
  if share is not None:
    said.append(f"best soup: {100 * share:.0f}% of the result")
  return f"{'; '.join(said)}."


def path_rows(
  points: Sequence[Mapping[str, Any]],
) -> tuple[list[str], list[list[str]]]:
  """Header and rows of the points' scores."""
  names = [name for name in points[0] if name != "share"]
  shown = [
    [f"{point['share']:.2f}", *map(page.figure, point_scores(point))]
    for point in points
  ]
  return [*PATH_HEADER, *names], shown


def point_scores(point: Mapping[str, Any]) -> list[float]:
  """A point's scores without its share."""
  return [value for name, value in point.items() if name != "share"]


def forecast(found: Mapping[str, Any]) -> str:
  """What was said of time, beside what it was."""
  off = found["took"] / found["seconds"] - 1
  return (
    f"forecast {page.duration(found['seconds'])}, took"
    f" {page.duration(found['took'])} ({100 * off:+.0f}%)"
  )


def tables(found: Mapping[str, Any]) -> "Iterator[Table]":
  """The same for rich."""
  yield _table("Before and after", HEADER, rows(found))
  points = found["soup"]["points"]
  if points:
    header, shown = path_rows(points)
    yield _table("Between base and result", header, shown)


def _table(
  title: str, header: Sequence[str], lines: Sequence[Sequence[str]]
) -> "Table":
  from rich import box, table, text

  shown = table.Table(
    title=title,
    title_justify="left",
    box=box.SIMPLE_HEAD,
    padding=(0, 1, 0, 0),
    pad_edge=False,
    show_edge=False,
  )
  for number, name in enumerate(header):
    shown.add_column(
      name, justify="right" if number else "left", overflow="fold"
    )
  for line in lines:
    shown.add_row(*map(text.Text, line))
  return shown
