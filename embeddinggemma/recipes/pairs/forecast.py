"""How long a training takes and what memory it needs, from steps that are run.

Batches come in few shapes. Each is compiled as training will use it, the
compiler says what memory it takes, and only if that fits, steps are timed.
"""

import collections
import pathlib
import shutil
import time
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple, TypeVar

import grain
import jax
import numpy as np

from embeddinggemma import cache, sharding
from embeddinggemma.recipes.pairs import memory
from embeddinggemma.report import page
from embeddinggemma.training import checkpoints, run, stages, step, streams
from embeddinggemma.training import start as starting
from embeddinggemma.training.config import PairConfig
from embeddinggemma.training.inputs import Inputs
from embeddinggemma.types import Stage

T = TypeVar("T")

_DRAWN = 64  # batches of the run that its shapes are seen in
_TIMED_SHAPES = 6  # the others' time is taken from their size
_ROUNDS, _SECONDS = 8, 12.0  # of timed steps: so many, or for so long
_SLOW = 3.0  # seconds of work that is not done twice


class Shape(NamedTuple):
  """A shape of batches: an example on the host, and how often it comes."""

  batch: Any
  share: float  # of the steps
  positions: int


class Training(NamedTuple):
  """What a training is going to take: seconds and bytes."""

  seconds: float  # compilation left out: it is done
  compilation: float
  step: float  # the mean
  save: float  # of a checkpoint
  memory: int  # of the process, with what it holds before it starts
  room: int
  shapes: int


class Ready(NamedTuple):
  """A training before anything is compiled or allocated."""

  mesh: jax.sharding.Mesh
  stage: Stage
  program: step.ByShape
  state: Any  # shapes with their shardings
  shapes: list[Shape]
  packing: float  # seconds in which a batch is made


def prepare(stage: PairConfig, made: Inputs) -> Ready:
  """Reads what is trained on, and sees its shapes."""
  mesh = sharding.make_mesh(stage.mesh.data, stage.mesh.fsdp)
  data, _ = streams.dataset(stage, made, mesh.size)
  made_stage = stages.make(stage, mesh)
  return Ready(
    mesh,
    made_stage,
    run.program(stage, made_stage, mesh),
    step.abstract_state(made_stage, stage.seed, mesh),
    *shapes_of(data, stage.steps),
  )


def training(
  stage: PairConfig, made: Inputs, directory: pathlib.Path, room: int
) -> Training:
  """Compiles and times a training; Unfit where it needs more than `room`.

  What was timed stays in the directory, so that a call that was interrupted
  goes on where it was.
  """
  began = time.perf_counter()
  ready = prepare(stage, made)
  own = memory_of(ready)
  needed = memory.held() + own  # with what compilation has left behind
  if needed > room:
    raise Unfit(needed)
  shapes, program, mesh = ready.shapes, ready.program, ready.mesh
  known = sorted(shapes, key=lambda s: -s.share * s.positions)[:_TIMED_SHAPES]
  for shape in known:
    program.compiled(ready.state, _abstract(shape.batch, mesh))
  compilation = time.perf_counter() - began

  def measure() -> dict[str, Any]:
    start = lambda: step.init_state(
      ready.stage, stage.seed, mesh, starting.params(stage, made)[0]
    )
    state, first = warm(start)
    state, seconds = _timed(program, state, known, mesh)
    _, save = warm(lambda: _write(state, directory / "probe"))
    return {"first": first, "steps": seconds, "save": save}

  timed = remembered(directory / "training.json", measure)
  seconds = timed["steps"]
  pace = sum(seconds) / sum(shape.positions for shape in known)
  times = dict(zip(map(id, known), seconds, strict=True))
  mean = sum(s.share * times.get(id(s), pace * s.positions) for s in shapes)
  mean = max(mean, ready.packing)
  compiles = compilation / len(known) * (len(shapes) - len(known))
  saves = -(-stage.steps // stage.every_checkpoint) + bool(stage.lora.rank)
  whole = timed["first"] + compiles + stage.steps * mean + saves * timed["save"]
  return Training(
    whole, compilation, mean, timed["save"], needed, room, len(shapes)
  )


def remembered(
  path: pathlib.Path, measure: Callable[[], dict[str, Any]]
) -> dict[str, Any]:
  """What a file holds, or else what is measured now, which it then holds."""
  if not path.is_file():
    cache.write_json(path, measure())
  return cache.read_json(path)


class Unfit(Exception):
  """A training needs more memory than there is: so many bytes."""

  def __init__(self, needed: int):
    super().__init__(needed)
    self.needed = needed


def shapes_of(data: grain.MapDataset, steps: int) -> tuple[list[Shape], float]:
  """The shapes of a run's batches, and the seconds that one takes to make."""
  numbers = np.unique(np.linspace(0, steps - 1, min(steps, _DRAWN)).astype(int))
  found: dict[Any, Any] = {}
  counts: collections.Counter[Any] = collections.Counter()
  began = time.perf_counter()
  for number in numbers.tolist():
    loaded: Any = data[number]
    leaves, tree = jax.tree.flatten(loaded.batch)
    key = tree, tuple(np.shape(leaf) for leaf in leaves)
    counts[key] += 1
    found.setdefault(key, loaded)
  packing = (time.perf_counter() - began) / len(numbers)
  shapes = [
    Shape(loaded.batch, counts[key] / len(numbers), loaded.capacity)
    for key, loaded in found.items()
  ]
  return shapes, packing


def _abstract(batch: Any, mesh: jax.sharding.Mesh) -> Any:
  def place(x: Any) -> jax.ShapeDtypeStruct:
    x = np.asarray(x)
    split = sharding.batch_sharding(mesh, x.shape)
    return jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=split)

  return jax.tree.map(place, batch)


