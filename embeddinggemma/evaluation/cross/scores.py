"""Scores of languages: their mean, and the means of families.

A metric's value is the mean over languages, each of which counts the same
however many questions it has. Beside it stand METRIC/LANGUAGE and
METRIC/FAMILY. Languages mixed with English have a mean of their own.
"""

import collections
import statistics
from collections.abc import Collection, Mapping, Sequence
from typing import Any

import numpy as np
from jaxtyping import Float

from embeddinggemma.evaluation import metrics
from embeddinggemma.evaluation.cross import languages
from embeddinggemma.evaluation.scoring import bootstrap
from embeddinggemma.evaluation.scoring.scored import Scored

CODE_SWITCHING = "code-switching"

_PARTS = (
  *languages.LANGUAGES,
  *(name + languages.CODE_SWITCHED for name in languages.LANGUAGES),
  *languages.FAMILIES,
  CODE_SWITCHING,
)


def names(*metrics: str) -> tuple[str, ...]:
  """All names of values that `of_languages` may give for some metrics."""
  parts = (f"{metric}/{part}" for metric in metrics for part in _PARTS)
  return (*metrics, *parts)


def counted(asked: Collection[str], paper: Collection[str]) -> list[str]:
  """The languages over which a mean is taken, of those that were asked.

  They are the paper's; without one of those, all that are not mixed with
  English, or else all.
  """
  plain = [name for name in asked if not languages.is_code_switched(name)]
  return [name for name in plain if name in paper] or plain or list(asked)


def of_languages(
  metric: str, values: Mapping[str, float], paper: Collection[str]
) -> dict[str, float]:
  """A metric's mean, and its value for each language and family."""
  means = counted(values, paper)
  found = {metric: statistics.fmean(values[name] for name in means)}
  found |= {f"{metric}/{name}": value for name, value in values.items()}
  for group, members in groups(values, paper).items():
    mean = statistics.fmean(values[name] for name in members)
    found[f"{metric}/{group}"] = mean
  return found


def of_questions(
  asked: Sequence[str],
  judged: Mapping[str, Float[np.ndarray, "Q"]],
  paper: Collection[str],
) -> Scored:
  """Each metric as `of_languages` gives it, and what its mean's interval needs.

  Args:
    asked: the language of each question.
    judged: metric -> its value for each question.
    paper: the languages that the paper's mean is over.
  """
  named = np.array(asked)
  present = list(dict.fromkeys(asked))
  means = counted(present, paper)
  places = {name: place for place, name in enumerate(means)}
  group = np.array([places.get(name, -1) for name in asked], np.int64)
  found: dict[str, float] = {}
  for metric, values in judged.items():
    by = {name: float(np.mean(values[named == name])) for name in present}
    found |= of_languages(metric, by, paper)
  resampled = {
    metric: bootstrap.mean_of_groups(values, group)
    for metric, values in judged.items()
  }
  return Scored(metrics.finite(found), len(asked), resampled)


def groups(
  asked: Collection[str], paper: Collection[str]
) -> dict[str, list[str]]:
  """Family -> its languages among those counted; the largest family first."""
  found: dict[str, list[str]] = collections.defaultdict(list)
  means = counted(asked, paper)
  for name in sorted(means):
    if not languages.is_code_switched(name):
      found[languages.family_of(name)].append(name)
  ordered = sorted(found.items(), key=lambda item: (-len(item[1]), item[0]))
  mixed = sorted(filter(languages.is_code_switched, asked))
  return dict(ordered) | ({CODE_SWITCHING: mixed} if mixed else {})


def breakdown(
  asked: Sequence[str],
  paper: Collection[str],
  scores: Mapping[str, Mapping[str, float]],
) -> dict[str, Any]:
  """The scores of a task by family and language, for files and tables.

  Args:
    asked: the language of each question.
    paper: the languages that the paper's mean is over.
    scores: dimension -> what `of_languages` gave, of all metrics.

  Returns {"mean": row, "families": {family: row}, "languages": {language:
  row}}; a row is {"members" or, of a language, "name"; "questions"; "scores":
  {dimension: {metric: value}}}. A language that is in no family is not in the
  mean.
  """
  number = collections.Counter(asked)
  scored = [name for name in sorted(number) if _of(name, scores)]
  of_group = lambda members, values: {
    "members": members,
    "questions": sum(number[name] for name in members),
    "scores": values,
  }
  whole = {
    dim: {name: value for name, value in values.items() if "/" not in name}
    for dim, values in scores.items()
  }
  return {
    "mean": of_group(counted(scored, paper), whole),
    "families": {
      group: of_group(members, _of(group, scores))
      for group, members in groups(scored, paper).items()
    },
    "languages": {
      name: {
        "name": languages.called(name),
        "questions": number[name],
        "scores": _of(name, scores),
      }
      for name in scored
    },
  }


def _of(
  part: str, scores: Mapping[str, Mapping[str, float]]
) -> dict[str, dict[str, float]]:
  """Dimension -> metric -> value of a language or family; {} without any."""
  found = {
    dim: {
      metric.removesuffix(f"/{part}"): value
      for metric, value in values.items()
      if metric.endswith(f"/{part}")
    }
    for dim, values in scores.items()
  }
  return {dim: values for dim, values in found.items() if values}
