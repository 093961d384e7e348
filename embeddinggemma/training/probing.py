"""When a training looks at its vectors, beside the steps that move weights."""

from collections.abc import Callable
from typing import Any

from embeddinggemma.losses.objectives import SEEN
from embeddinggemma.types import Metrics, PairBatch, Seen

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

  def __init__(self, program: Program, every: int, steps: int):
    self._program, self._every, self._steps = program, every, steps
    self._reads_tokens = False

  def __call__(self, step: int, metrics: Metrics, batch: Any) -> Metrics:
    """The metrics of a step, without what it showed."""
    found = {name: x for name, x in metrics.items() if name != SEEN}
    if SEEN in metrics and is_due(step, self._every, self._steps):
      found |= self._figures(metrics[SEEN], batch)
    return found

  def _figures(self, seen: Seen, batch: PairBatch) -> Metrics:
    """The probe's, of a batch without tokens: one program for all its shapes.

    A term from elsewhere may read tokens. Then there is a program a shape.
    """
    if not self._reads_tokens:
      try:
        return self._program(seen, without_tokens(batch))
      except (AttributeError, TypeError):  # of None, where it looks for tokens
        self._reads_tokens = True
    return self._program(seen, batch)


def without_tokens(batch: PairBatch) -> PairBatch:
  """A batch that says of its texts only which there are."""
  sides: dict[str, Any] = {
    side: text._replace(ids=None, segment_ids=None)
    for side in ("query", "positive", "negative")
    if (text := getattr(batch, side)) is not None
  }
  return batch._replace(**sides)
