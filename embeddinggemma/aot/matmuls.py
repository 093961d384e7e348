"""Floating-point operations of a compiled program's matrix products.

A TPU's products are convolutions: batch dimensions become windows with padding
and dilation, of which only the positions that meet data count.
"""

import math
import re

import numpy as np

from embeddinggemma.aot.hlo import Computation, Instruction, Program

_LABELS = re.compile(r"dim_labels=(\w+)_(\w+)->(\w+)")
_WINDOW = re.compile(r"window=\{([^}]*)\}")


def flops(program: Program) -> float:
  """Operations of a device's products in a step, without Pallas kernels."""
  total = 0.0
  for times, name, instruction in program.walk(fused=True):
    if instruction.opcode not in ("convolution", "dot"):
      continue
    count = convolution if instruction.opcode == "convolution" else dot
    total += times * count(instruction, program.computations[name])
  return total


def dot(instruction: Instruction, scope: Computation) -> float:
  """Operations of a dot: 2 x elements of the result x contracted sizes."""
  left = scope.by_name[instruction.operands[0]].arrays[0].dims
  found = re.search(r"lhs_contracting_dims=\{([\d,]*)\}", instruction.text)
  over = [int(i) for i in found[1].split(",") if i] if found else []
  return 2.0 * instruction.arrays[0].size * math.prod(left[i] for i in over)


def convolution(instruction: Instruction, scope: Computation) -> float:
  """Operations of a convolution.

  They are 2 x batch x features in x features out x valid pairs of positions.
  """
  labels = _LABELS.search(instruction.text)
  if labels is None:
    return 0.0
  left = scope.by_name[instruction.operands[0]].arrays[0].dims
  right = scope.by_name[instruction.operands[1]].arrays[0].dims
  out = instruction.arrays[0].dims
  size = lambda dims, names, name: dims[names.index(name)]
  pairs = 1
  for n, window in enumerate(_windows(instruction.text)):
    key = str(n)
    pairs *= _valid_pairs(
      size(left, labels[1], key), size(out, labels[3], key), **window
    )
  groups = int(instruction.attribute("batch_group_count") or 1)
  batch = size(left, labels[1], "b") // groups
  features = size(right, labels[2], "i") * size(right, labels[2], "o")
  return 2.0 * batch * features * pairs


def _windows(text: str) -> list[dict[str, int]]:
  """Size, stride, low padding and dilations of each spatial dimension."""
  found = _WINDOW.search(text)
  if found is None or "size=" not in found[1]:
    return []
  parts = dict(p.split("=") for p in found[1].split())
  count = len(parts["size"].split("x"))
  values = lambda name: (
    [int(v.split("_")[0]) for v in parts[name].split("x")]
    if name in parts
    else [0 if name == "pad" else 1] * count
  )
  names = ("size", "stride", "pad", "lhs_dilate", "rhs_dilate")
  return [dict(zip(names, row)) for row in zip(*map(values, names))]


def _valid_pairs(
  given: int,
  made: int,
  size: int,
  stride: int,
  pad: int,
  lhs_dilate: int,
  rhs_dilate: int,
) -> int:
  """Number of (output position, kernel position) pairs that meet an element.

  Position o of the output and k of the kernel meet at stride * o + rhs_dilate *
  k - pad, where every lhs_dilate-th position holds an element. Since a batch
  may be a window of millions, nothing here enumerates the pairs.
  """
  first = np.arange(size, dtype=np.int64) * rhs_dilate - pad
  last = (given - 1) * lhs_dilate
  low = -(np.minimum(first, 0) // stride)
  high = np.minimum(made, (last - first) // stride + 1)
  # first + stride * o is a multiple of lhs_dilate where o is `start` and every
  # `period` after it.
  common = math.gcd(stride, lhs_dilate)
  period = lhs_dilate // common
  inverse = pow(stride // common, -1, period) if period > 1 else 0
  start = (-first // common * inverse) % period
  count = (high - 1 - start) // period - (low - 1 - start) // period
  count = np.where((first % common == 0) & (high > low), count, 0)
  return int(count.sum())
