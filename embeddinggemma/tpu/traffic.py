"""Bytes that a compiled program moves to and from HBM.

Each instruction reads its operands and writes its result once, where these are
not in on-chip memory. Of an array that is only sliced or gathered from, or
updated in place, what is touched counts.
"""

from collections.abc import Mapping

from embeddinggemma.tpu.hlo import Instruction, Program

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

Scopes = dict[str, dict[str, Instruction]]


def hbm_bytes(program: Program) -> float:
  """Of one step on one device."""
  scopes: Scopes = {}
  total = 0.0
  for times, name, instruction in program.walk(fused=False):
    total += times * _moved(instruction, _scope(program, name, scopes), program)
  return total


def _scope(
  program: Program, name: str, scopes: Scopes
) -> dict[str, Instruction]:
  if name not in scopes:
    scopes[name] = {i.name: i for i in program.computations[name]}
  return scopes[name]


def _moved(
  instruction: Instruction,
  scope: Mapping[str, Instruction],
  program: Program,
) -> float:
  opcode = instruction.opcode
  if opcode in _FREE or opcode.endswith(("-done", "-update")):
    return 0.0
  if any(mark in instruction.text for mark in _ALLOCATES):
    return 0.0
  if opcode == "copy-start":  # (to, from, context)
    return float(sum(_slow(instruction, (0, 1))))
  inside = program.computations.get(
    instruction.attribute("calls").lstrip("%"), []
  )
  made, given = 0.0, 0.0
  if opcode == "fusion" and inside:
    made = _written(instruction, inside, program)
    for n, name in enumerate(instruction.operands):
      whole = _hbm(scope.get(name))
      given += min(whole, _read(inside, n, whole, program)) if whole else 0
    return made + given
  if opcode in _UPDATES:
    update = scope.get(instruction.operands[_UPDATES[opcode]])
    return 2.0 * _hbm(update)
  if opcode in _PICKS:
    picked = (
      _bytes(instruction) if _hbm(scope.get(instruction.operands[0])) else 0
    )
    return picked + _hbm(instruction)
  return _hbm(instruction) + sum(
    _hbm(scope.get(name)) for name in instruction.operands
  )


def _slow(instruction: Instruction, places: tuple[int, ...]) -> list[int]:
  arrays = instruction.arrays
  return [
    arrays[n].bytes for n in places if n < len(arrays) and not arrays[n].fast
  ]


def _hbm(instruction: Instruction | None) -> float:
  """Bytes of a result that is in HBM."""
  if instruction is None:
    return 0.0
  return float(sum(a.bytes for a in instruction.arrays if not a.fast))


def _bytes(instruction: Instruction | None) -> float:
  """Of a result, wherever it is: inside a fusion nothing has a place."""
  arrays = instruction.arrays if instruction else []
  return float(sum(a.bytes for a in arrays))


def _read(
  inside: list[Instruction], number: int, whole: float, program: Program
) -> float:
  """What a fusion reads of its n-th operand."""
  name = next(
    (
      i.name
      for i in inside
      if i.opcode == "parameter" and i.text.startswith(f"{number})")
    ),
    None,
  )
  return whole if name is None else _touched(inside, name, whole, program)


def _touched(
  inside: list[Instruction], name: str, whole: float, program: Program
) -> float:
  total = 0.0
  scope = {i.name: i for i in inside}
  for user in inside:
    for n, operand in enumerate(user.operands):
      if operand != name:
        continue
      if user.opcode in _PICKS and n == 0:
        total += _bytes(user)
      elif user.opcode in _UPDATES and n == 0:
        total += _bytes(scope.get(user.operands[_UPDATES[user.opcode]]))
      elif user.opcode == "bitcast":
        total += _touched(inside, user.name, whole, program)
      elif user.opcode == "fusion":
        called = program.computations.get(
          user.attribute("calls").lstrip("%"), []
        )
        total += _read(called, n, whole, program)
      else:
        return whole
      if total >= whole:
        return whole
  return total


def _written(
  fusion: Instruction, inside: list[Instruction], program: Program
) -> float:
  """What a fusion writes; of an update in place, the update."""
  root = next((i for i in inside if i.root), None)
  if root is None:
    return _hbm(fusion)
  scope = {i.name: i for i in inside}
  parts = (
    [scope.get(name) for name in root.operands]
    if root.opcode == "tuple"
    else [root]
  )
  if len(parts) != len(fusion.arrays):
    return _hbm(fusion)
  return sum(
    min(float(array.bytes), _made(part, scope, program))
    for part, array in zip(parts, fusion.arrays)
    if not array.fast
  )


def _made(
  part: Instruction | None,
  scope: Mapping[str, Instruction],
  program: Program,
) -> float:
  while part is not None and part.opcode == "bitcast":
    part = scope.get(part.operands[0])
  if part is None:
    return float("inf")
  if part.opcode in _UPDATES:
    return _bytes(scope.get(part.operands[_UPDATES[part.opcode]]))
  if part.opcode == "fusion":
    called = program.computations.get(part.attribute("calls").lstrip("%"), [])
    root = next((i for i in called if i.root), None)
    if root is not None and root.opcode != "tuple":
      return _made(root, {i.name: i for i in called}, program)
  return float("inf")
