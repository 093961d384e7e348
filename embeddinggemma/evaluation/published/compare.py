"""Scores beside the paper's, and beside those of other models.

Only equals are compared. A mean over tasks stands beside the paper's mean over
the same tasks, which the paper's scores by task give; beside a published mean
only if no task is missing.
"""

import statistics
from collections.abc import Collection, Mapping, Sequence
from typing import Any, NamedTuple

from embeddinggemma.config import suggest
from embeddinggemma.evaluation.kinds.task import EvalTask
from embeddinggemma.evaluation.published import names, settings, tables
from embeddinggemma.evaluation.published.scores import Score, Scores
from embeddinggemma.evaluation.published.tables import Result, Suite
from embeddinggemma.types import BadInput

KNOWN = (tables.PAPER,)  # what `evaluate --compare=` takes
# The rows that are compared, each with a published result of its own.
TASKS, TYPES, MEANS = "tasks", "types", "means"
_SHOWN = 5  # names in a message


def require_known(name: str) -> None:
  """Raise BadInput for a comparison that there is not."""
  if name not in KNOWN:
    raise BadInput(f"--compare={name}: unknown{suggest(name, [*KNOWN])}")


def require_tasks(given: Collection[str], where: str, suite: str = "") -> None:
  """Raise BadInput if none of the tasks is in a table.

  Args:
    given: their names.
    where: what has them, for the message.
    suite: whose tasks they are said to be; "" if that is not said.
  """
  known = [*_tasks_of(_suites(suite)), *_by_language()]
  matched, unknown = names.find(given, known)
  if not matched:
    shown = [_suggested(n, near) for n, near in unknown.items()][:_SHOWN]
    more = ", ..." if len(unknown) > _SHOWN else ""
    raise BadInput(
      f"{where}: no task of the paper's tables among {', '.join(shown)}{more};"
      " a task is known by mteb's name, such as STS12 or ArguAna"
    )


def names_of(tasks: Sequence[EvalTask]) -> list[str]:
  """The names by which tasks may be in the tables.

  Of a benchmark whose languages are tasks there, it is the benchmark's.
  """
  return [
    task.kind if task.kind in _by_language() else task.name for task in tasks
  ]


def _by_language() -> set[str]:
  """The benchmarks whose languages are tasks of the tables."""
  every = _tasks_of(tables.read())
  return {task.partition("/")[0] for task in every if "/" in task}


def _suggested(name: str, near: Sequence[str]) -> str:
  return f"{name} ({' or '.join(near)}?)" if near else name


def compare(scores: Scores) -> dict[str, Any]:
  """Scores beside the paper's, by suite, in percent.

  Scores that are said to be of a suite are compared with that one, others with
  every suite that has one of their tasks.

  Returns {"suites": {suite: {
    "at": {dimension: {"tasks": {task: row}, "types": {type: row}, "mean_task":
      row, "mean_type": row, "differs": [settings.Difference], "beside": {rows:
      {"model", "dimension", "precision", "source"}}}},
    "tasks": how many the suite has, "note": what is told of its results,
    "missing": those that were not scored,
    "published": [tables.Result without scores by task]}},
  "unknown": {name: names of tasks that are near}}, where a row is {"ours",
  "paper", "difference", "tasks": over how many, "of": how many there are,
  "published": the mean over all of them, "as": the task's name in `scores`}. A
  row without a paper's value has none of the same tasks.
  """
  suites = _suites(scores.suite)
  matched, unknown = names.find(scores.tasks, _tasks_of(suites))
  found = {}
  for suite in suites:
    own = {
      task: score
      for task in suite.tasks
      if task in matched and (score := _of_suite(suite, task, scores, matched))
    }
    if own:
      found[suite.name] = _beside(scores, suite, own, matched)
  return {"suites": found, "unknown": unknown}


def _of_suite(
  suite: Suite, task: str, scores: Scores, matched: Mapping[str, str]
) -> Score | None:
  """The score of a task over the parts of its data that a suite takes.

  None if there is none of them; the score as it is where parts are unknown.
  """
  score, subset = scores.tasks[matched[task]], suite.subsets.get(task)
  kept = tuple(
    part
    for part in score.parts
    if suite.split in ("", part.split) and subset in (None, part.subset)
  )
  if kept == score.parts:
    return score
  if not kept:
    return None
  mean = statistics.fmean(part.score for part in kept)
  at = {dim: {score.main: mean} for dim in score.at}
  return score._replace(at=at, parts=kept)


def _suites(name: str) -> Sequence[Suite]:
  """The suite that scores are said to be of, or else every one."""
  own = [suite for suite in tables.read() if settings.is_of(name, suite)]
  return own or tables.read()


def _tasks_of(suites: Sequence[Suite]) -> list[str]:
  return list(dict.fromkeys(task for suite in suites for task in suite.tasks))


class _Side(NamedTuple):
  """Scores at one dimension with the published results that stand beside."""

  suite: Suite
  ours: Mapping[str, float]  # task of the suite -> score in percent
  beside: Mapping[str, Result]  # TASKS, TYPES and MEANS, as far as published

  @property
  def missing(self) -> list[str]:
    """Tasks of the suite that were not scored."""
    return [task for task in self.suite.tasks if task not in self.ours]

  def paper(self, tasks: Sequence[str]) -> float | None:
    """The mean of the paper's scores of tasks; None if one is not published."""
    known = self.beside[TASKS].tasks if TASKS in self.beside else {}
    values = [known[task] for task in tasks if task in known]
    return statistics.fmean(values) if len(values) == len(tasks) else None


