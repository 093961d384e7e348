"""mteb's results as our JSON and table; means as on its leaderboard.

Scores are mteb's main scores, from 0 to 1 where the leaderboard has 0 to 100.
"""

import math
import statistics
from collections.abc import Mapping, Sequence
from typing import Any

from embeddinggemma.terminal.table import Table

Row = dict[str, Any]
_DIGITS = 6


def row(task: Any, result: Any) -> Row:
  """The scores of a task, from mteb's TaskResult of it.

  {"main_score": the mean over splits and subsets, "metric", "type",
  "languages", "dataset", "dataset_revision", "mteb_version", "seconds",
  "scores": {split: {subset: main score}}}. A score that is no number is None.
  """
  kept = result.validate_and_filter_scores(task)
  scores = {
    split: {one["hf_subset"]: _number(one["main_score"]) for one in found}
    for split, found in kept.scores.items()
  }
  languages = {
    language
    for found in kept.scores.values()
    for one in found
    for language in one["languages"]
  }
  return {
    "main_score": _mean([s for one in scores.values() for s in one.values()]),
    "metric": task.metadata.main_score,
    "type": task.metadata.type,
    "languages": sorted(languages),
    "dataset": task.metadata.dataset.get("path"),
    "dataset_revision": result.dataset_revision,
    "mteb_version": result.mteb_version,
    "seconds": _number(result.evaluation_time),
    "scores": scores,
  }


def means(tasks: Sequence[Any], rows: Mapping[str, Row]) -> dict[str, Any]:
  """{"types": {type: mean of its tasks}, "mean_task", "mean_type"}.

  As on the leaderboard, a mean is None where one of its scores is missing.
  """
  by_type: dict[str, list[float | None]] = {}
  for task in tasks:
    score = rows.get(task.metadata.name, {}).get("main_score")
    by_type.setdefault(task.metadata.type, []).append(score)
  types = {name: _mean(scores) for name, scores in by_type.items()}
  every = [score for scores in by_type.values() for score in scores]
  return {
    "types": types,
    "mean_task": _mean(every),
    "mean_type": _mean(list(types.values())),
  }


def table(result: Mapping[str, Any]) -> Table:
  """A line for each task, each type and both means of a result."""
  shown = [
    [name, row["type"], row["metric"], figure(row["main_score"])]
    for name, row in result["tasks"].items()
  ]
  shown += [[name, "", "failed", "-"] for name in result["failed"]]
  types = result["types"]
  shown += [[f"mean of {t}", "", "", figure(s)] for t, s in types.items()]
  for key, title in (
    ("mean_task", "mean over tasks"),
    ("mean_type", "mean over types"),
  ):
    shown.append([title, "", "", figure(result[key])])
  title = f"mteb {result['mteb']['version']}, {result['mteb']['name']}"
  return Table(["", "type", "metric", "score"], shown, title)


def figure(score: float | None) -> str:
  """A score for people; "-" where there is none."""
  return "-" if score is None else f"{score:.4f}"


def _number(value: Any) -> float | None:
  """A finite number, with the digits of mteb's files; None for any other."""
  if value is None or not math.isfinite(float(value)):
    return None
  return round(float(value), _DIGITS)


def _mean(scores: Sequence[float | None]) -> float | None:
  known = [score for score in scores if score is not None]
  return (
    statistics.fmean(known) if known and len(known) == len(scores) else None
  )
