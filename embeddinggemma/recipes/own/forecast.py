"""Forecast a training's time and memory by running a few of its steps.

Batches come in few shapes. The step is compiled for each as in training, the
compiler reports the memory that it needs, and only if that fits are steps
timed.
"""

import collections
import pathlib
import shutil
import time
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple, TypeVar

import grain
import jax
import numpy as np

from embeddinggemma import cache, sharding
from embeddinggemma.recipes.own import machine
from embeddinggemma.training import checkpoints, run, stages, step
from embeddinggemma.training import memory as memory_lib
from embeddinggemma.training import prepare as prepare_lib
from embeddinggemma.training import start as starting
from embeddinggemma.training.inputs import Inputs
from embeddinggemma.training.stages.pairs import PairConfig
from embeddinggemma.types import Stage

T = TypeVar("T")

_DRAWN = 64  # batches that are looked at to find the shapes of a run
TIMED_SHAPES = 6  # the others' time is scaled by their size
_ROUNDS, _SECONDS = 8, 12.0  # most rounds of timed steps, and most seconds
_SLOW = 3.0  # seconds from which on `warm` does not call twice


class Shape(NamedTuple):
  """A shape of batches: an example on the host, and how often it comes."""

  batch: Any
  share: float  # of the steps
  positions: int  # token positions of a batch, with padding


class Training(NamedTuple):
  """What a training will take, in seconds and bytes."""

  seconds: float  # without the compilation that is done already
  compilation: float  # that the forecast itself took, with preparing
  step: float  # mean of a step
  save: float  # of one checkpoint
  memory: int  # of the process, with what it holds before training
  room: int  # bytes that it may hold
  shapes: int  # the number of different shapes of batches
  positions: float  # of tokens, with padding: mean of a step


class Ready(NamedTuple):
  """A training before anything is compiled or allocated."""

  mesh: jax.sharding.Mesh
  stage: Stage
  program: step.ByShape
  state: Any  # jax.ShapeDtypeStruct leaves with their shardings
  shapes: list[Shape]
  packing: float  # seconds to make a batch on the host


def prepare(stage: PairConfig, made: Inputs) -> Ready:
  """Read the data of a training, and list the shapes of its batches."""
  mesh = sharding.make_mesh(stage.mesh.data, stage.mesh.fsdp)
  data, _ = prepare_lib.dataset(stage, made, mesh.size)
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
  """Compile a training's steps and time them.

  What was timed stays in the directory, so that an interrupted call continues.
  Raises Unfit where the process would need more than `room` bytes.
  """
  began = time.perf_counter()
  ready = prepare(stage, made)
  own = memory_of(ready)
  needed = machine.held() + own  # with what compilation has left behind
  if needed > room:
    raise Unfit(needed)
  shapes, program, mesh = ready.shapes, ready.program, ready.mesh
  known = sorted(shapes, key=lambda s: -s.share * s.positions)[:TIMED_SHAPES]
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
    whole,
    compilation,
    mean,
    timed["save"],
    needed,
    room,
    len(shapes),
    positions(shapes),
  )


def positions(shapes: Sequence[Shape]) -> float:
  """Mean token positions of a step, with padding."""
  return sum(shape.share * shape.positions for shape in shapes)


def remembered(
  path: pathlib.Path, measure: Callable[[], dict[str, Any]]
) -> dict[str, Any]:
  """The content of a JSON file; if there is none, `measure` fills it first."""
  if not path.is_file():
    cache.write_json(path, measure())
  return cache.read_json(path)


class Unfit(Exception):
  """A training needs more memory than there is: `needed` bytes."""

  def __init__(self, needed: int):
    super().__init__(needed)
    self.needed = needed


def shapes_of(data: grain.MapDataset, steps: int) -> tuple[list[Shape], float]:
  """The shapes of a run's batches, and the seconds that making one takes.

  Both come from a sample of batches spread over all steps.
  """
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
  """Bytes that the step needs for the largest shape of batches.

  They are its arguments, temporaries and the outputs that reuse no donated
  argument; the program's code is left out. A host's memory holds those of all
  its devices, and a copy of the state while a checkpoint is saved.
  """
  largest = max(ready.shapes, key=lambda shape: shape.positions)
  batch = _abstract(largest.batch, ready.mesh)
  program = ready.program.compiled(ready.state, batch)
  own = memory_lib.of_program(program)._replace(code=0).needed
  saved, _ = state_bytes(ready.state)
  return _devices() * own + saved


def state_bytes(state: Any) -> tuple[int, int]:
  """Bytes of the copy made while saving, and of the state itself."""
  size = sum(x.size * x.dtype.itemsize for x in jax.tree.leaves(state))
  saved = size if machine.on_host() else 0
  own = sum(map(sharding.device_bytes, jax.tree.leaves(state)))
  return saved, _devices() * own


def _devices() -> int:
  """How many devices share the memory that is measured."""
  return len(jax.local_devices()) if machine.on_host() else 1


def _timed(
  program: step.ByShape, state: Any, shapes: list[Shape], mesh: Any
) -> tuple[Any, list[float]]:
  """The state, and the mean seconds of a step of each shape.

  Every round runs all shapes once. The first is not timed, since it touches
  memory for the first time; at least one is.
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
  """Write a checkpoint and delete it, with any that a killed call left."""
  shutil.rmtree(place, ignore_errors=True)
  store = checkpoints.Checkpoints(place)
  try:
    store.save(0, state, {}, {})
  finally:
    store.close()
  shutil.rmtree(place)


def warm(work: Callable[[], T]) -> tuple[T, float]:
  """A function's result, and its seconds without what only a first call costs.

  It is called twice, unless the first call is so slow that the rest is nothing
  beside it.
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