def memory_of(ready: Ready) -> int:
  """Of the largest shape: arguments, temporaries, and outputs that take the
  place of no argument. A host's memory holds those of all its devices, and a
  copy of the state while it is saved.
  """
  largest = max(ready.shapes, key=lambda shape: shape.positions)
  batch = _abstract(largest.batch, ready.mesh)
  found = ready.program.compiled(ready.state, batch).memory_analysis()
  # A backend that says nothing gives None.
  of = lambda name: getattr(found, f"{name}_size_in_bytes", 0)
  own = of("argument") + of("temp") + of("output") - of("alias")
  saved, _ = state_bytes(ready.state)
  return _devices() * own + saved


def state_bytes(state: Any) -> tuple[int, int]:
  """Bytes of the copy that is saved, and of the state itself."""
  size = sum(x.size * x.dtype.itemsize for x in jax.tree.leaves(state))
  saved = size if memory.on_host() else 0
  own = sum(map(sharding.device_bytes, jax.tree.leaves(state)))
  return saved, _devices() * own


def _devices() -> int:
  """How many share the memory that is looked at."""
  return len(jax.local_devices()) if memory.on_host() else 1


def _timed(
  program: step.ByShape, state: Any, shapes: list[Shape], mesh: Any
) -> tuple[Any, list[float]]:
  """Mean seconds of a step of each shape, over rounds through all of them.

  One at the least, after one that touches memory for the first time.
  """
  seconds = np.zeros(len(shapes))
  rounds, began = 0, time.perf_counter()
  for number in range(-1, _ROUNDS):
    spent = time.perf_counter() - began
    if number > 0 and spent > _SECONDS:
      break
    for place, shape in enumerate(shapes):
      started = time.perf_counter()
      batch = sharding.to_devices(shape.batch, mesh)
      state, metrics = program(state, batch)
      jax.block_until_ready((state, metrics))
      if number >= 0:
        seconds[place] += time.perf_counter() - started
    rounds = number + 1
  return state, (seconds / rounds).tolist()


def _write(state: Any, place: pathlib.Path) -> None:
  """A checkpoint, thrown away again; so is one that a kill has left."""
  shutil.rmtree(place, ignore_errors=True)
  store = checkpoints.Checkpoints(place)
  try:
    store.save(0, state, {}, {})
  finally:
    store.close()
  shutil.rmtree(place)


def warm(work: Callable[[], T]) -> tuple[T, float]:
  """What some work gives, and its seconds without what is done but once.

  Slow work is done once: beside it, what starts it is nothing.
  """
  began = time.perf_counter()
  result = work()
  seconds = time.perf_counter() - began
  if seconds > _SLOW:
    return result, seconds
  del result  # before there is another
  began = time.perf_counter()
  result = work()
  return result, time.perf_counter() - began


def said(found: Mapping[str, Any]) -> str:
  """The forecast as a line."""
  return (
    f"forecast: {page.duration(found['seconds'])} (training"
    f" {page.duration(found['training'])}, scoring"
    f" {page.duration(found['scoring'])}, index"
    f" {page.duration(found['indexing'])}), memory about {found['memory'] / memory.GB:.1f} GB of"
    f" {found['room'] / memory.GB:.1f} GB"
  )