def _beside(
  scores: Scores,
  suite: Suite,
  scored: Mapping[str, Score],
  matched: Mapping[str, str],
) -> dict[str, Any]:
  """Scores on a suite beside the paper's, at each dimension."""
  dims = sorted(
    {d for score in scored.values() for d in score.at}, reverse=True
  )
  at = {}
  for dim in dims:
    own = {task: score for task, score in scored.items() if dim in score.at}
    side = _side(scores, suite, own, dim, dim == dims[0])
    differs = settings.differences(scores, suite, own, dim, side.beside)
    at[str(dim or "")] = {
      **_rows(side, matched),
      "differs": settings.as_json(differs),
      "beside": {rows: _about(r) for rows, r in side.beside.items()},
    }
  return {
    "at": at,
    "tasks": len(suite.tasks),
    "note": suite.note,
    "missing": sorted(set(suite.tasks) - set(scored), key=str.casefold),
    "published": [_published(result) for result in suite.results],
  }


def _side(
  scores: Scores,
  suite: Suite,
  scored: Mapping[str, Score],
  dim: int,
  is_largest: bool,
) -> _Side:
  ours = {
    task: 100 * settings.taken(score, dim, suite.tasks[task].metric)[1]
    for task, score in scored.items()
  }
  nearest = lambda results: _nearest(
    results, dim or None, settings.precision(scores), is_largest
  )
  paper = [r for r in suite.results if r.of == tables.PAPER and not r.left_out]
  by_task = nearest([r for r in paper if r.tasks])
  if by_task and len(ours) < len(suite.tasks):
    # Means over these tasks come from scores by task: what else is told is of
    # the same model.
    settings_of = lambda r: (r.dimension, r.precision)
    paper = [r for r in paper if settings_of(r) == settings_of(by_task)]
  results = {
    TASKS: by_task,
    TYPES: nearest([r for r in paper if r.types]),
    MEANS: nearest([r for r in paper if r.mean_task is not None]),
  }
  return _Side(suite, ours, {k: r for k, r in results.items() if r})


def _nearest(
  results: Sequence[Result],
  dim: int | None,
  precision: str,
  is_largest: bool,
) -> Result | None:
  """The result that differs in the fewest settings, the first of equals.

  A model's largest dimension is compared with the paper's whole vectors where
  there are none of its size; a smaller one only with its like.
  """
  fitting = [r for r in results if is_largest or r.dimension == dim]
  unlike = lambda result: (
    (dim is not None and result.dimension != dim)
    + (precision != "" and result.precision != precision)
  )
  return min(fitting, key=unlike, default=None)


def _rows(side: _Side, matched: Mapping[str, str]) -> dict[str, Any]:
  """All rows of a comparison: tasks, types and both means."""
  by_type = {
    kind: (tasks, [task for task in tasks if task in side.ours])
    for kind, tasks in side.suite.by_type().items()
  }
  scored = {kind: own for kind, (_, own) in by_type.items() if own}
  types = {
    kind: _type_row(side, kind, by_type[kind][0], own)
    for kind, own in scored.items()
  }
  return {
    "tasks": {
      task: {
        **_row(side.ours[task], side.paper([task])),
        "type": side.suite.tasks[task].type,
        "as": matched[task],
      }
      for own in scored.values()
      for task in own
    },
    "types": types,
    "mean_task": _mean_task(side),
    "mean_type": _mean_type(side, scored, len(by_type)),
  }


def _type_row(
  side: _Side, kind: str, tasks: Sequence[str], own: Sequence[str]
) -> dict[str, Any]:
  known = side.beside[TYPES].types if TYPES in side.beside else {}
  published = known.get(kind)
  whole = len(own) == len(tasks) and published is not None
  return {
    **_row(
      statistics.fmean(side.ours[task] for task in own),
      published if whole else side.paper(own),
    ),
    "tasks": len(own),
    "of": len(tasks),
    "published": published,
  }


def _mean_task(side: _Side) -> dict[str, Any]:
  result = side.beside.get(MEANS)
  published = result.mean_task if result else None
  whole = not side.missing and published is not None
  return {
    **_row(
      statistics.fmean(side.ours.values()),
      published if whole else side.paper(list(side.ours)),
    ),
    "tasks": len(side.ours),
    "of": len(side.suite.tasks),
    "published": published,
  }


def _mean_type(
  side: _Side, scored: Mapping[str, Sequence[str]], count: int
) -> dict[str, Any]:
  """The row of the mean over types; of the tasks of each type that were scored."""
  result = side.beside.get(MEANS)
  published = result.mean_type if result else None
  papers = [side.paper(own) for own in scored.values()]
  known = [value for value in papers if value is not None]
  same = statistics.fmean(known) if len(known) == len(papers) else None
  whole = not side.missing and published is not None
  means = [
    statistics.fmean(side.ours[t] for t in own) for own in scored.values()
  ]
  return {
    **_row(statistics.fmean(means), published if whole else same),
    "tasks": len(side.ours),
    "of": len(side.suite.tasks),
    "types": [len(scored), count],
    "published": published,
  }


def _row(ours: float, paper: float | None) -> dict[str, float | None]:
  return {
    "ours": round(ours, 4),
    "paper": None if paper is None else round(paper, 4),
    "difference": None if paper is None else round(ours - paper, 4),
  }


def _about(result: Result) -> dict[str, Any]:
  """Which published result was taken."""
  kept = ("model", "dimension", "precision", "source", "note")
  known = result._asdict()
  return {name: known[name] for name in kept if known[name]}


def _published(result: Result) -> dict[str, Any]:
  """A published result without its scores by task, and without what it lacks."""
  known = {k: v for k, v in result._asdict().items() if k != "tasks"}
  return {k: v for k, v in known.items() if v not in (None, "", (), {})}
