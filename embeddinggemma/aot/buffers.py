"""The largest buffers in a device's memory, by the compiler's assignment."""

import re
from collections.abc import Mapping
from typing import NamedTuple

# The compiler gives every memory but HBM (on-chip, scalar, host) a "color".
# Versions before libtpu 0.0.42 name a page as well.
_HEAD = re.compile(
  r"^allocation \d+: size (\d+),( color \d+,)?(?: page \d+,)?"
  r" preallocated-temp:"
)
_VALUE = re.compile(
  r"^ value: <\d+ (.+?)(?:\{[\d,]*\})? @\d+> \(size=(\d+),offset=(\d+)\): (\S+)"
)


class Buffer(NamedTuple):
  """A piece of temporary memory, and the largest value that it ever holds."""

  name: str  # of the instruction that computes the value
  shape: str
  bytes: int
  values: int  # number of values that use exactly this piece, in turn


class Temporaries(NamedTuple):
  """The temporary memory of one device, in HBM."""

  bytes: int  # of all buffers, which share memory where their lifetimes allow
  buffers: tuple[Buffer, ...]  # largest first


def parse(text: str) -> Temporaries:
  """The temporaries in HBM, from a dump's `buffer-assignment.txt`."""
  total, inside = 0, False
  pieces: dict[tuple[int, int], list[tuple[str, str]]] = {}
  for line in text.splitlines():
    if line.startswith("allocation"):
      head = _HEAD.match(line)
      inside = head is not None and not head[2]
      total += int(head[1]) if head and inside else 0
    elif inside and (found := _VALUE.match(line)):
      name, size, offset, shape = found.groups()
      if shape.startswith("("):  # only where the parts are
        continue
      pieces.setdefault((int(size), int(offset)), []).append((name, shape))
  made = [
    Buffer(*values[0], size, len(values))
    for (size, _), values in pieces.items()
  ]
  made.sort(key=lambda b: -b.bytes)
  return Temporaries(total, tuple(made))


def largest(
  temporaries: Temporaries, sources: Mapping[str, str], count: int
) -> list[dict[str, object]]:
  """The `count` largest buffers as rows; equal shape and source share a row.

  `sources` maps instructions to source lines.
  """
  rows: dict[tuple[str, str], dict[str, object]] = {}
  for buffer in temporaries.buffers:
    shape = buffer.shape.partition("{")[0]
    key = (shape, sources.get(buffer.name, ""))
    row = rows.setdefault(
      key,
      {
        "shape": shape,
        "source": key[1],
        "bytes": buffer.bytes,
        "count": 0,
        "name": buffer.name,
      },
    )
    row["count"] = int(str(row["count"])) + 1
  most = sorted(
    rows.values(), key=lambda r: -int(str(r["bytes"])) * int(str(r["count"]))
  )
  return most[:count]
