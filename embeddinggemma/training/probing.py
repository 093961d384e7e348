"""When a training looks at its vectors, beside the steps that move weights."""

from collections.abc import Callable
from typing import Any

import jax
import numpy as np
from jax.sharding import Mesh

from embeddinggemma import sharding
from embeddinggemma.losses.objectives import SEEN
from embeddinggemma.types import Metrics, PairBatch, Seen, Text

Program = Callable[[Seen, Any], Metrics]


def is_due(step: int, every: int, steps: int) -> bool:
  """Whether a training of so many steps looks after this one.

  It does at each multiple of `every`, and at the first step, to which later ones
  are compared, unless that would be the only look.
  """
  return 0 < every <= steps and (step == 1 or step % every == 0)


class Prober:
  """Adds a probe's figures to the metrics of the steps where it is due.

  The probe is queued behind the step on the device, and its figures are read
  with those of the step, while the next one runs.
  """

  def __init__(self, program: Program, every: int, steps: int, mesh: Mesh):
    self._program, self._mesh = program, mesh
    self._every, self._steps = every, steps
    self._empty: dict[int, jax.Array] = {}

  def __call__(self, step: int, metrics: Metrics, batch: Any) -> Metrics:
    """The metrics of a step, without what it showed."""
    found = {name: x for name, x in metrics.items() if name != SEEN}
    if SEEN in metrics and is_due(step, self._every, self._steps):
      found |= self._program(metrics[SEEN], self._without_tokens(batch))
    return found

  def _without_tokens(self, batch: PairBatch) -> PairBatch:
    """The batch with texts of no length, so that all shapes are one program."""

    def emptied(text: Text | None) -> Text | None:
      if text is None:
        return None
      none = self._none(text.valid.shape[0])
      return text._replace(ids=none, segment_ids=none)

    sides = ("query", "positive", "negative")
    return batch._replace(**{s: emptied(getattr(batch, s)) for s in sides})

  def _none(self, groups: int) -> jax.Array:
    if groups not in self._empty:
      zeros = np.zeros((groups, 1, 1), np.int32)
      self._empty[groups] = sharding.to_devices(zeros, self._mesh)
    return self._empty[groups]
