"""Draws of rows -> packed batches -> global arrays, ahead of the step."""

from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple

import grain
import jax
import numpy as np
from jaxtyping import Int

from embeddinggemma import sharding
from embeddinggemma.data import mixture, packing
from embeddinggemma.data.mixture import Draw, Rows
from embeddinggemma.types import BadInput, PairBatch, Weights

_EMPTY = np.zeros(0, np.int32)
# Batches of a task that are packed in advance to size its rows.
_PROBES = 4


class Loaded(NamedTuple):
  """A batch with what the logs say of it."""

  batch: PairBatch
  task: str
  rows: Int[np.ndarray, "n"]  # in stream order, which no mesh changes
  tokens: int  # real ones
  capacity: int  # positions


class Shape(NamedTuple):
  """Rows and length of a task's packed queries or positives."""

  rows: int
  length: int


class Packer:
  """Draw -> Loaded: few shapes a task, computed from stored lengths alone."""

  def __init__(
    self, tasks: Mapping[str, Rows], batch_size: int, groups: int, seed: int
  ):
    if batch_size % groups:
      raise BadInput(
        f"batch_size={batch_size} does not divide into {groups} groups"
        " (devices x groups_per_device); use a multiple of it"
      )
    self._tasks, self._names = tasks, sorted(tasks)
    self._batch_size, self._groups = batch_size, groups
    self._shapes = {
      task: self._shape_of(mixture.Epochs(rows, batch_size, seed), rows)
      for task, rows in tasks.items()
    }

  def _lengths(self, draw: Draw) -> Int[np.ndarray, "B 2"]:
    lengths = self._tasks[draw.task].lengths[draw.rows]
    return np.pad(lengths, ((0, self._batch_size - len(lengths)), (0, 0)))

  def _deal(self, lengths: Int[np.ndarray, "B 2"]) -> Int[np.ndarray, "G b"]:
    return packing.deal(lengths.sum(axis=1), self._groups)

  def _shape_of(
    self, epochs: mixture.Epochs, rows: Rows
  ) -> tuple[Shape, Shape]:
    """Lengths hold the task's longest text, rows its first few batches."""
    longest = rows.lengths.max(axis=0)
    probes = [self._lengths(epochs[i]) for i in range(_PROBES)]
    dealt = [self._deal(lengths) for lengths in probes]

    def shape(side: int) -> Shape:
      length = packing.rung(int(longest[side]))
      needed = [
        packing.rows_needed(lengths[:, side], groups, length)
        for lengths, groups in zip(probes, dealt)
      ]
      return Shape(max(needed), length)

    return shape(0), shape(1)

  def _pack(
    self, texts: Any, lengths: Any, groups: Any, shape: Shape
  ) -> tuple[Any, int]:
    needed = packing.rows_needed(lengths, groups, shape.length)
    # A fuller batch than the probes: the next rung of a short ladder.
    step = max(1, shape.rows // 16)
    rows = shape.rows + max(0, -(-(needed - shape.rows) // step)) * step
    text = packing.pack(texts, groups, shape.length, rows)
    return text, text.ids.size

  def __call__(self, draw: Draw) -> Loaded:
    rows = self._tasks[draw.task]
    lengths = self._lengths(draw)
    groups = self._deal(lengths)
    pad = [_EMPTY] * (self._batch_size - len(draw.rows))
    sides = [
      self._pack(
        [texts[i] for i in draw.rows] + pad, lengths[:, side], groups, shape
      )
      for side, (texts, shape) in enumerate(
        zip((rows.query, rows.positive), self._shapes[draw.task])
      )
    ]
    keys = np.zeros((self._batch_size, 2), np.uint32)
    keys[: len(draw.rows)] = rows.keys[draw.rows]
    batch = PairBatch(
      query=sides[0][0],
      positive=sides[1][0],
      negative=None,
      teacher=None,
      keys=keys[groups.reshape(-1)],
      task=np.int32(self._names.index(draw.task)),
    )
    tokens, capacity = int(lengths.sum()), sides[0][1] + sides[1][1]
    return Loaded(batch, draw.task, draw.rows, tokens, capacity)


def load(
  tasks: Mapping[str, Rows],
  weights: Weights,
  batch_size: int,
  groups: int,
  seed: int,
) -> grain.MapDataset:
  """Step -> Loaded, on the host."""
  kept = {task: tasks[task] for task in weights}
  packer = Packer(kept, batch_size, groups, seed)
  return mixture.draws(kept, weights, batch_size, seed).map(packer)


class Stream:
  """Batches as global arrays; its position is saved with the state.

  `state()` before `next` is the position of the batch that `next` gives.
  """

  def __init__(self, dataset: grain.MapDataset, mesh: jax.sharding.Mesh):
    options = grain.ReadOptions(num_threads=1, prefetch_buffer_size=2)
    self._mesh = mesh
    self._iterator = iter(dataset.to_iter_dataset(options))

  def __iter__(self) -> Iterator[Loaded]:
    return self

  def __next__(self) -> Loaded:
    loaded = next(self._iterator)
    return loaded._replace(batch=sharding.to_devices(loaded.batch, self._mesh))

  def state(self) -> dict[str, Any]:
    """The position, as JSON."""
    return self._iterator.get_state()

  def restore(self, state: Mapping[str, Any]) -> None:
    """Goes on from a saved position."""
    self._iterator.set_state(dict(state))
