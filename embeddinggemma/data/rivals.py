"""Whether the pairs of the data have negatives in their batches.

A pair's in-batch negatives are the other pairs' positives, without those of
pairs that share its query or positive (equation 3). Data in which many pairs do
would train on little, and report a low loss and a high accuracy for it.
"""

from collections.abc import Mapping
from typing import NamedTuple, cast

import numpy as np
from jaxtyping import Bool, Int, UInt32

from embeddinggemma.data import mixture
from embeddinggemma.data.mixture import Rows
from embeddinggemma.types import Weights

_DRAWN = 32  # batches that are looked at


class Drawn(NamedTuple):
  """What the first batches of a training hold."""

  share: float  # of their pairs that have no negative
  empty: int  # batches in which no pair has any
  batches: int


def alone(
  keys: UInt32[np.ndarray, "n 2"], fewest: int = 1
) -> Bool[np.ndarray, "n"]:
  """True where fewer pairs share neither query nor positive of this one."""
  both = keys[:, 0].astype(np.uint64) << np.uint64(32) | keys[:, 1]
  sharing = _count(keys[:, 0]) + _count(keys[:, 1]) - _count(both)
  return len(keys) - sharing < fewest


def _fewest(rows: Rows) -> int:
  """How many others a row is to be compared with: a single text with two.

  One alone would have all of any distribution.
  """
  return 2 if rows.positive is None else 1


def _count(values: np.ndarray) -> Int[np.ndarray, "n"]:
  """How often each value occurs."""
  _, places, counts = np.unique(values, return_inverse=True, return_counts=True)
  return counts[places]


def without_negatives(
  rows: Rows, chosen: Int[np.ndarray, "b"]
) -> Bool[np.ndarray, "b"]:
  """True for rows of a batch without a negative, of the batch or their own."""
  own = (rows.lengths[chosen, 2:] > 0).any(axis=1)
  return alone(rows.keys[chosen], _fewest(rows)) & ~own


def never(rows: Rows, batch_size: int) -> bool:
  """Whether no pair of a task has a negative in any batch that is drawn."""
  everything = np.arange(len(rows))
  if batch_size <= _fewest(rows):
    return not (rows.lengths[:, 2:] > 0).any()
  return bool(without_negatives(rows, everything).all())


def drawn(
  tasks: Mapping[str, Rows],
  weights: Weights,
  batch_size: int,
  seed: int,
  steps: int,
) -> Drawn:
  """How many pairs of a training's first batches have no negative."""
  draws = mixture.draws(tasks, weights, batch_size, seed)
  found = []
  for index in range(min(steps, _DRAWN)):
    draw = cast(mixture.Draw, draws[index])
    found.append(without_negatives(tasks[draw.task], draw.rows))
  share = float(np.concatenate(found).mean())
  return Drawn(share, sum(bool(x.all()) for x in found), len(found))
