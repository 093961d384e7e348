"""Weights that lie on a grid already: a checkpoint of quantisation-aware training
that was published as floats, or the blocks of a GGUF file.

A spec's view changes nothing of such weights, so export packs their integers
and rounds nothing. They are floats to whoever trains on: a finetuning that
starts from them leaves the grid, and does not become training for it.
"""

from typing import NamedTuple

import numpy as np

from embeddinggemma import quantize
from embeddinggemma.checkpoint import Name
from embeddinggemma.convert.tensors import Imported
from embeddinggemma.types import BadInput

_NAMED = 3  # tensors that a line names


class Found(NamedTuple):
  """What is known of a model's weights."""

  grid: str  # a spec, or "float"
  line: str  # for the reader; "" where there is nothing to say


def recognise(model: Imported) -> Found:
  """The spec whose grids all weights of an embedder lie on, if there is one.

  Small tensors come first, and a spec is given up when more tensors are off it
  than on it: of float weights, the smallest matrix alone is read.
  """
  matrices = sorted(
    (name for name in model.tensors if len(model.tensors[name].shape) > 1),
    key=lambda name: model.tensors[name].size,
  )
  off: dict[str, list[Name]] = {spec: [] for spec in quantize.SPECS}
  for done, name in enumerate(matrices, 1):
    tensor = model.tensors[name].read()
    for spec in list(off):
      if not _lies_on(name, tensor, spec):
        off[spec].append(name)
        if 2 * len(off[spec]) > done:
          del off[spec]
    if not off:
      return Found(quantize.FLOAT, "")
  spec = min(off, key=lambda spec: len(off[spec]))
  if not off[spec]:
    line = f"weights lie on the grid of {spec}; export packs them as they are"
    return Found(spec, line)
  return Found(quantize.FLOAT, _mixture(spec, off[spec], len(matrices)))


def _lies_on(name: Name, tensor: np.ndarray, spec: str) -> bool:
  try:
    return quantize.lies_on("/".join(name), tensor, spec)
  except BadInput:  # its blocks do not divide the input
    return False


def _mixture(spec: str, off: list[Name], count: int) -> str:
  """Of weights that nearly all lie on a grid, which do not."""
  names = ", ".join("/".join(name) for name in off[:_NAMED])
  more = f" and {len(off) - _NAMED} more" if len(off) > _NAMED else ""
  return (
    f"{count - len(off)} of {count} matrices lie on the grid of {spec}, but not"
    f" {names}{more}: no single grid, so export writes floats or rounds them"
  )
