"""The text of a compiled program: its instructions, and how often each runs.

A loop's body is listed once, however often it runs, so everything is counted
times the trip counts of the loops around it. Source lines come from the tables
of stack frames at the head of the text. Written for what libtpu 0.0.52 prints.
"""

import dataclasses
import functools
import math
import pathlib
import re
from collections.abc import Iterator, Mapping
from typing import NamedTuple

_HEAD = re.compile(r"(ENTRY )?%?([\w.\-]+) \(.*\{$")
_LINE = re.compile(
  r"\s+(ROOT )?%([\w.\-]+) = (\(.*?\)|\S+) ([a-z][\w\-]*)\((.*)$"
)
_NAME = re.compile(r"%([\w.\-]+)")
_ARRAY = re.compile(r"([a-z]\w*)\[([\d,]*)\](\{[^}]*\})?")
_CYCLES = re.compile(r'"estimated_cycles":"(\d+)"')
_FRAME = re.compile(r"stack_frame_id=(\d+)")
_OP_NAME = re.compile(r'op_name="((?:[^"\\]|\\.)*)"')
_CALLED = re.compile(r"(?:calls|to_apply|called_computations)=\{?%([\w.\-]+)")
_BRANCHES = re.compile(
  r"(?:branch_computations=\{([^}]*)\}|(?:true|false)_computation=(%[\w.\-]+))"
)
# Cycles from here on stand for "unknown": the compiler writes about INT64_MAX.
_UNKNOWN_CYCLES = 10**12
_BITS = {"pred": 8, "s4": 4, "u4": 4, "f4e2m1fn": 4, "s2": 2, "u2": 2}
# Opcodes whose called computation runs as part of the program's control flow.
_CALLS = ("call", "async-start")


