"""A model's parameters on grids, as quantisation-aware training sees them.

Training (paper section 3.5; Jacob et al. 2018, arXiv 1712.05877) computes with
weights on their grid and updates the raw ones in float32. Checkpoints hold the
raw weights and the name of the view, which every reader applies; exporters pack
the `integers` of the same raw weights, and so ship exactly what was trained.
Nobody else may round them again, since the grids of runtimes differ.
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
from embeddinggemma.types import Array, BadInput, BadValue, Params

FLOAT = "float"  # the precision of weights that are on no grid
VIEW = "quantize:"  # followed by a spec: the name of a checkpoint's view


class Part(NamedTuple):
  """A kind of weight: the pattern of its path, and its input axes."""

  pattern: str
  name: str
  inputs: int  # number of leading axes that are input; 0: the last axis is


# The channels of the embedding table are its rows, one for each token.
PARTS = (
  Part(r"embedding$", "embedding", 0),
  Part(r"(attention|pooling)/(q|k|v)$", "attention", 1),
  Part(r"attention/o$", "attention", 2),
  Part(r"mlp/(gate|up|down)$", "feed_forward", 1),
  Part(r"^(up|down)$", "projection", 1),
)
_AT_ONCE = 2**22  # elements that are compared with a grid at a time
_SAMPLE = 16  # rows that are compared first
# What has several axes and stays in float: what a pooling has beside heads.
_FLOAT = r"pooling/"

_NAMES = ("embedding", "attention", "feed_forward", "projection")
_all = lambda grid: dict.fromkeys(_NAMES, grid)
# Spec -> grid of each part; parts that a spec lacks stay in float.
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
  """The grids of a spec; BadInput, naming the config key, if it is unknown."""
  if name not in SPECS:
    raise BadInput(f"{key}={name!r} is unknown{suggest(name, list(SPECS))}")
  return SPECS[name]


def known(precision: str) -> str:
  """The precision, if it is a spec or "float"; else BadValue."""
  if precision not in (FLOAT, *SPECS):
    near = suggest(precision, [FLOAT, *SPECS])
    raise BadValue(f"precision={precision!r} is unknown{near}")
  return precision


def place(
  path: str, shape: tuple[int, ...], spec: str
) -> tuple[Part, Grid] | None:
  """The kind of an embedder's parameter and its grid; None: it stays in float.

  Raises BadInput for a matrix that no pattern matches, and if blocks do not
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
  """A weight with its input axes merged into the last: blocks run along it.

  The output axes before it are unchanged; .reshape(-1, in) gives the (out, in)
  that exporters write.
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
  """A weight's values on the grid, with a straight-through gradient.

  The gradient passes completely, without clipping: only values whose scale was
  rounded down, or on the far side of a signed grid, lie beyond the last step,
  by less than one step, and without a gradient they could not return. It is not
  x + stop_gradient(q(x) - x), which misses the grid by rounding.
  """
  return _seen(weight, part, grid)


fake_quant.defvjp(
  lambda weight, part, grid: (_seen(weight, part, grid), None),
  lambda part, grid, kept, gradient: (gradient,),
)


def view(spec: str) -> Callable[[Params], Params]:
  """A function from parameters to the model on a spec's grids, without aux.

  Raises BadInput for an unknown spec, and when applied as `place` does.
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
  """A tensor of a checkpoint, rounded to a precision."""
  if precision == FLOAT:
    return tensor
  return on_grid("/".join(name), tensor, precision)


class Packed(NamedTuple):
  """A parameter as exporters pack it."""

  path: str
  grid: Grid
  q: Int8[np.ndarray, "out in"]
  scale: Float[np.ndarray, "out blocks"]


def packed(path: str, weight: np.ndarray, spec: str) -> Packed | None:
  """A parameter's integers as (out, in), and scales; None: it stays in float.

  dequantised(q, scale) equals what the view shows, transposed.
  """
  found = place(path, weight.shape, spec)
  if found is None:
    return None
  part, grid = found
  rows = to_rows(weight, part)
  q, scale = integers(rows.reshape(-1, rows.shape[-1]), grid)
  return Packed(path, grid, q, scale)


def lies_on(path: str, weight: np.ndarray, spec: str) -> bool:
  """Whether a parameter's values are already on the grid of a spec.

  Then packing them rounds nothing. A few rows are compared first, which
  suffices for nearly all weights that are on no grid. A parameter that stays in
  float lies on any spec.
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
  """Bytes of a model's weights in a precision.

  With a spec, they are its integers and scales of 16 bits; what stays in float
  counts as float32.
  """

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
  """The precision of a view: a spec or "float"; None: it is no rounding.

  Raises BadInput for a spec that this version does not know.
  """
  if view == "identity":
    return FLOAT
  if not (isinstance(view, str) and view.startswith(VIEW)):
    return None
  spec_of(view.removeprefix(VIEW), "its view")
  return view.removeprefix(VIEW)


def view_named(precision: str) -> str:
  """The inverse of `precision_of`: the name of a precision's view."""
  return "identity" if precision == FLOAT else f"{VIEW}{precision}"
