"""The communication of a compiled program: collectives and their mesh axes."""

import dataclasses
import math
import re
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
from jax.sharding import Mesh
from jaxtyping import Int

from embeddinggemma.aot.hlo import Instruction, Program

KINDS = (
  "all-reduce",
  "all-gather",
  "reduce-scatter",
  "all-to-all",
  "ragged-all-to-all",
  "collective-permute",
  "collective-broadcast",
  "send",
)
# Marks the parts, except the first, of a collective that the compiler spread
# over several fusions.
_CONTINUES = re.compile(r'"async_collective_fusion_config":\{"flag_start":"\d')
_PAIRS = re.compile(r"source_target_pairs=\{(.*?)\}\}")
_MESH = re.compile(
  r"replica_groups=mesh\[([^\]]*)\](?:\(([\d,]*)\))? \{(.*?)\}"
)
_AXIS = re.compile(r"'(\w+)'=(\d+)")
_PART = re.compile(r"'(\w+)'(?::\((\d+)\)(\d+))?")
_IOTA = re.compile(
  r"replica_groups=\[([\d,]+)\]<=\[([\d,]+)\](?:T\(([\d,]+)\))?"
)
_LISTS = re.compile(r"replica_groups=\{(\{.*?\})\}")


@dataclasses.dataclass(frozen=True)
class Collective:
  """A collective operation, run `times` times a step."""

  kind: str
  bytes: int  # of the whole array that it gathers or reduces
  sent: float  # bytes that leave a device if it runs on a ring
  group: tuple[int, ...]  # one device group, as indices of mesh.devices.flat
  times: int
  source: str  # FILE:LINE FUNCTION


def find(program: Program, devices: int) -> list[Collective]:
  """All collectives of a program; one over several fusions counts once."""
  found = []
  for times, computation, instruction in program.walk(fused=True):
    kind = instruction.opcode.removesuffix("-start")
    if kind not in KINDS or _CONTINUES.search(instruction.text):
      continue
    shapes = program.computations[computation].by_name
    given = sum(
      a.bytes
      for name in instruction.operands
      if name in shapes and (kind != "send" or name == instruction.operands[0])
      for a in shapes[name].arrays
    )
    group = tuple(group_of(instruction, devices))
    whole, sent = _traffic(kind, given, len(group))
    source = program.source(instruction)
    found.append(Collective(kind, whole, sent, group, times, source))
  return found


def _traffic(kind: str, given: int, n: int) -> tuple[int, float]:
  """(bytes of the whole array, bytes that leave a device) in a ring of n.

  `given` is the number of bytes of a device's operand.
  """
  if kind == "all-reduce":
    return given, 2 * given * (n - 1) / n
  if kind in ("all-gather", "collective-broadcast"):
    return given * n, given * (n - 1)
  if kind in ("collective-permute", "send"):
    return given, given
  return given, given * (n - 1) / n


def group_of(instruction: Instruction, devices: int) -> Sequence[int]:
  """The first device group of a collective, in any notation of HLO."""
  text = instruction.text
  if found := _MESH.search(text):
    return _mesh_groups(*found.groups())[0].tolist()
  if found := _IOTA.search(text):
    shape, sizes, order = found.groups()
    ids = np.arange(math.prod(_numbers(sizes))).reshape(_numbers(sizes))
    if order:
      ids = ids.transpose(_numbers(order))
    return ids.reshape(_numbers(shape))[0].tolist()
  if found := _LISTS.search(text):
    return _numbers(found[1].strip("{").partition("}")[0])
  if found := _PAIRS.search(text):
    pairs = [_numbers(p) for p in re.findall(r"\{(\d+,\d+)", found[1])]
    return next((p for p in pairs if p[0] != p[1]), [0])
  return range(devices)


def _numbers(text: str) -> list[int]:
  return [int(x) for x in text.split(",") if x.strip()]


def _mesh_groups(
  axes: str, order: str | None, chosen: str
) -> Int[np.ndarray, "groups n"]:
  """Device groups in the notation `mesh['a'=4,'b'=2] {'b'}`.

  A part of an axis is written 'a':(2)2.
  """
  sizes = {name: int(size) for name, size in _AXIS.findall(axes)}
  count = math.prod(sizes.values())
  ids = np.array(_numbers(order)) if order else np.arange(count)
  parts: dict[str, list[int]] = {name: [size] for name, size in sizes.items()}
  picked = []
  for name, before, size in _PART.findall(chosen):
    if size:
      after = sizes[name] // (int(before) * int(size))
      parts[name] = [int(before), int(size), after]
    picked.append((name, 1 if size else 0))
  flat = [(name, i) for name in sizes for i in range(len(parts[name]))]
  ids = ids.reshape([n for name in sizes for n in parts[name]])
  inside = [flat.index(p) for p in picked]
  outside = [i for i in range(len(flat)) if i not in inside]
  size = math.prod(ids.shape[i] for i in inside)
  return ids.transpose(*outside, *inside).reshape(-1, size)


def axes_of(group: Sequence[int], mesh: Mesh) -> tuple[str, ...]:
  """The mesh axes along which the devices of a group differ."""
  places = np.stack(np.unravel_index(list(group), mesh.devices.shape))
  differs = (places != places[:, :1]).any(axis=1)
  return tuple(name for name, d in zip(mesh.axis_names, differs) if d)


def summary(found: Sequence[Collective], mesh: Mesh) -> list[dict[str, Any]]:
  """Rows by kind and axes: runs and bytes a step, the most bytes first."""
  rows: dict[tuple[str, tuple[str, ...]], dict[str, Any]] = {}
  for one in found:
    axes = axes_of(one.group, mesh)
    row = rows.setdefault(
      (one.kind, axes),
      {"kind": one.kind, "axes": list(axes), "count": 0, "bytes": 0},
    )
    row["count"] += one.times
    row["bytes"] += one.bytes * one.times
  return sorted(rows.values(), key=lambda row: -row["bytes"])


def in_loops(found: Sequence[Collective]) -> Iterator[Collective]:
  """The collectives that run more than once a step."""
  return (one for one in found if one.times > 1)
