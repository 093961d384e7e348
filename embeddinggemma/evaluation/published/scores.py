"""Scores that are set beside published ones: of `evaluate`, or of any mapping.

A file of scores is what `evaluate` wrote, of its own runner or of mteb's, a
recipe's summary.json, or an object of tasks: {NAME: score}, or {"tasks": {NAME:
score or {"score": score, ...}}} with settings beside it, such as {"dimension":
768}. A score that is missing is null.
"""

import math
import pathlib
import re
from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple

from embeddinggemma.data import jsonl
from embeddinggemma.evaluation import kinds
from embeddinggemma.evaluation.cross import mteb_tasks
from embeddinggemma.evaluation.kinds import cross_lingual
from embeddinggemma.evaluation.published import names, tables
from embeddinggemma.evaluation.quality import MODEL
from embeddinggemma.types import IDENTITY, BadInput

OWN = "this program's own runner"
# What stands beside tasks in an object of them.
_SETTINGS = frozenset(
  [
    "model",
    "suite",
    "dimension",
    "dim",
    "precision",
    "max_length",
    "search",
    "mteb",
    "mteb_version",
    IDENTITY,
  ]
)
_SIDES = {"text": "query", "queries": "query", "documents": "document"}
# A metric that is told by language -> the benchmark, whose languages are tasks in
# the tables.
_BY_LANGUAGE = {
  "recall@5kt": cross_lingual.XOR,
  "recall@2kt": cross_lingual.XOR,
  "mrr@10": cross_lingual.XTREME,
}
# The same where mteb scored it, whose subsets are languages.
OF_MTEB = {
  mteb_tasks.XOR: cross_lingual.XOR,
  mteb_tasks.XTREME: cross_lingual.XTREME,
}
_EXPECTED = 'expected what `evaluate` writes, or {"tasks": {NAME: score}}'


class Part(NamedTuple):
  """A part of a task's data with its main score, as mteb has it."""

  split: str
  subset: str
  score: float


class Score(NamedTuple):
  """The scores of one task, between -1 and 1."""

  # Dimension -> metric -> value. The dimension is 0 where it was not recorded,
  # the metric "" where none was named.
  at: Mapping[int, Mapping[str, float]]
  main: str  # the metric that the task is judged by
  # "query" or "document" -> the words before it; None: not recorded.
  prompts: Mapping[str, str] | None = None
  revision: str = ""  # of the data
  parts: tuple[Part, ...] = ()  # whose mean it is; (): not recorded


class Scores(NamedTuple):
  """The scores of a model and the settings that they were made with."""

  tasks: Mapping[str, Score]
  suite: str = ""  # whose tasks they are said to be; "": not said
  precision: str = ""
  max_length: int | None = None  # tokens after which a text is cut
  runner: str = ""  # what computed them
  search: str = ""  # "hybrid": with words as well


def read(path: pathlib.Path) -> Scores:
  """The scores in a JSON file; BadInput for any other file."""
  if path.is_dir():
    raise BadInput(f"{path} is a folder; name the JSON that `evaluate` wrote")
  if not path.is_file():
    raise BadInput(f"{path} does not exist; name a JSON that `evaluate` wrote")
  try:
    found = jsonl.parse_json(path.read_bytes().removeprefix(b"\xef\xbb\xbf"))
    return of_json(found)
  except ValueError as error:
    raise BadInput(f"{path}: {error}") from None


def of_json(found: Any) -> Scores:
  """The scores in a JSON value; ValueError with the reason if it has none."""
  if not isinstance(found, Mapping):
    kind = type(found).__name__
    raise ValueError(f"not an object but {kind}; {_EXPECTED}")
  tasks = dict(_evaluated(found) if "quality" in found else _listed(found))
  if not tasks:
    raise ValueError(f"no scores; {_EXPECTED}")
  identity = _object(found.get(IDENTITY) or {}, IDENTITY)
  precision = found.get("precision", identity.get("precision"))
  longest = found.get("max_length", identity.get("max_length"))
  versions = {_version(about) for about in _abouts(found)} - {""}
  runner = ", ".join(f"mteb {version}" for version in sorted(versions))
  suite = _text(found, "suite")
  named = set(map(names.plain, re.split(r",\s*", suite)))
  return Scores(
    tasks,
    "" if named & set(map(names.plain, tasks)) else suite,
    str(precision or ""),
    longest if isinstance(longest, int) else None,
    runner or (OWN if "quality" in found else ""),
    _text(found, "search"),
  )


def by_side(about: Any) -> dict[str, str] | None:
  """The prompts of a task by "query" and "document"; None: not recorded.

  Texts of a task without sides, as mteb runs it, are its queries.
  """
  if not isinstance(about, Mapping):
    return None
  return {_SIDES.get(side, side): str(v or "") for side, v in about.items()}


