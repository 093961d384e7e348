"""A model's parameters on grids: what quantisation-aware training sees.

Training (paper section 3.5; Jacob et al. 2018, arXiv 1712.05877) sees weights
on their grid, while what learns are the raw ones in float32. Checkpoints hold
these and the name of the view, which every reader applies; whoever exports
packs `integers` of the same raw weights, and so ships what was trained. Nobody
else may round them again: the grids of runtimes differ.
"""

import functools
import itertools
import math
import re
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import jax
import numpy as np
from jaxtyping import Float, Int8

from embeddinggemma import sharding
from embeddinggemma.config import suggest
from embeddinggemma.grids import GRIDS, Grid, dequantised, integers
from embeddinggemma.types import Array, BadInput, Params

FLOAT = "float"  # the precision of weights that are on no grid
VIEW = "quantize:"  # and the name of a spec: what a checkpoint says of itself


class Part(NamedTuple):
  """A kind of weight: the pattern of its path, and which axes are input."""

  pattern: str
  name: str
  inputs: int  # leading axes; 0: the last axis


# Rows of the table are its channels: of a word, the input of what follows.
PARTS = (
  Part(r"embedding$", "embedding", 0),
  Part(r"(attention|pooling)/(q|k|v)$", "attention", 1),
  Part(r"attention/o$", "attention", 2),
  Part(r"mlp/(gate|up|down)$", "feed_forward", 1),
  Part(r"^(up|down)$", "projection", 1),
)
_AT_ONCE = 2**22  # elements that are compared with a grid together
_SAMPLE = 16  # rows that are compared first
# What has several axes and stays in float: a vector, by heads.
_FLOAT = r"pooling/query$"

_NAMES = ("embedding", "attention", "feed_forward", "projection")
_all = lambda grid: dict.fromkeys(_NAMES, grid)
# Spec -> grid of each part; a part that a spec lacks stays in float.
#
# The paper's three are int4 by block, int8 by block, and mixed by channel:
# "e4_a8_f4_p4". By channel, mixed runs in LiteRT with float activations, whose
# blocks of int4 force activations to int8, and a channel's scale repeated in
# each block is a GGUF: so one checkpoint serves both. "int8" is by channel for
# the same reason: LiteRT has no blocks of int8; "int8_block" is llama.cpp's.
SPECS: dict[str, Mapping[str, str]] = {
  "int4": _all("g4"),
  "int8": _all("g8"),
  "int8_block": _all("q8_0"),
  "mixed": _all("g4c") | {"attention": "g8"},
  "q4_0": _all("q4_0"),
}


def spec_of(name: str, key: str = "precision") -> Mapping[str, str]:
  """Looks a spec up; BadInput for an unknown one, which `key` gave."""
  if name not in SPECS:
    raise BadInput(f"{key}={name!r} is unknown{suggest(name, list(SPECS))}")
  return SPECS[name]


def known(precision: str) -> str:
  """A spec or "float"; BadInput for anything else."""
  if precision != FLOAT:
    spec_of(precision)
  return precision


def place(
  path: str, shape: tuple[int, ...], spec: str
) -> tuple[Part, Grid] | None:
  """What a parameter of an embedder is, and its grid; None: it stays in float.

  Raises BadInput for a matrix that no pattern matches, and where blocks do not
  divide the parameter's input.
  """
  part = next((p for p in PARTS if re.search(p.pattern, path)), None)
  if part is None and len(shape) > 1 and not re.search(_FLOAT, path):
    raise BadInput(
      f"no grid is known for parameter {path!r} of shape {shape}; add its"
      " pattern to quantize.PARTS"
    )
  name = spec_of(spec).get(part.name) if part else None
  if part is None or name is None:
    return None
  grid = GRIDS[name]
  size = _input_size(shape, part)
  if grid.block and size % grid.block:
    raise BadInput(
      f"parameter {path!r} of shape {shape} has an input of {size}, which"
      f" blocks of {grid.block} do not divide ({spec!r}); use a precision by"
      " channel, or other sizes"
    )
  return part, grid


def _input_size(shape: tuple[int, ...], part: Part) -> int:
  return math.prod(shape[: part.inputs]) if part.inputs else shape[-1]


def to_rows(weight: Float[Array, "..."], part: Part) -> Float[Array, "*out in"]:
  """A weight with its input axes as one, the last: blocks run along it.

  The output axes before it are as they were; (out, in), which exporters write,
  is .reshape(-1, in) of it.
  """
  out = tuple(range(part.inputs, weight.ndim)) if part.inputs else (0,)
  size = _input_size(weight.shape, part)
  # Output axes stay apart: merged, one that is split over devices is gathered.
  order = out + tuple(n for n in range(weight.ndim) if n not in out)
  return weight.transpose(order).reshape(*(weight.shape[n] for n in out), size)


