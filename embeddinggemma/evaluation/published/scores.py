"""Scores that are set beside published ones: of `evaluate`, or of any mapping.

A file of scores is what `evaluate` wrote, a recipe's summary.json, or an object
of tasks: {NAME: score}, or {"tasks": {NAME: score or {"main_score": score,
...}}} with settings beside it, such as {"dimension": 768}.
"""

import math
import pathlib
from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple

from embeddinggemma.data import jsonl
from embeddinggemma.evaluation import kinds
from embeddinggemma.evaluation.quality import MODEL
from embeddinggemma.types import IDENTITY, BadInput

OWN = "this program's own runner"
_SETTINGS = frozenset(
  [
    "model",
    "suite",
    "dimension",
    "dim",
    "precision",
    "max_length",
    "mteb_version",
    "dataset_revision",
    "prompts",
    IDENTITY,
  ]
)
_SIDES = {"text": "query", "queries": "query", "documents": "document"}
_EXPECTED = 'expected what `evaluate` writes, or {"tasks": {NAME: score}}'


class Score(NamedTuple):
  """The scores of one task, between -1 and 1."""

  # Dimension -> metric -> value. The dimension is 0 where it was not recorded,
  # the metric "" where none was named.
  at: Mapping[int, Mapping[str, float]]
  main: str  # the metric that the task is judged by
  # "query" or "document" -> the words before it; None: not recorded.
  prompts: Mapping[str, str] | None = None
  revision: str = ""  # of the data


class Scores(NamedTuple):
  """The scores of a model and the settings that they were made with."""

  tasks: Mapping[str, Score]
  suite: str = ""  # whose tasks they are said to be; "": not said
  precision: str = ""
  max_length: int | None = None  # tokens after which a text is cut
  runner: str = ""  # what computed them


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
  versions = {about.get("mteb_version") for about in _abouts(found)} - {None}
  runner = ", ".join(
    f"mteb {version}" for version in sorted(map(str, versions))
  )
  return Scores(
    tasks,
    _text(found, "suite"),
    str(precision or ""),
    longest if isinstance(longest, int) else None,
    runner or (OWN if "quality" in found else ""),
  )


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
    yield name, Score(at, main, _prompts(prompts.get(name)))


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


def _listed(found: Mapping[str, Any]) -> Iterator[tuple[str, Score]]:
  """The tasks of an object that names them, with a score each."""
  if "tasks" in found:
    tasks = _object(found["tasks"], "tasks")
  else:
    tasks = {k: v for k, v in found.items() if k not in _SETTINGS}
  values = {name: _score_of(name, about) for name, about in tasks.items()}
  percent = any(abs(value) > 1 for value in values.values())
  dim = _dimension(found.get("dimension", found.get("dim", 0)))
  for name, value in values.items():
    about = tasks[name] if isinstance(tasks[name], Mapping) else {}
    if abs(value) > 100:
      raise ValueError(f"{name} is {value}, above 100 percent")
    metric = _text(about, "metric") or _text(about, "main_metric")
    yield (
      name,
      Score(
        {dim: {metric: value / 100 if percent else value}},
        metric,
        _prompts(about.get("prompts")),
        _text(about, "dataset_revision"),
      ),
    )


def _abouts(found: Mapping[str, Any]) -> list[Mapping[str, Any]]:
  """What is said of all tasks, and of each."""
  tasks = found.get("tasks")
  each = tasks.values() if isinstance(tasks, Mapping) else found.values()
  return [found, *(about for about in each if isinstance(about, Mapping))]


def _score_of(name: str, about: Any) -> float:
  value = about
  if isinstance(about, Mapping):
    value = about.get("main_score", about.get("score"))
  return _number(value, name)


def _prompts(about: Any) -> dict[str, str] | None:
  """The prompts of a task, by side; None: not recorded.

  Texts of a task without sides, as mteb runs it, are its queries.
  """
  if not isinstance(about, Mapping):
    return None
  return {_SIDES.get(side, side): str(v or "") for side, v in about.items()}


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