def _evaluated(found: Mapping[str, Any]) -> Iterator[tuple[str, Score]]:
  """The tasks of what `evaluate` wrote."""
  systems = _object(found["quality"], "quality")
  if MODEL not in systems:
    raise ValueError(f"no scores of {MODEL!r} under 'quality'; {_EXPECTED}")
  summary = _object(found.get("summary") or {}, "summary")
  mains = _object(summary.get("main") or {}, "summary.main")
  prompts = _object(found.get("prompts") or {}, "prompts")
  for name, dims in _object(systems[MODEL], f"quality.{MODEL}").items():
    at = {
      _dimension(dim): _values(values, f"{name} at {dim}")
      for dim, values in _object(dims, name).items()
    }
    if not at:
      raise ValueError(f"{name} has no scores; {_EXPECTED}")
    main = mains.get(name) or _main(next(iter(at.values())))
    for values in at.values():
      if abs(values.get(main, 0)) > 1 + 1e-6:
        raise ValueError(f"{name}: {main} is {values[main]}, above 1")
    score = Score(at, main, by_side(prompts.get(name)))
    yield from _by_language(score) or [(name, score)]


def _values(values: Any, name: str) -> dict[str, float]:
  """The metrics of a task that are numbers; intervals and such are left."""
  found = {
    metric: _number(value, f"{name}: {metric}")
    for metric, value in _object(values, name).items()
    if not isinstance(value, Mapping | list)
  }
  if not found:
    raise ValueError(f"{name} has no scores; {_EXPECTED}")
  return found


def _main(values: Mapping[str, float]) -> str:
  """The metric that a task is judged by, where the file does not say it."""
  try:
    return kinds.main_metric(values)
  except StopIteration:
    return next(iter(values))


def _by_language(score: Score) -> list[tuple[str, Score]]:
  """A task's scores by language, as METRIC/LANGUAGE, as tasks of their own.

  Languages are those of the tables; means of families are left.
  """
  known = {task for suite in tables.read() for task in suite.tasks}
  found: dict[str, dict[int, dict[str, float]]] = {}
  for dim, values in score.at.items():
    for name, value in values.items():
      metric, _, language = name.partition("/")
      task = f"{_BY_LANGUAGE.get(metric)}/{language}"
      if task in known:
        found.setdefault(task, {}).setdefault(dim, {})[metric] = value
  return [(task, score._replace(at=at)) for task, at in found.items()]


def _listed(found: Mapping[str, Any]) -> Iterator[tuple[str, Score]]:
  """The tasks of an object that names them, with a score each."""
  if "tasks" in found:
    tasks = _object(found["tasks"], "tasks")
  else:
    tasks = {k: v for k, v in found.items() if k not in _SETTINGS}
  values = {
    name: _number(value, name)
    for name, about in tasks.items()
    if (value := _score_of(about, name)) is not None
  }
  whole = 100 if any(abs(value) > 1 for value in values.values()) else 1
  dim = _dimension(found.get("dimension", found.get("dim", 0)))
  for name, value in values.items():
    if abs(value) > 100:
      raise ValueError(f"{name} is {value}, above 100 percent")
    about = tasks[name] if isinstance(tasks[name], Mapping) else {}
    metric = _text(about, "metric")
    score = Score(
      {dim: {metric: value / whole}},
      metric,
      by_side(about.get("prompts")),
      _text(about, "revision") or _text(about, "dataset_revision"),
      _parts(about.get("scores")) if whole == 1 else (),
    )
    yield from _by_subset(name, score) or [(name, score)]


def _by_subset(name: str, score: Score) -> list[tuple[str, Score]]:
  """The languages of a benchmark that mteb scored, as tasks of their own."""
  if name not in OF_MTEB:
    return []
  alone = lambda part: score._replace(
    at={dim: {score.main: part.score} for dim in score.at}, parts=()
  )
  tasks = {f"{OF_MTEB[name]}/{p.subset}": alone(p) for p in score.parts}
  return list(tasks.items())


def _score_of(about: Any, name: str) -> Any:
  """The score of a task, unchecked; None where it is null."""
  if not isinstance(about, Mapping):
    return about
  for key in ("score", "main_score"):
    if key in about:
      return about[key]
  raise ValueError(f"{name} has no score; {_EXPECTED}")


def _parts(splits: Any) -> tuple[Part, ...]:
  """The parts of {split: {subset: score}}; () of anything else."""
  if not isinstance(splits, Mapping):
    return ()
  return tuple(
    Part(split, subset, _number(value, f"{split}/{subset}"))
    for split, subsets in splits.items()
    for subset, value in _object(subsets, split).items()
  )


def _abouts(found: Mapping[str, Any]) -> list[Mapping[str, Any]]:
  """What is said of all tasks, and of each."""
  tasks = found.get("tasks")
  each = tasks.values() if isinstance(tasks, Mapping) else found.values()
  return [found, *(about for about in each if isinstance(about, Mapping))]


def _version(about: Mapping[str, Any]) -> str:
  """mteb's version, of those who scored with it."""
  return _text(about, "mteb_version") or _text(about, "mteb")


def _object(value: Any, name: str) -> Mapping[str, Any]:
  if not isinstance(value, Mapping):
    raise ValueError(f"{name!r} is no object; {_EXPECTED}")
  return value


def _text(about: Mapping[str, Any], key: str) -> str:
  value = about.get(key)
  return value if isinstance(value, str) else ""


def _dimension(value: Any) -> int:
  try:
    return int(value)
  except (TypeError, ValueError):
    raise ValueError(f"dimension {value!r} is no number; {_EXPECTED}") from None


def _number(value: Any, name: str) -> float:
  number = isinstance(value, int | float) and not isinstance(value, bool)
  if not number or not math.isfinite(value):
    raise ValueError(f"{name} is {value!r}, not a score; {_EXPECTED}")
  return float(value)
