"""Recognise weights that lie on a quantisation grid already.

Such weights are a checkpoint of quantisation-aware training that was published
as floats, or the blocks of a GGUF file. A spec's view changes nothing of them,
so an export packs their integers and rounds nothing. Training treats them as
floats: a finetuning that starts from them leaves the grid.
"""

from typing import NamedTuple

import numpy as np

from embeddinggemma import quantize
from embeddinggemma.checkpoint import Name
from embeddinggemma.convert.tensors import Imported
from embeddinggemma.types import BadInput

_NAMED = 3  # tensors that a line names


class Found(NamedTuple):
  """On which grid a model's weights lie, and a note about it."""

  grid: str  # a spec, or "float"
  line: str  # a note for the user; "" for none


def recognise(model: Imported) -> Found:
  """The spec on whose grids all weights of an embedder lie, if there is one.

  Small tensors are read first, and a spec is given up when more tensors are off
  its grid than on it: of float weights, only the smallest matrix is read.
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
  """A note on which tensors are off a grid, if nearly all lie on it."""
  names = ", ".join("/".join(name) for name in off[:_NAMED])
  more = f" and {len(off) - _NAMED} more" if len(off) > _NAMED else ""
  return (
    f"{count - len(off)} of {count} matrices lie on the grid of {spec}, but not"
    f" {names}{more}: no single grid, so export writes floats or rounds them"
  )
