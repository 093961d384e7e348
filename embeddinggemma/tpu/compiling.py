"""Compiles the step that `train` runs for TPUs that are not here."""

import dataclasses
import re
import time
from typing import Any

import jax
import numpy as np
from jax.sharding import Mesh

from embeddinggemma import sharding, stages
from embeddinggemma.stages import TrainConfig
from embeddinggemma.tpu import generations, shapes, topology
from embeddinggemma.tpu.generations import Slice
from embeddinggemma.training import step
from embeddinggemma.types import BadInput

_UNITS = {"": 1, "K": 2**10, "M": 2**20, "G": 2**30, "T": 2**40, "P": 2**50}
_NEEDS = re.compile(r"\(([\d.]+)([KMGTP]?)\) exceeds available")


@dataclasses.dataclass(frozen=True)
class OutOfMemory:
  """What the compiler said when the program did not fit."""

  needed_bytes: int  # of temporaries, a device; 0 where it does not say
  message: str


@dataclasses.dataclass(frozen=True)
class Compiled:
  """The outcome of one compilation, for one device of a mesh."""

  config: TrainConfig
  slice_: Slice
  num_slices: int
  mesh: Mesh
  state: Any  # of ShapeDtypeStructs with shardings
  batch: Any
  program: jax.stages.Compiled | None  # None: out of memory
  refused: OutOfMemory | None
  seconds: float

  @property
  def arguments_bytes(self) -> int:
    """State and batch on a device, without the padding of tiles."""
    return sum(map(bytes_per_device, jax.tree.leaves((self.state, self.batch))))


def bytes_per_device(leaf: jax.ShapeDtypeStruct) -> int:
  """Of a device's part of an array."""
  assert leaf.sharding is not None
  shape = leaf.sharding.shard_shape(leaf.shape)
  return int(np.prod(shape)) * np.dtype(leaf.dtype).itemsize


def compile_step(
  config: TrainConfig, slice_: Slice, num_slices: int = 1
) -> Compiled:
  """Lowers and compiles with shapes alone; out of memory is an answer.

  Raises BadInput for sizes that do not divide, and for options that the
  compiler of this generation does not take.
  """
  start = time.monotonic()
  mesh = topology.make_mesh(config.mesh, slice_, num_slices)
  batch = shapes.batch(config, mesh)
  stage = stages.make(config, mesh)
  state = jax.eval_shape(lambda: step.abstract_state(stage, config.seed))
  state = jax.tree.map(
    lambda x, s: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=s),
    state,
    sharding.tree_shardings(state, mesh),
  )
  options = generations.compiler_options(
    config.compiler_options, "tpu", slice_.generation.device_kind
  )
  jitted: Any = step.compile_step(stage, config.seed, mesh, options)
  program, refused = None, None
  try:
    program = jitted.lower(state, batch).compile()
  except jax.errors.JaxRuntimeError as error:
    refused = _out_of_memory(str(error))
    if refused is None:
      raise BadInput(_why(str(error), slice_, options)) from error
  seconds = time.monotonic() - start
  return Compiled(
    config, slice_, num_slices, mesh, state, batch, program, refused, seconds
  )


def _out_of_memory(message: str) -> OutOfMemory | None:
  if "RESOURCE_EXHAUSTED" not in message:
    return None
  found = _NEEDS.search(message)
  needed = float(found[1]) * _UNITS[found[2]] if found else 0
  return OutOfMemory(int(needed), " ".join(message.split()))


def _why(message: str, slice_: Slice, options: dict[str, Any]) -> str:
  """The compiler's refusal in one line, with the options if there are any."""
  said = " ".join(message.split())[:400]
  given = f" with compiler_options {options}" if options else ""
  return f"libtpu refuses the step for {slice_.name}{given}: {said}"