def from_rows(
  rows: Float[Array, "*out in"], part: Part, shape: tuple[int, ...]
) -> Float[Array, "..."]:
  """The inverse of to_rows, for a weight of this shape."""
  if not part.inputs:
    return rows
  apart = rows.reshape(*rows.shape[:-1], *shape[: part.inputs])
  number = apart.ndim - part.inputs
  order = (*range(number, apart.ndim), *range(number))
  return apart.transpose(order)


def _seen(weight: Array, part: Part, grid: Grid) -> Array:
  """A weight's values on the grid, in its shape."""
  rows = dequantised(*integers(to_rows(weight, part), grid))
  return from_rows(rows, part, weight.shape)


@functools.partial(jax.custom_vjp, nondiff_argnums=(1, 2))
def fake_quant(weight: Array, part: Part, grid: Grid) -> Array:
  """A weight's values on the grid, in its shape; straight-through gradient.

  All of the gradient passes: only a value whose scale was rounded down, or the
  far side of a signed grid, is beyond the last step, by less than one; without
  its gradient it could not come back. Not x + stop_gradient(q(x) - x), which
  is off the grid by a rounding.
  """
  return _seen(weight, part, grid)


fake_quant.defvjp(
  lambda weight, part, grid: (_seen(weight, part, grid), None),
  lambda part, grid, kept, gradient: (gradient,),
)


def view(spec: str) -> Callable[[Params], Params]:
  """Parameters -> the same with the model on a spec's grids; aux is left out.

  Raises BadInput for an unknown spec and, of a model, as place.
  """
  spec_of(spec)

  def see(params: Params) -> Params:
    model = jax.tree_util.tree_map_with_path(
      lambda path, x: on_grid(sharding.path_name(path), x, spec),
      params["model"],
    )
    return {**params, "model": model}

  return see


def on_grid(path: str, weight: Array, spec: str) -> Array:
  """One parameter of a model, by its path, as the view shows it."""
  found = place(path, weight.shape, spec)
  if found is None:
    return weight
  see = fake_quant if isinstance(weight, jax.Array) else _seen
  return see(weight, *found)


def seen(
  name: tuple[str, ...], tensor: np.ndarray, precision: str
) -> np.ndarray:
  """A tensor of a checkpoint as a precision shows it."""
  if precision == FLOAT:
    return tensor
  return on_grid("/".join(name), tensor, precision)


class Packed(NamedTuple):
  """A parameter as an exporter packs it."""

  path: str
  grid: Grid
  q: Int8[np.ndarray, "out in"]
  scale: Float[np.ndarray, "out blocks"]


def packed(path: str, weight: np.ndarray, spec: str) -> Packed | None:
  """A parameter's integers, (out, in); None: it stays in float.

  dequantised(q, scale) is what the view shows, transposed.
  """
  found = place(path, weight.shape, spec)
  if found is None:
    return None
  part, grid = found
  rows = to_rows(weight, part)
  q, scale = integers(rows.reshape(-1, rows.shape[-1]), grid)
  return Packed(path, grid, q, scale)


def lies_on(path: str, weight: np.ndarray, spec: str) -> bool:
  """Whether a parameter's values are what a spec's view shows of them.

  Then packing them rounds nothing. A few rows come first, which tell of nearly
  all weights that are on no grid. What stays in float lies on any spec.
  """
  found = place(path, weight.shape, spec)
  if found is None:
    return True
  part, grid = found
  rows = to_rows(weight, part)
  rows = rows.reshape(-1, rows.shape[-1])
  step = max(1, _AT_ONCE // rows.shape[-1])
  few = rows[:: max(1, len(rows) // _SAMPLE)][:_SAMPLE]
  parts = (rows[start : start + step] for start in range(0, len(rows), step))
  return all(
    np.array_equal(dequantised(*integers(some, grid)), some)
    for some in itertools.chain([few], parts)
  )


def nbytes(shapes: Mapping[str, tuple[int, ...]], precision: str) -> int:
  """Bytes of a model's weights in a precision: of a spec, its integers and
  scales of 16 bits; what is in float, in float32."""

  def of(path: str, shape: tuple[int, ...]) -> int:
    size = math.prod(shape)
    found = None if precision == FLOAT else place(path, shape, precision)
    if found is None:
      return 4 * size
    part, grid = found
    blocks = size // (grid.block or _input_size(shape, part))
    return size * grid.bits // 8 + 2 * blocks

  return sum(of(path, shape) for path, shape in shapes.items())


def precision_of(view: Any) -> str | None:
  """What a checkpoint's view shows: a spec, or "float"; None: something else.

  BadInput for a spec that this version does not know.
  """
  if view == "identity":
    return FLOAT
  if not (isinstance(view, str) and view.startswith(VIEW)):
    return None
  spec_of(view.removeprefix(VIEW), "its view")
  return view.removeprefix(VIEW)


def view_named(precision: str) -> str:
  """The inverse: what a checkpoint says of itself."""
  return "identity" if precision == FLOAT else f"{VIEW}{precision}"
