"""Turn draws of rows into packed batches, then global arrays, ahead of use."""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple, Protocol, runtime_checkable

import grain
import jax
import numpy as np
from jaxtyping import Int, Shaped

from embeddinggemma import sharding
from embeddinggemma.data import mixture, packing
from embeddinggemma.data.mixture import Draw, Rows
from embeddinggemma.data.text import Windows
from embeddinggemma.types import (
  DenoiseBatch,
  PairBatch,
  Teacher,
  Text,
  Weights,
)

_EMPTY = np.zeros(0, np.int32)
# How many pairs of a task are packed in advance to choose the shape of its
# batches, and at most how many batches: an epoch or two of a small task.
_PROBED_PAIRS, _MOST_PROBES = 2**16, 32
# The same for running text, whose examples must be generated for it.
_PROBED_TEXTS, _MOST_TEXT_PROBES = 2**13, 8
# Rows up to this length cost attention little, so one length serves all tasks.
_ROW = 256
_SHARING = 1 / 16


class Loaded(NamedTuple):
  """A packed batch, and what the logs report about it."""

  batch: Any  # PairBatch, Text or DenoiseBatch
  task: str
  rows: Int[np.ndarray, "n"]  # row ids in stream order, the same on any mesh
  tokens: int  # without padding
  capacity: int  # positions, padding included
  index: int = -1  # the batch's position in its stream


@runtime_checkable
class Example(Protocol):
  """Makes an example of a window of text: one side, or inputs and targets.

  It takes the window's tokens and its row id. A side has at most two tokens
  more than the window.
  """

  def __call__(
    self, tokens: Int[np.ndarray, "_"], row: int, /
  ) -> tuple[Int[np.ndarray, "_"], ...]: ...


class Side(NamedTuple):
  """The packed shape of one side (such as the queries) of a group."""

  rows: int
  length: int


Shape = tuple[Side, ...]  # query and, if there are any, positive and negatives


def _positions(shape: Shape) -> int:
  return sum(side.rows * side.length for side in shape)


def _union(a: Shape, b: Shape) -> Shape:
  """The smallest shape that holds both, which have equal row lengths."""
  return tuple(Side(max(x.rows, y.rows), x.length) for x, y in zip(a, b))


def _row_lengths_of(shape: Shape) -> tuple[int, ...]:
  return tuple(side.length for side in shape)


def share_shapes(shapes: Mapping[str, Shape]) -> dict[str, Shape]:
  """Let tasks share packed shapes, so that fewer programs are compiled.

  From the largest task down, a task joins an earlier one with equal row lengths
  if their union has at most 1/16 more positions than the smallest task in it
  needs.
  """
  shared: dict[Shape, list[str]] = {}
  for task, own in sorted(
    shapes.items(), key=lambda x: (-_positions(x[1]), x[0])
  ):
    joined, members = own, [task]
    for other, names in shared.items():
      if _row_lengths_of(own) != _row_lengths_of(other):
        continue
      union = _union(own, other)
      least = min(_positions(shapes[name]) for name in (*names, task))
      if _positions(union) <= least * (1 + _SHARING):
        members += shared.pop(other)
        joined = union
        break
    shared[joined] = shared.get(joined, []) + members
  return {task: shape for shape, tasks in shared.items() for task in tasks}


