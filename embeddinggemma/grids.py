"""Grids of quantised weights: integers of few bits, and their scales.

A weight on a grid is q * s, an integer times the scale of its block or channel.
All functions take numpy arrays, of which the result is numpy, and JAX's, and
give the same bits for both on a CPU. Elsewhere a division may be off by its
last bit, so that a value in the middle of two steps falls to the other one.
"""

import dataclasses

import jax
import jax.numpy as jnp
import ml_dtypes
import numpy as np
from jaxtyping import Float, Int8

from embeddinggemma.types import Array

BLOCK = 32  # block size of all formats: GGUF, LiteRT and ONNX Runtime
_SCALES = {"bfloat16": ml_dtypes.bfloat16, "float16": np.float16}
_AT_ONCE = 2**22  # elements of a numpy array that are processed at a time


@dataclasses.dataclass(frozen=True)
class Grid:
  """The values that a quantised weight may have."""

  name: str
  bits: int
  block: int | None  # along the input axis; None: a scale per output channel
  scale: str  # type of the scales: "bfloat16" or "float16"
  # True: a scale is the value of largest magnitude / -2^(bits - 1), which
  # represents that value exactly and may be negative. False: it is the largest
  # magnitude / (2^(bits - 1) - 1).
  signed: bool = False

  @property
  def highest(self) -> int:
    """The largest integer."""
    return 2 ** (self.bits - 1) - 1

  @property
  def lowest(self) -> int:
    """The smallest integer."""
    return -self.highest - self.signed


# g4 and g8 suit LiteRT directly, and their integers fit the blocks of GGUF and
# ONNX Runtime. q8_0 and q4_0 are llama.cpp's own: quantising weights on them
# again changes nothing there (unless a scale is below 6e-5, where float16 is
# coarse); LiteRT supports neither.
GRIDS = {
  grid.name: grid
  for grid in (
    Grid("g4", 4, BLOCK, "bfloat16"),
    Grid("g4c", 4, None, "float16"),
    Grid("g8", 8, None, "float16"),
    Grid("q8_0", 8, BLOCK, "float16"),
    Grid("q4_0", 4, BLOCK, "float16", signed=True),
  )
}


def integers(
  weight: Float[Array, "*out in"], grid: Grid
) -> tuple[Int8[Array, "*out in"], Float[Array, "*out blocks"]]:
  """Integers q and scales s of a weight whose last axis is the input.

  A channel-wise grid has one block for each channel. In a block of zeros both q
  and s are 0. Values that are not finite make a scale that is not.
  """
  if isinstance(weight, jax.Array):
    return _integers(weight, grid)
  *out, size = weight.shape
  rows = weight.reshape(-1, size)
  q = np.empty(rows.shape, np.int8)
  scale = np.empty((len(rows), size // (grid.block or size)), np.float32)
  step = max(1, _AT_ONCE // size)
  with np.errstate(over="ignore", invalid="ignore"):
    for start in range(0, len(rows), step):
      few = slice(start, start + step)
      q[few], scale[few] = _integers(rows[few], grid)
  return q.reshape(weight.shape), scale.reshape(*out, -1)


def dequantised(
  q: Int8[Array, "*out in"], scale: Float[Array, "*out blocks"]
) -> Float[Array, "*out in"]:
  """q * s: the values on the grid, in float32."""
  *out, size = q.shape
  with np.errstate(invalid="ignore"):
    blocks = q.reshape(*out, scale.shape[-1], -1) * scale[..., None]
  return blocks.reshape(*out, size)


def _integers(
  weight: Float[Array, "*out in"], grid: Grid
) -> tuple[Int8[Array, "*out in"], Float[Array, "*out blocks"]]:
  xp = jnp if isinstance(weight, jax.Array) else np
  *out, size = weight.shape
  blocks = weight.astype(np.float32).reshape(
    *out, size // (grid.block or size), -1
  )
  low, high = blocks.min(axis=-1), blocks.max(axis=-1)
  extreme = xp.maximum(high, -low)
  if grid.signed:
    extreme = xp.where(high >= -low, high, low)
  # By a factor: a compiler may turn a division into one, or not.
  factor = np.float32(1 / (grid.lowest if grid.signed else grid.highest))
  scale = rounded(extreme * factor, grid.scale)
  inverse = 1 / xp.where(scale == 0, np.float32(1), scale)
  inverse = xp.where(scale == 0, np.float32(0), inverse)
  steps = xp.round(blocks * inverse[..., None])
  q = xp.clip(steps, grid.lowest, grid.highest).astype(np.int8)
  return q.reshape(*out, size), scale


def rounded(scale: Array, dtype: str) -> Array:
  """Round a scale to the nearest value of another type; the result is float32.

  On JAX arrays this is not done by two casts, which XLA may remove (excess
  precision). Small values are rounded to float16's in any case, for GGUF,
  although bfloat16 has more of them.
  """
  xp = jnp if isinstance(scale, jax.Array) else np
  type_ = _SCALES[dtype]
  if isinstance(scale, jax.Array):
    bits = jnp.finfo(type_)
    rounded = jax.lax.reduce_precision(scale, bits.nexp, bits.nmant)
  else:
    rounded = scale.astype(type_).astype(np.float32)
  # Multiples of 2^-24, of which reduce_precision would make zero.
  even = xp.round(scale * np.float32(2**24)) * np.float32(2**-24)
  # Below, these are as near to each other as the type's own values, or more.
  small = np.float32(2.0 ** (jnp.finfo(type_).nmant - 24))
  return xp.where(xp.abs(scale) < small, even, rounded)
