"""Scores of a task, with what is needed for their intervals."""

from collections.abc import Mapping
from typing import NamedTuple

import numpy as np
from jaxtyping import Float

from embeddinggemma.evaluation import metrics
from embeddinggemma.evaluation.scoring.bootstrap import Resampled, mean_of

MODEL = "model"  # the system whose scores are the model's own


class Scored(NamedTuple):
  """Scores of a task, and how those that can be are computed of a resample."""

  values: dict[str, float]  # metric -> value
  units: int = 0  # what is resampled: queries, pairs or texts
  # Metric -> (how often each unit was drawn, (R, units)) -> its values (R,).
  resampled: Mapping[str, Resampled] = {}


def of_units(by_unit: Mapping[str, Float[np.ndarray, "n"]]) -> Scored:
  """Scores that are means of a value for each unit."""
  resampled = {name: mean_of(values) for name, values in by_unit.items()}
  units = len(next(iter(by_unit.values())))
  return Scored(metrics.means(by_unit), units, resampled)