class Packer:
  """Packs a Draw of pairs into a Loaded batch, with few shapes for each task.

  Shapes are chosen in advance from the stored lengths of the texts. `vectors`
  are a teacher's embeddings, which `taught` of the tasks' rows indexes.
  """

  def __init__(
    self,
    tasks: Mapping[str, Rows],
    batch_size: int,
    groups: int,
    seed: int,
    vectors: Shaped[np.ndarray, "n T"] | None = None,
  ):
    packing.check_groups(batch_size, groups)
    self._vectors = vectors
    self._tasks, self._names = tasks, sorted(tasks)
    self._batch_size, self._groups = batch_size, groups
    longest = max(int(rows.lengths.max()) for rows in tasks.values())
    self._shortest_row = min(_ROW, packing.rung(longest))
    probes = min(max(_PROBED_PAIRS // batch_size, 1), _MOST_PROBES)
    self._shapes = share_shapes(
      {
        task: self._shape_of(
          rows, mixture.Epochs(rows, batch_size, seed), probes
        )
        for task, rows in tasks.items()
      }
    )

  def _lengths(self, draw: Draw) -> Int[np.ndarray, "B texts"]:
    lengths = self._tasks[draw.task].lengths[draw.rows]
    return np.pad(lengths, ((0, self._batch_size - len(lengths)), (0, 0)))

  def _deal(
    self, lengths: Int[np.ndarray, "B texts"]
  ) -> Int[np.ndarray, "G b"]:
    return packing.deal(lengths.sum(axis=1), self._groups)

  def _shape_of(self, rows: Rows, epochs: mixture.Epochs, probes: int) -> Shape:
    """A shape that fits the task's longest text and its first batches."""
    lengths = [
      max(packing.rung(int(side.max())), self._shortest_row)
      for side in _sides(rows.lengths)
    ]
    needed = [
      self._rows_needed(self._lengths(epochs[i]), lengths)
      for i in range(min(probes, 2 * epochs.batches))
    ]
    most = np.max(needed, axis=0)
    return tuple(Side(int(n), length) for n, length in zip(most, lengths))

  def _rows_needed(
    self, tokens: Int[np.ndarray, "B texts"], lengths: Sequence[int]
  ) -> list[int]:
    groups = self._deal(tokens)
    return [
      packing.rows_needed(side.reshape(-1), _members(groups, side), length)
      for side, length in zip(_sides(tokens), lengths)
    ]

  def __call__(self, draw: Draw) -> Loaded:
    rows, shape = self._tasks[draw.task], self._shapes[draw.task]
    lengths = self._lengths(draw)
    groups = self._deal(lengths)
    drawn = draw.rows.tolist()
    texts = [
      [side[i] for i in drawn]
      for side in (rows.query, rows.positive)
      if side is not None
    ]
    if rows.negatives:
      texts.append([text for i in drawn for text in rows.negative[i]])
    packed = [
      self._pack(side, sizes, groups, *of_side)
      for side, sizes, of_side in zip(texts, _sides(lengths), shape)
    ]
    keys = np.zeros((self._batch_size, 2), np.uint32)
    keys[: len(draw.rows)] = rows.keys[draw.rows]
    batch = PairBatch(
      query=packed[0],
      positive=None if rows.positive is None else packed[1],
      negative=packed[2] if rows.negatives else None,
      teacher=self._teacher(rows, draw.rows, groups),
      keys=keys[groups.reshape(-1)],
      task=np.asarray(self._names.index(draw.task), np.int32),
    )
    capacity = sum(text.ids.size for text in packed)
    return Loaded(batch, draw.task, draw.rows, int(lengths.sum()), capacity)

  def _pack(
    self,
    texts: Sequence[Int[np.ndarray, "_"]],
    lengths: Int[np.ndarray, "B k"],
    groups: Int[np.ndarray, "G b"],
    rows: int,
    length: int,
  ) -> Text:
    """A side of k texts a pair: text i * k + n of a group is pair i's."""
    members = _members(groups, lengths)
    needed = packing.rows_needed(lengths.reshape(-1), members, length)
    pad = [_EMPTY] * (lengths.size - len(texts))
    enough = _enough(rows, needed)
    return packing.pack([*texts, *pad], members, length, enough)

  def _teacher(
    self,
    rows: Rows,
    drawn: Int[np.ndarray, "n"],
    groups: Int[np.ndarray, "G b"],
  ) -> Teacher | None:
    """The teacher's float32 vectors of the drawn pairs, 0 for empty places."""
    if rows.taught is None or self._vectors is None:
      return None
    places = np.full((self._batch_size, rows.taught.shape[1]), -1)
    places[: len(drawn)] = rows.taught[drawn]
    places = places[groups.reshape(-1)]
    found = self._vectors[np.maximum(places, 0)].astype(np.float32)
    found = np.where(places[..., None] >= 0, found, np.float32(0))
    positive = None if rows.positive is None else found[:, 1]
    negative = found[:, 2:] if rows.negatives else None
    return Teacher(found[:, 0], positive, negative)


def _sides(
  lengths: Int[np.ndarray, "n texts"],
) -> list[Int[np.ndarray, "n _k"]]:
  """Lengths of queries and, if there are any, of positives and all negatives."""
  sides = [lengths[:, :1], lengths[:, 1:2], lengths[:, 2:]]
  return sides[: lengths.shape[1]]


def _members(
  groups: Int[np.ndarray, "G b"], lengths: Int[np.ndarray, "B k"]
) -> Int[np.ndarray, "G _bk"]:
  """Turn indices of pairs by group into indices of a side's texts by group."""
  k = lengths.shape[1]
  texts = groups[..., None] * k + np.arange(k)
  return texts.reshape(len(groups), -1)


def _enough(rows: int, needed: int) -> int:
  """The number of rows for a batch fuller than those that were probed.

  It grows in steps of 1/16 so that few further shapes are compiled.
  """
  step = max(1, rows // 16)
  return rows + max(0, -(-(needed - rows) // step)) * step


def load(
  tasks: Mapping[str, Rows],
  weights: Weights,
  batch_size: int,
  seed: int,
  packer: Packer,
) -> grain.MapDataset:
  """A dataset step -> Loaded, on the host.

  Datasets with other weights can use the same packer.
  """
  return mixture.draws(tasks, weights, batch_size, seed).map(packer)


class TextPacker:
  """Packs a Draw of running text into a Loaded batch, mostly in one shape.

  Only batches that are fuller than all of those probed get a further shape.
  """

  def __init__(
    self,
    windows: Windows,
    example: Example,
    draws: mixture.TextDraws,
    batch_size: int,
    groups: int,
  ):
    packing.check_groups(batch_size, groups)
    self._windows, self._example, self._groups = windows, example, groups
    probes = min(max(_PROBED_TEXTS // batch_size, 1), _MOST_TEXT_PROBES)
    sizes = [self._sizes(self._sides(draws[i])) for i in range(probes)]
    dealt = [packing.deal_sides(lengths, groups) for lengths in sizes]
    # The fewest positions, and of equal ones the shorter rows.
    shapes = [
      (max(map(packing.rows_needed, sizes, dealt, [length] * probes)), length)
      for length in _row_lengths(int(windows.lengths.max()) + 2)
    ]
    self._rows, self._length = min(shapes, key=lambda s: (s[0] * s[1], s[1]))

  def _sides(self, draw: Draw) -> list[list[Int[np.ndarray, "_"]]]:
    """The texts of each side."""
    tokens = lambda i: self._windows.tokens(i % len(self._windows))
    examples = [self._example(tokens(i), i) for i in draw.rows.tolist()]
    return [list(side) for side in zip(*examples)]

  def _sizes(
    self, sides: Sequence[Sequence[Int[np.ndarray, "_"]]]
  ) -> Int[np.ndarray, "B sides"]:
    return np.array([[len(text) for text in texts] for texts in sides]).T

  def __call__(self, draw: Draw) -> Loaded:
    sides = self._sides(draw)
    sizes = self._sizes(sides)
    groups = packing.deal_sides(sizes, self._groups)
    needed = packing.rows_needed(sizes, groups, self._length)
    rows, lengths = _enough(self._rows, needed), [self._length] * len(sides)
    packed = packing.pack_sides(sides, groups, lengths, rows)
    batch = packed[0] if len(packed) == 1 else DenoiseBatch(*packed)
    capacity = sum(text.ids.size for text in packed)
    return Loaded(batch, draw.task, draw.rows, int(sizes.sum()), capacity)


def _row_lengths(longest: int) -> list[int]:
  """Candidate row lengths: those that hold the longest text, up to _ROW."""
  least = packing.rung(longest)
  return [least, *(r for r in packing.RUNGS if least < r <= _ROW)]


def load_text(
  windows: Windows,
  example: Example,
  batch_size: int,
  groups: int,
  seed: int,
  weights: Weights | None = None,
) -> grain.MapDataset:
  """A dataset step -> Loaded of running text, on the host.

  `weights` of the tasks replace those stored with the text.
  """
  sizes = {task: len(rows) for task, rows in windows.task_rows.items()}
  given = windows.weights if weights is None else weights
  draws = mixture.TextDraws(
    windows.task_rows,
    windows.lengths,
    mixture.shares(sizes, given, 0.0),
    batch_size,
    seed,
  )
  packer = TextPacker(windows, example, draws, batch_size, groups)
  return grain.MapDataset.source(draws).map(packer)


class Stream:
  """Batches as global arrays; its position is saved with the train state.

  `state()` is the position of the batch that the next call of `next` returns;
  it includes the batches that are skipped.
  """

  def __init__(self, dataset: grain.MapDataset, mesh: jax.sharding.Mesh):
    options = grain.ReadOptions(num_threads=1, prefetch_buffer_size=2)
    self._mesh = mesh
    self._iterator = iter(dataset.to_iter_dataset(options))
    self.skipped: tuple[int, ...] = ()

  def __iter__(self) -> Iterator[Loaded]:
    return self

  def __next__(self) -> Loaded:
    while True:
      index = self._iterator.get_state()["next_index"]
      loaded = next(self._iterator)
      if index not in self.skipped:
        break
    batch = sharding.to_devices(loaded.batch, self._mesh)
    return loaded._replace(batch=batch, index=index)

  def skip(self, *indices: int) -> None:
    """Leave out these batches, in addition to those already left out."""
    self.skipped = tuple(sorted({*self.skipped, *indices}))

  def state(self) -> dict[str, Any]:
    """The position, as JSON."""
    skipped = {"skipped": list(self.skipped)} if self.skipped else {}
    return {**self._iterator.get_state(), **skipped}

  def restore(self, state: Mapping[str, Any]) -> None:
    """Continue from a position that `state` returned."""
    position = dict(state)
    self.skipped = tuple(position.pop("skipped", ()))
    self._iterator.set_state(position)
