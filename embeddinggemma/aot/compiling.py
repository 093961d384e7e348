"""Compile the step that `train` runs, for TPUs that are not attached."""

import dataclasses
import pathlib
import re
import tempfile
import time
from typing import Any

import jax
from jax.sharding import Mesh

from embeddinggemma import generations, sharding
from embeddinggemma.aot import buffers, shapes, topology
from embeddinggemma.generations import Slice
from embeddinggemma.training import memory, stages, step
from embeddinggemma.training.config import TrainConfig
from embeddinggemma.types import BadInput

_UNITS = {"": 1, "K": 2**10, "M": 2**20, "G": 2**30, "T": 2**40, "P": 2**50}
_NEEDS = re.compile(r"\(([\d.]+)([KMGTP]?)\) exceeds available")
# Endings of the dump files that hold the program, with the compiler's cycle
# estimates and, if it did not get that far, without.
_MODULES = ("after_codegen.txt", "after_optimizations.txt")
_BUFFERS = "after_optimizations-buffer-assignment.txt"


@dataclasses.dataclass(frozen=True)
class Compiled:
  """The outcome of one compilation."""

  config: TrainConfig
  slice_: Slice
  num_slices: int
  mesh: Mesh
  state: Any  # the train state as ShapeDtypeStructs with shardings
  memory: memory.Program  # HBM of a device
  message: str  # the compiler's error if it ran out of memory; else ""
  hlo: str  # the program's text; without cycles if it ran out of memory
  buffers: str  # the text of the buffer assignment
  seconds: float  # of compilation

  @property
  def fits(self) -> bool:
    """Whether the step compiled and its memory fits into that of a device."""
    return not self.message and self.memory.needed <= self.capacity

  @property
  def capacity(self) -> int:
    """HBM of a device that a program can have, in bytes."""
    return int(self.slice_.generation.hbm_usable)


def compile_step(
  config: TrainConfig, slice_: Slice, num_slices: int = 1
) -> Compiled:
  """Lower and compile a config's step from shapes alone.

  Running out of memory is a result (see Compiled.fits), not an error. Raises
  BadInput for sizes that do not divide, and for options that this generation's
  compiler does not accept.
  """
  start = time.monotonic()
  mesh = topology.make_mesh(config.mesh, slice_, num_slices)
  batch = shapes.batch(config, mesh, slice_)
  stage = stages.make(config, mesh)
  state = step.abstract_state(stage, config.seed, mesh)
  options = generations.compiler_options(
    config.compiler_options, "tpu", slice_.generation.device_kind
  )
  with tempfile.TemporaryDirectory() as folder:
    # What the compiler writes down says more than the compiled program: where
    # its memory goes, also when there is too little of it. Not every program
    # of tpu7x has a text otherwise (jaxlib 0.10.2).
    dump = {"xla_dump_to": folder, "xla_dump_hlo_as_text": True}
    jitted: Any = step.compile_step(stage, config.seed, mesh, options | dump)
    program, message = None, ""
    try:
      program = jitted.lower(state, batch).compile()
    except jax.errors.JaxRuntimeError as error:
      message = " ".join(str(error).split())
      if "RESOURCE_EXHAUSTED" not in message:
        raise BadInput(_why(message, slice_, options)) from error
    texts = (_read(pathlib.Path(folder), name) for name in _MODULES)
    hlo = next(filter(None, texts), "")
    layout = _read(pathlib.Path(folder), _BUFFERS)
  if program is not None and not hlo:
    hlo = program.as_text() or ""
  return Compiled(
    config,
    slice_,
    num_slices,
    mesh,
    state,
    _memory(program, (state, batch), message, layout),
    _short(message),
    hlo,
    layout,
    time.monotonic() - start,
  )


def _short(message: str) -> str:
  """The compiler's message without its list of allocations."""
  return re.split(r" Largest program allocations| =====", message)[0][:1000]


def _read(folder: pathlib.Path, ending: str) -> str:
  """The largest file of this ending; smaller ones are other programs."""
  found = sorted(
    folder.glob(f"*.{ending}"), key=lambda path: path.stat().st_size
  )
  return found[-1].read_text(errors="replace") if found else ""


def _memory(
  program: jax.stages.Compiled | None,
  arguments: Any,
  message: str,
  layout: str,
) -> memory.Program:
  """Memory as the compiled program reports it, or else the compiler's error.

  `layout` is the text of the buffer assignment.
  """
  if program is not None:
    return memory.of_program(program)
  needs = _NEEDS.search(message)
  stated = int(float(needs[1]) * _UNITS[needs[2]]) if needs else 0
  given = sum(map(sharding.device_bytes, jax.tree.leaves(arguments)))
  return memory.Program(given, 0, buffers.parse(layout).bytes or stated)


def _why(message: str, slice_: Slice, options: dict[str, Any]) -> str:
  """The compiler's error in one line, with the config's compiler options."""
  given = f" with compiler_options {options}" if options else ""
  return f"libtpu refuses the step for {slice_.name}{given}: {message[:400]}"
