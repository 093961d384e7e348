"""An analytic time for each Pallas call, for which the compiler has no cycles.

Without it, a variant that moves work into a kernel would seem to do it for
free. The time is the larger of two: the kernel's reads and writes at full HBM
bandwidth, and its matrix products at peak plus its other operations at the peak
of the vector unit, as if these two took turns. A good kernel comes near it; a
given one may take longer.
"""

import dataclasses
import math
import re

from embeddinggemma.aot.hlo import Instruction, Program
from embeddinggemma.generations import Generation

TARGET = 'custom_call_target="tpu_custom_call"'
_STATED = re.compile(r'"cost_estimate":\{([^}]*)\}')
_NUMBER = re.compile(r'"(\w+)":"?(-?\d+)"?')
# Number of matrix products (queries x keys x head_dim) of attention kernels by
# name. Forward: scores and values. Gradients of keys and values: scores,
# dV, dP, dK. Gradient of queries: scores, dP, dQ. All gradients in one kernel:
# scores, dV, dP, dK, dQ.
_ATTENTION = (
  (re.compile(r"dq_?dkv|dkv_?dq|fused.*bwd|bwd.*fused"), 5),
  (re.compile(r"dkv"), 4),
  (re.compile(r"dq"), 3),
  (re.compile(r"(splash|flash|attention).*(fwd|forward)|splash_m[qh]a"), 2),
)
# Vector operations assumed for each exponential (mask, maximum, difference,
# exponential, sum, casts) and each element read or written (norm, rotation,
# casts).
_VECTOR_OPS = 10
# Operations of the vector unit in a cycle of a core: 8 x 128 lanes, 4 units.
_LANES = 8 * 128 * 4


@dataclasses.dataclass(frozen=True)
class Kernel:
  """A Pallas call, run `times` times a step; other figures are of one call."""

  name: str
  times: int
  flops: float | None  # of matrix products; None: not known
  vector_ops: float
  bytes: float
  seconds: float
  source: str


def find(program: Program, generation: Generation) -> list[Kernel]:
  """Every Pallas call of a program."""
  found = []
  for times, computation, instruction in program.walk(fused=True):
    if instruction.opcode != "custom-call" or TARGET not in instruction.text:
      continue
    scope = program.computations[computation].by_name
    given = [scope[name] for name in instruction.operands if name in scope]
    flops, vector_ops, moved = _costs(instruction, given)
    found.append(
      Kernel(
        re.sub(r"\.\d+$", "", instruction.name),
        times,
        flops,
        vector_ops,
        moved,
        seconds(flops or 0.0, vector_ops, moved, generation),
        program.source(instruction),
      )
    )
  return found


def seconds(
  flops: float, vector_ops: float, moved: float, generation: Generation
) -> float:
  """The analytic time of one call on one device.

  Args:
    flops: of its matrix products.
    vector_ops: its other operations.
    moved: bytes read from and written to HBM.
    generation: of TPU.
  """
  parts = generation.devices_per_chip
  vector_peak = _LANES * generation.cores_per_device * generation.clock
  compute = flops / (generation.bf16_flops / parts) + vector_ops / vector_peak
  return max(compute, moved / (generation.hbm_bandwidth / parts))


def _costs(
  instruction: Instruction, given: list[Instruction]
) -> tuple[float | None, float, float]:
  """(flops or None, vector operations, HBM bytes) of one call.

  Products and exponentials are those that the kernel states (`cost_estimate` of
  pallas_call). If it states none, those of an attention kernel follow from its
  shapes, ignoring what a local mask saves; for other kernels they are unknown.
  """
  arrays = [a for i in (instruction, *given) for a in i.arrays]
  moved = float(sum(a.bytes for a in arrays if not a.fast))
  around = _VECTOR_OPS * float(sum(a.size for a in arrays))
  stated = _STATED.search(instruction.text)
  if stated:
    cost = {name: float(n) for name, n in _NUMBER.findall(stated[1])}
    inside = _VECTOR_OPS * cost.get("transcendentals", 0)
    moved = min(moved, cost.get("bytes_accessed", moved))
    return cost.get("flops", 0), inside + around, moved
  name = f"{instruction.name} {instruction.op_name}".lower()
  products = next((n for rule, n in _ATTENTION if rule.search(name)), 0)
  floats = [
    i.arrays[0]
    for i in given
    if i.arrays and i.arrays[0].dtype in ("bf16", "f32")
  ]
  if not products or len(floats) < 2 or len(floats[1].dims) < 2:
    return None, around, moved
  query, key = floats[0].dims, floats[1].dims
  scores = float(math.prod(query[:-1]) * key[-2])
  inside = _VECTOR_OPS * scores
  return 2.0 * products * query[-1] * scores, inside + around, moved
