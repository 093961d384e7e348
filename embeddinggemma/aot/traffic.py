"""Bytes that a compiled program moves to and from HBM.

Each instruction reads its operands and writes its result once, where these are
not in on-chip memory. Of an array that is only sliced or gathered from, or
updated in place, what is touched counts.
"""

import math

from embeddinggemma.aot.hlo import (
  Computation,
  Computations,
  Instruction,
  Program,
)

_FREE = frozenset(
  (
    "parameter",
    "constant",
    "tuple",
    "get-tuple-element",
    "bitcast",
    "while",
    "conditional",
    "call",
    "async-start",  # what it calls counts itself
    "opt-barrier",
    "optimization-barrier",
    "partition-id",
    "replica-id",
    "after-all",
    "iota",
  )
)
_PICKS = ("dynamic-slice", "gather", "slice")
_UPDATES = {"dynamic-update-slice": 1, "scatter": 2}  # operand of the update
_ALLOCATES = ('custom_call_target="AllocateBuffer"', "AssumeGatherIndices")


def hbm_bytes(program: Program) -> float:
  """Bytes that one device reads and writes in a step."""
  return sum(
    times * moved(instruction, program.computations[name], program.computations)
    for times, name, instruction in program.walk(fused=False)
  )


def moved(
  instruction: Instruction, scope: Computation, computations: Computations
) -> float:
  """Bytes that one run of an instruction reads and writes."""
  opcode, names = instruction.opcode, scope.by_name
  if opcode in _FREE or opcode.endswith(("-done", "-update")):
    return 0.0
  if any(mark in instruction.text for mark in _ALLOCATES):
    return 0.0
  if opcode == "copy-start":  # (to, from, context)
    ends = instruction.arrays[:2]
    return float(sum(a.bytes for a in ends if not a.fast))
  inside = computations.called_by(instruction)
  if opcode == "fusion" and inside is not None:
    total = _written(instruction, inside, computations)
    for n, name in enumerate(instruction.operands):
      whole = _hbm(names.get(name))
      if whole:
        total += min(whole, _read(inside, n, whole, computations))
    return total
  if opcode in _UPDATES:
    return 2.0 * _hbm(names.get(instruction.operands[_UPDATES[opcode]]))
  if opcode in _PICKS:
    given = _hbm(names.get(instruction.operands[0]))
    return (_bytes(instruction) if given else 0.0) + _hbm(instruction)
  given = sum(_hbm(names.get(name)) for name in instruction.operands)
  return given + _hbm(instruction)


def _hbm(instruction: Instruction | None) -> float:
  """Bytes of an instruction's result, if it is in HBM."""
  arrays = instruction.arrays if instruction else []
  return float(sum(a.bytes for a in arrays if not a.fast))


def _bytes(instruction: Instruction | None) -> float:
  """Bytes of an instruction's result, wherever it is.

  Inside a fusion results have no location.
  """
  arrays = instruction.arrays if instruction else []
  return float(sum(a.bytes for a in arrays))


def _read(
  inside: Computation, number: int, whole: float, computations: Computations
) -> float:
  """Bytes that a fusion reads of its n-th operand."""
  name = next(
    (
      i.name
      for i in inside.lines
      if i.opcode == "parameter" and i.text.startswith(f"{number})")
    ),
    None,
  )
  return whole if name is None else _touched(inside, name, whole, computations)


def _touched(
  inside: Computation, name: str, whole: float, computations: Computations
) -> float:
  """Bytes that are read of a value whose whole size is `whole`."""
  total = 0.0
  for user in inside.lines:
    for n, operand in enumerate(user.operands):
      if operand != name:
        continue
      called = computations.called_by(user)
      if user.opcode in _PICKS and n == 0:
        total += _bytes(user)
      elif user.opcode in _UPDATES and n == 0:
        update = user.operands[_UPDATES[user.opcode]]
        total += _bytes(inside.by_name.get(update))
      elif user.opcode == "bitcast":
        total += _touched(inside, user.name, whole, computations)
      elif user.opcode == "fusion" and called is not None:
        total += _read(called, n, whole, computations)
      else:
        return whole
      if total >= whole:
        return whole
  return total


def _written(
  fusion: Instruction, inside: Computation, computations: Computations
) -> float:
  """Bytes that a fusion writes; for an update in place, those of the update."""
  root = inside.root
  if root is None:
    return _hbm(fusion)
  parts = root.operands if root.opcode == "tuple" else (root.name,)
  if len(parts) != len(fusion.arrays):
    return _hbm(fusion)
  return sum(
    min(float(array.bytes), _made(part, inside, computations))
    for part, array in zip(parts, fusion.arrays)
    if not array.fast
  )


def _made(name: str, inside: Computation, computations: Computations) -> float:
  part = inside.by_name.get(name)
  while part is not None and part.opcode == "bitcast":
    part = inside.by_name.get(part.operands[0])
  if part is None:
    return math.inf
  if part.opcode in _UPDATES:
    return _bytes(inside.by_name.get(part.operands[_UPDATES[part.opcode]]))
  called = computations.called_by(part) if part.opcode == "fusion" else None
  if called is None or called.root is None or called.root.opcode == "tuple":
    return math.inf
  return _made(called.root.name, called, computations)
