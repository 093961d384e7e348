"""A check of each step: values that are not finite, norms that jump."""

import collections
import statistics
from collections.abc import Iterable

from embeddinggemma.config import GuardConfig
from embeddinggemma.losses import objectives
from embeddinggemma.training.fit import StepInfo, finite

_FEWEST = 10  # norms that a meaningful median needs


class Guard:
  """Returns what is wrong with a step, or "".

  A gradient norm above `jump` times the median of the last ones is a fault: the
  gradients of tied tables were silently corrupted on TPUs (openxla/xla 38597),
  and a broken chip has the same effect. `norms` are those of earlier steps, so
  that a resumed run decides like one that was not stopped. A batch that moved
  nothing has no norm to compare.
  """

  def __init__(self, config: GuardConfig, norms: Iterable[float] = ()):
    self._jump = config.jump
    self._norms = collections.deque(norms, config.window)

  def __call__(self, info: StepInfo) -> str:
    """What is wrong with the metrics of a step, or ""."""
    if fault := finite(info):
      return fault
    if info.metrics.get(objectives.IDLE):
      return ""
    norm = info.metrics["grad_norm"]
    if self._jump and len(self._norms) >= _FEWEST:
      median = statistics.median(self._norms)
      if norm > self._jump * median:
        return (
          f"grad_norm is {norm:.4g}, {norm / median:.1f} times the median of"
          f" the last {len(self._norms)} steps"
        )
    self._norms.append(norm)
    return ""
