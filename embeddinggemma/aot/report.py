"""The report on a compiled step: what it needs and costs, as JSON."""

import math
import re
from typing import Any

import jax

from embeddinggemma import sharding
from embeddinggemma.aot import (
  buffers,
  collectives,
  estimate,
  flops,
  hlo,
  kernel_costs,
  matmuls,
  shapes,
  traffic,
)
from embeddinggemma.aot.compiling import Compiled

_TOP = 10
# Instructions that can cost much and for which the compiler gives no cycles.
_UNCOUNTED = ("sort", "scatter")


def as_json(compiled: Compiled) -> dict[str, Any]:
  """The report; bytes, cycles and seconds are of one device and one step."""
  config, mesh = compiled.config, compiled.mesh
  program = hlo.parse(compiled.hlo)
  sources = {
    i.name: program.source(i)
    for computation in program.computations.values()
    for i in computation.lines
  }
  laid = buffers.parse(compiled.buffers)
  memory = compiled.memory
  report: dict[str, Any] = {
    "stage": config.stage,
    "topology": compiled.slice_.name,
    "num_slices": compiled.num_slices,
    "devices": mesh.size,
    "mesh": dict(mesh.shape),
    "batch_size": config.batch_size,
    "max_length": config.max_length,
    "groups_per_device": shapes.groups(config, mesh, compiled.slice_),
    "batch": shapes.describe(config, mesh, compiled.slice_),
    "parameters": parameters(compiled.state.params["model"]),
    "fits": compiled.fits,
    "hbm": {
      "arguments_bytes": memory.arguments,
      "outputs_bytes": memory.outputs,
      "temporaries_bytes": memory.temporaries,
      "code_bytes": memory.code,
      "needed_bytes": memory.needed,
      "capacity_bytes": compiled.capacity,
      "largest": buffers.largest(laid, sources, _TOP),
    },
    "message": compiled.message,
    "model_flops": flops.of_step(config),
    "compile_seconds": round(compiled.seconds, 1),
    "versions": versions(),
  }
  return report | _costs(compiled, program, report["model_flops"])


def versions() -> dict[str, str]:
  """Versions of the packages that decide the figures."""
  import libtpu  # pyrefly: ignore[missing-import]

  return {"jax": jax.__version__, "libtpu": libtpu.__version__}


def parameters(tree: Any) -> int:
  """The total number of elements in a tree of arrays."""
  return sum(math.prod(x.shape) for x in jax.tree.leaves(tree))


def shardings(compiled: Compiled) -> list[dict[str, Any]]:
  """A row for every array of the state: shape, spec, bytes of a device."""
  return [
    {
      "path": placed.path,
      "shape": list(placed.shape),
      "spec": str(placed.spec).removeprefix("PartitionSpec"),
      "bytes": placed.device_bytes,
    }
    for placed in sharding.placements(compiled.state)
  ]


def _costs(
  compiled: Compiled, program: hlo.Program, wanted: float
) -> dict[str, Any]:
  generation, mesh = compiled.slice_.generation, compiled.mesh
  found = collectives.find(program, mesh.size)
  calls = kernel_costs.find(program, generation)
  kernel_seconds = sum(k.times * k.seconds for k in calls)
  done = matmuls.flops(program)
  done += sum(k.times * (k.flops or 0.0) for k in calls)
  cycles = _cycles(program)
  by_cycles = (cycles or 0) / generation.clock + kernel_seconds
  line = estimate.roofline(
    done, traffic.hbm_bytes(program), found, mesh, generation
  )
  peak = mesh.size * generation.bf16_flops / generation.devices_per_chip
  mfu = lambda seconds: round(wanted / (peak * seconds), 4) if seconds else None
  return {
    "cycles": cycles,
    "kernel_seconds": kernel_seconds,
    "kernels": [_kernel_row(k) for k in calls],
    "compiled_flops": done * mesh.size,
    "recompute_factor": round(done * mesh.size / wanted, 3),
    "collectives": collectives.summary(found, mesh),
    "collectives_in_loops": len(list(collectives.in_loops(found))),
    "uncounted": _uncounted(program),
    "unknown_loops": list(program.unknown_loops),
    "cycle_seconds": by_cycles,
    "cycle_mfu": mfu(by_cycles),
    "roofline": {
      "compute_seconds": line.compute,
      "hbm_seconds": line.hbm,
      "ici_seconds": line.ici,
      "dcn_seconds": line.dcn,
    },
    "step_seconds": line.step,
    "mfu": mfu(line.step),
    "fusions": _dearest(program),
  }


def _cycles(program: hlo.Program) -> int | None:
  """Cycles of everything that runs; None if the compiler estimated none."""
  total = sum(n * (i.cycles or 0) for n, _, i in program.walk(fused=False))
  return total or None


def _kernel_row(kernel: kernel_costs.Kernel) -> dict[str, Any]:
  return {
    "name": kernel.name,
    "times": kernel.times,
    "seconds": kernel.times * kernel.seconds,
    "flops": kernel.flops,
    "bytes": kernel.bytes,
    "source": kernel.source,
  }


def _dearest(program: hlo.Program) -> list[dict[str, Any]]:
  """The instructions of most cycles; equal source and kind share a row."""
  rows: dict[tuple[str, str], dict[str, Any]] = {}
  for times, _, instruction in program.walk(fused=False):
    if not instruction.cycles:
      continue
    name = re.sub(r"(\.\d+|\.clone|\.remat\d*)+$", "", instruction.name)
    key = (name, program.source(instruction))
    row = rows.setdefault(
      key,
      {"name": name, "source": key[1], "count": 0, "times": 0, "cycles": 0},
    )
    row["count"] += 1
    row["times"] += times
    row["cycles"] += times * instruction.cycles
  return sorted(rows.values(), key=lambda row: -row["cycles"])[:_TOP]


def _uncounted(program: hlo.Program) -> list[dict[str, Any]]:
  """Sorts and scatters without cycles, alone or in a fusion; largest first."""
  rows: dict[tuple[str, int, str], dict[str, Any]] = {}
  for times, _, instruction in program.walk(fused=False):
    if instruction.cycles is not None:
      continue
    inside = program.computations.called_by(instruction)
    for one in (instruction, *(inside.lines if inside else ())):
      if one.opcode in _UNCOUNTED:
        size = max((a.size for a in one.arrays), default=0)
        key = (one.opcode, size, program.source(one))
        row = rows.setdefault(
          key,
          {"kind": key[0], "elements": size, "source": key[2], "count": 0},
        )
        row["count"] += times
  return sorted(rows.values(), key=lambda row: -row["elements"])
