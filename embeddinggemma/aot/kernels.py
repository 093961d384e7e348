"""An analytic time for each Pallas call, which the compiler gives no cycles.

Without it, a variant that moves work into a kernel would seem to do it for
free. The time is the larger of two: what the kernel reads and writes at full
HBM bandwidth, and its products at peak plus its other operations at the peak of
the vector unit, as if the two took turns. It is what a good kernel comes near
to, not what a given one takes.
"""

import dataclasses
import math
import re

from embeddinggemma.aot.hlo import Instruction, Program
from embeddinggemma.generations import Generation

TARGET = 'custom_call_target="tpu_custom_call"'
_STATED = re.compile(r'"cost_estimate":\{([^}]*)\}')
_NUMBER = re.compile(r'"(\w+)":"?(-?\d+)"?')
# Products of (queries x keys x head) of an attention kernel, by its name:
# forward 2; for keys and values the scores again, dV, dP and dK; for queries
# the scores again, dP and dQ; both in one, the scores and dP shared.
_ATTENTION = (
  (re.compile(r"dq_?dkv|dkv_?dq|fused.*bwd|bwd.*fused"), 5),
  (re.compile(r"dkv"), 4),
  (re.compile(r"dq"), 3),
  (re.compile(r"(splash|flash|attention).*(fwd|forward)|splash_m[qh]a"), 2),
)
# Vector operations of each exponential (mask, maximum, difference, itself, sum,
# casts) and of each element that goes in or out (a norm, a rotation, casts).
_VECTOR_OPS = 10
# Of the vector unit a cycle and core: 8 x 128 lanes, 4 units.
_LANES = 8 * 128 * 4


@dataclasses.dataclass(frozen=True)
class Kernel:
  """One Pallas call, `times` a step; figures are of one call."""

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
  """Of one call on one device."""
  parts = generation.devices_per_chip
  vector_peak = _LANES * generation.cores_per_device * generation.clock
  compute = flops / (generation.bf16_flops / parts) + vector_ops / vector_peak
  return max(compute, moved / (generation.hbm_bandwidth / parts))


def _costs(
  instruction: Instruction, given: list[Instruction]
) -> tuple[float | None, float, float]:
  """(flops, vector operations, HBM bytes) of one call.

  Products and exponentials are what the kernel states (`cost_estimate` of
  pallas_call), else those of an attention kernel by its shapes (without what a
  local mask spares), else not known.
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
