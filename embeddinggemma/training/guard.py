"""What is wrong with a step: a value that is not finite, a norm that jumps."""

import collections
import statistics
from collections.abc import Iterable

from embeddinggemma.config import GuardConfig
from embeddinggemma.training.fit import StepInfo, finite

_FEWEST = 10  # norms whose median says anything


class Guard:
  """Names the fault of a step, or says "".

  A gradient norm that is `jump` times the median of the last ones is one: tied
  tables' gradients were silently corrupted on TPUs (openxla/xla 38597), and a
  broken chip looks alike. `norms` are those of the steps before, so that a run
  that was stopped judges like one that was not.
  """

  def __init__(self, config: GuardConfig, norms: Iterable[float] = ()):
    self._jump = config.jump
    self._norms = collections.deque(norms, config.window)

  def __call__(self, info: StepInfo) -> str:
    """Of the step's metrics."""
    if fault := finite(info):
      return fault
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
