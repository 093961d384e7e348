"""Floating-point operations that a step needs: the numerator of the MFU.

They are three times those of the forward pass (`model.flops`), as if every
parameter were trained. For pairs, each query against each positive of the
global batch counts at every Matryoshka dimension; the optimizer does not count.
"""

from embeddinggemma.training import stages
from embeddinggemma.training.config import TrainConfig

_BACKWARD = 3  # one for the forward pass and two for the gradients


def of_step(config: TrainConfig) -> float:
  """Operations of a step on the whole mesh, with texts of max_length tokens."""
  return float(_BACKWARD * stages.kind_of(config).flops(config))
