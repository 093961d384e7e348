"""Report on a model tuned on the user's own pairs: its gains and losses."""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

from embeddinggemma.report import page
from embeddinggemma.report.mixtures import NOISE
from embeddinggemma.terminal.table import Table

HEADER = ("", "queries", "before", "after", "change")
PATH_HEADER = ("candidate",)
RULE = (
  "Handed over is the candidate with the best mean of the own validation part"
  " and the general suite, among those that are not worse than the base on the"
  " first and lose no more than is allowed on the second; without a validation"
  " part, the one of these that is trained most. The own test part has no say in"
  " it."
)
_ABOUT = ("name", "share", "step")  # keys of a point that are not scores
FEW = 100  # queries; with fewer, noise exceeds NOISE


def section(found: Mapping[str, Any]) -> Iterable[str]:
  """The section as parts of HTML.

  Args:
    found: {"before": scores, "after": scores, "points": [{"name", suite:
      mean}], "chosen": name, "reason"}, where scores are {suite: {"mean",
      "tasks": {task: {"metric", "score", "queries"}}}}.
  """
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
  yield "<h3>Candidates</h3>"
  points = found["points"]
  header, shown = path_rows(points)
  numbers = [[None, *point_scores(point)] for point in points]
  yield page.table(header, shown, page.best(numbers))
  yield page.note(RULE)


def rows(found: Mapping[str, Any]) -> list[list[str]]:
  """A row for each suite, its mean over task types, and each of its tasks."""
  lines = []
  for suite, after in found["after"].items():
    before = found["before"][suite]
    lines.append(
      [
        suite,
        str(sum(task["queries"] for task in after["tasks"].values())),
        *compared(before["mean"], after["mean"]),
      ]
    )
    for name, task in after["tasks"].items():
      was = before["tasks"][name]["score"]
      lines.append(
        [
          f"  {name}, {task['metric']}",
          str(task["queries"]),
          *compared(was, task["score"]),
        ]
      )
  return lines


def compared(before: float, after: float) -> tuple[str, str, str]:
  """Both scores and their difference, as they are shown."""
  return page.figure(before), page.figure(after), change(before, after)


def change(before: float, after: float) -> str:
  """The difference of the displayed figures, and whether it is noise."""
  lead = round(round(after, 3) - round(before, 3), 3)
  return f"{lead:+.3f}{', within noise' if abs(lead) < NOISE else ''}"


def verdict(found: Mapping[str, Any]) -> str:
  """A sentence on gains and losses, and on the candidate that was chosen."""
  said = [
    f"{suite} {change(found['before'][suite]['mean'], after['mean'])}"
    for suite, after in found["after"].items()
  ]
  said.append(f"handed over: {found['chosen']} ({found['reason']})")
  return f"{'; '.join(said)}."


def path_rows(
  points: Sequence[Mapping[str, Any]],
) -> tuple[list[str], list[list[str]]]:
  """Header and rows of a table with the scores of the points."""
  names = [name for name in points[0] if name not in _ABOUT]
  shown = [
    [str(point["name"]), *map(page.figure, point_scores(point))]
    for point in points
  ]
  return [*PATH_HEADER, *names], shown


def point_scores(point: Mapping[str, Any]) -> list[float]:
  """A point's scores, without the keys that identify it."""
  return [value for name, value in point.items() if name not in _ABOUT]


def forecast(found: Mapping[str, Any]) -> str:
  """The forecast time beside the time it took."""
  off = found["took"] / found["seconds"] - 1
  return (
    f"forecast {page.duration(found['seconds'])}, took"
    f" {page.duration(found['took'])} ({100 * off:+.0f}%)"
  )


def tables(found: Mapping[str, Any]) -> Iterator[Table]:
  """The same tables for the terminal."""
  yield Table(HEADER, rows(found), "Before and after")
  header, shown = path_rows(found["points"])
  yield Table(header, shown, "Candidates")
