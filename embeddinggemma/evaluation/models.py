"""Mean scores of models by task type."""

import pathlib
from collections.abc import Mapping, Sequence
from typing import Any

from embeddinggemma.evaluation import suite
from embeddinggemma.loading import Model, load


def compare(
  models: Mapping[str, pathlib.Path], tasks: Sequence[suite.EvalTask]
) -> dict[str, Any]:
  """Scores of models: {model: {task type or "mean": score}}.

  They are at full dimension. Without tasks, the result is {}.
  """
  if not tasks:
    return {}
  return {name: with_mean(place, tasks) for name, place in models.items()}


def with_mean(
  place: pathlib.Path, tasks: Sequence[suite.EvalTask]
) -> dict[str, float]:
  """{task type or "mean": score} of a checkpoint or workdir."""
  return scores_with_mean(load(place), tasks)


def scores_with_mean(
  model: Model, tasks: Sequence[suite.EvalTask]
) -> dict[str, float]:
  """{task type or "mean": score} of a loaded model."""
  return suite.with_mean(score(model, tasks))


def score(model: Model, tasks: Sequence[suite.EvalTask]) -> dict[str, float]:
  """Task type -> the mean of its tasks' main metrics, at full dimension."""
  return suite.by_type(suite.evaluate(model, tasks, [model.config.embed_dim]))