class Array(NamedTuple):
  """One array of a shape; `fast` if it lives in on-chip memory."""

  dtype: str
  dims: tuple[int, ...]
  fast: bool

  @property
  def size(self) -> int:
    """Number of elements."""
    return math.prod(self.dims)

  @property
  def bytes(self) -> int:
    """Number of bytes, without the padding of tiles."""
    return -(-self.size * _bits(self.dtype) // 8)


def _bits(dtype: str) -> int:
  if dtype in _BITS:
    return _BITS[dtype]
  found = re.search(r"\d+", dtype)  # f32, bf16, f8e4m3fn; a token has none
  return int(found[0]) if found else 0


class Instruction(NamedTuple):
  """One line of a computation."""

  name: str
  shape: str  # as printed; a tuple's is in parentheses
  opcode: str
  operands: tuple[str, ...]  # names in the same computation
  text: str  # what follows the opcode: operands and attributes
  root: bool

  @property
  def arrays(self) -> list[Array]:
    """The arrays of the result: several if it is a tuple."""
    return [
      Array(
        dtype, tuple(map(int, filter(None, dims.split(",")))), "S(" in layout
      )
      for dtype, dims, layout in _ARRAY.findall(self.shape)
    ]

  @property
  def cycles(self) -> int | None:
    """The compiler's estimate of cycles for one run; None if it gives none."""
    found = _CYCLES.search(self.text)
    if found is None or int(found[1]) >= _UNKNOWN_CYCLES:
      return None
    return int(found[1])

  @property
  def op_name(self) -> str:
    """The name of the JAX operation that it comes from."""
    found = _OP_NAME.search(self.text)
    return found[1] if found else ""

  def attribute(self, name: str) -> str:
    """The value of `name=` up to the next comma; "" where there is none."""
    found = re.search(rf"\b{name}=([^\s,]+)", self.text)
    return found[1] if found else ""


class Frame(NamedTuple):
  """A line of source, and the frame that called it (0: none)."""

  file: str
  function: str
  line: int
  parent: int


@dataclasses.dataclass(frozen=True)
class Computation:
  """A list of instructions, in the order in which they run."""

  lines: list[Instruction]

  @functools.cached_property
  def by_name(self) -> dict[str, Instruction]:
    """Its instructions by name, to look operands up."""
    return {i.name: i for i in self.lines}

  @functools.cached_property
  def root(self) -> Instruction | None:
    """The instruction whose result is that of the computation."""
    return next((i for i in self.lines if i.root), None)


class Computations(dict[str, Computation]):
  """Name -> computation, in the printed order: callees before callers.

  It is a class of its own so that run-time type checks do not traverse it.
  """

  def called_by(self, instruction: Instruction) -> Computation | None:
    """The computation inside a fusion; None for other instructions."""
    return self.get(instruction.attribute("calls").lstrip("%"))


@dataclasses.dataclass(frozen=True)
class Program:
  """A compiled program."""

  computations: Computations
  entry: str
  times: Mapping[str, int]  # how often each computation runs in a step
  control: frozenset[str]  # computations that are not the inside of a fusion
  unknown_loops: tuple[str, ...]  # with an unknown trip count, taken as 1
  frames: Mapping[int, Frame]

  def walk(self, fused: bool) -> Iterator[tuple[int, str, Instruction]]:
    """Yield (times, computation, instruction) of everything that runs.

    Args:
      fused: include the insides of fusions, whose cost the fusion itself
        carries.
    """
    for name, times in self.times.items():
      if fused or name in self.control:
        for instruction in self.computations[name].lines:
          yield times, name, instruction

  def source(self, instruction: Instruction) -> str:
    """The source of an instruction, such as "layers.py:75 rotate".

    It is the innermost line of this package, or else of any.
    """
    found = _FRAME.search(instruction.text)
    stack = list(self._stack(int(found[1]))) if found else []
    ours = (f for f in stack if "/embeddinggemma/" in f.file)
    frame = next(ours, stack[0] if stack else None)
    if frame is None:
      return ""
    function = frame.function.replace(".<locals>", "").replace(".<lambda>", "")
    return f"{_short(frame.file)}:{frame.line} {function}"

  def _stack(self, number: int) -> Iterator[Frame]:
    while number in self.frames:
      yield self.frames[number]
      number = self.frames[number].parent


def _short(path: str) -> str:
  """A path within this package, or the name of a file outside of it."""
  inside = path.rpartition("/embeddinggemma/")[2]
  return inside if inside != path else pathlib.PurePath(path).name


def parse(text: str) -> Program:
  """Parse the text of a program, as `compiled.as_text()` returns it."""
  lines: dict[str, list[Instruction]] = {}
  entry, current = "", None
  for line in text.splitlines():
    if current is None:
      head = _HEAD.match(line)
      if head:
        current = lines.setdefault(head[2], [])
        entry = head[2] if head[1] else entry
    elif line == "}":
      current = None
    elif found := _LINE.match(line):
      root, name, shape, opcode, rest = found.groups()
      operands = tuple(_NAME.findall(rest.partition(")")[0]))
      current.append(
        Instruction(name, shape, opcode, operands, rest, bool(root))
      )
    elif current:  # a kernel's metadata may go over several lines
      whole = current[-1].text + line
      current[-1] = current[-1]._replace(text=whole)
  computations = Computations({k: Computation(v) for k, v in lines.items()})
  times, control, unknown = _times(computations, entry)
  return Program(
    computations, entry, times, control, unknown, _frames(text[: 2**24])
  )


def _times(
  computations: Computations, entry: str
) -> tuple[dict[str, int], frozenset[str], tuple[str, ...]]:
  """How often each computation runs; every branch of a conditional counts.

  Also returns the computations that are part of the control flow, and the loops
  with an unknown trip count.
  """
  if entry not in computations:
    return {}, frozenset(), ()
  times, control = {entry: 1}, {entry}
  unknown: list[str] = []
  for name in reversed(computations):  # callers first
    if name not in times:
      continue
    for instruction in computations[name].lines:
      for called, count, flow in _called(instruction, name, computations):
        if called not in computations:
          continue
        if count is None:
          unknown.append(instruction.name)
        runs = times[name] * (1 if count is None else count)
        times[called] = times.get(called, 0) + runs
        if flow and name in control:
          control.add(called)
  return times, frozenset(control), tuple(unknown)


def _called(
  instruction: Instruction,
  inside: str,
  computations: Computations,
) -> Iterator[tuple[str, int | None, bool]]:
  """Yield (computation, runs, whether its instructions are counted themselves).

  `runs` is None for a loop whose trip count is unknown.
  """
  if instruction.opcode == "while":
    count = trip_count(instruction, computations[inside], computations)
    yield instruction.attribute("body").lstrip("%"), count, True
  elif instruction.opcode == "conditional":
    for several, one in _BRANCHES.findall(instruction.text):
      for name in _NAME.findall(several or one):
        yield name, 1, True
  elif instruction.opcode in ("fusion", *_CALLS):
    for name in _CALLED.findall(instruction.text):
      yield name, 1, instruction.opcode in _CALLS


def trip_count(
  loop: Instruction, around: Computation, computations: Computations
) -> int | None:
  """How often a `while` runs, from constants of its condition; else None.

  The condition compares an element of the carried tuple, which starts at a
  constant and grows by one, with a constant or an element that does not change.
  """
  condition = computations.get(loop.attribute("condition").lstrip("%"))
  root = condition.root if condition else None
  if condition is None or root is None or root.opcode != "compare":
    return None
  start = around.by_name.get(loop.operands[0]) if loop.operands else None
  values = []
  for operand in root.operands:
    given = _origin(operand, condition)
    if given is not None and given.opcode == "get-tuple-element":
      given = _element(start, int(given.attribute("index")), around)
    values.append(_constant(given))
  if len(values) != 2 or None in values:
    return None
  first, last = values[0] or 0, values[1] or 0
  direction = root.attribute("direction")
  if direction in ("LT", "LE"):
    return max(last - first + (direction == "LE"), 0)
  if direction in ("GT", "GE"):
    return max(first - last + (direction == "GE"), 0)
  return None


def _origin(name: str, scope: Computation) -> Instruction | None:
  """The instruction that a value is a mere copy, bitcast or conversion of."""
  found = scope.by_name.get(name)
  while found is not None and found.opcode in ("copy", "bitcast", "convert"):
    found = scope.by_name.get(found.operands[0])
  return found


def _element(
  given: Instruction | None, index: int, scope: Computation
) -> Instruction | None:
  if given is None or given.opcode != "tuple":
    return None
  return _origin(given.operands[index], scope)


def _constant(given: Instruction | None) -> int | None:
  if given is None or given.opcode != "constant":
    return None
  found = re.match(r"(-?\d+)\)", given.text)
  return int(found[1]) if found else None


def _frames(text: str) -> dict[int, Frame]:
  """Number -> frame, of the tables at the head of the text."""
  names = {
    table: dict(re.findall(r'^(\d+) "(.*)"$', _table(text, table), re.M))
    for table in ("FileNames", "FunctionNames")
  }
  places = {
    number: (names["FileNames"][file], names["FunctionNames"][function], line)
    for number, file, function, line in re.findall(
      r"^(\d+) \{file_name_id=(\d+) function_name_id=(\d+) line=(\d+)",
      _table(text, "FileLocations"),
      re.M,
    )
  }
  frames = {}
  for number, place, parent in re.findall(
    r"^(\d+) \{file_location_id=(\d+) parent_frame_id=(\d+)\}",
    _table(text, "StackFrames"),
    re.M,
  ):
    file, function, line = places[place]
    # Parents are printed one too high, so that the outermost has itself.
    frames[int(number)] = Frame(file, function, int(line), int(parent) - 1)
  return frames


def _table(text: str, name: str) -> str:
  """The lines between a table's name and the next empty line."""
  begin = text.find(f"\n{name}\n")
  return "" if begin < 0 else text[begin : text.find("\n\n", begin)]
