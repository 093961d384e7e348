"""Means of checkpoints (paper section 3.4; T5Gemma 2 averages its last five)."""

import pathlib
from collections.abc import Sequence

import jax
import numpy as np

from embeddinggemma import checkpoint
from embeddinggemma.types import Params


def mean(checkpoints: Sequence[pathlib.Path]) -> Params:
  """The unweighted mean of checkpoints' parameters, summed in float32.

  One checkpoint is held beside the sum at a time.
  """
  total = None
  for path in checkpoints:
    params = checkpoint.read_params(path)
    add = lambda a, b: np.add(a, b, dtype=np.float32)
    total = params if total is None else jax.tree.map(add, total, params)
  count = np.float32(len(checkpoints))
  return jax.tree.map(lambda x: (x / count).astype(np.float32), total)
