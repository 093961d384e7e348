"""A layer's second half in one TPU kernel, forward and backward (Pallas).

x + post_norm(GeGLU(pre_norm(x))): the hidden vectors of a tile of positions
stay in the chip's vector memory between the products, and so do the gradients
of the weights over all tiles. For the backward pass both hidden inputs and the
output before its norm are kept; norms and activation are computed again.

The same numbers as `layers.MLP` between its norms, which a test compares; here
all but the products' operands is float32. Letters as in `model/config.py`;
N positions of all rows.
"""

import functools
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax.experimental import pallas as pl
from jax.experimental.pallas import tpu as pltpu
from jaxtyping import Array, Float

from embeddinggemma.model.fused import fold, norm, norm_back, product

_TILES = (256, 128)  # positions, the first that divides
_HIDDEN = 384  # hidden units that are worked on together
_VECTOR_MEMORY = 100 * 2**20  # bytes that one kernel may take
_SLOPE, _CUBE = 0.7978845608028654, 0.044715  # of GeLU's tanh form


class Weights(NamedTuple):
  """Of the part; gains are 1 + w of its norms."""

  pre_gain: Float[Array, "D"]
  gate: Float[Array, "D F"]
  up: Float[Array, "D F"]
  down: Float[Array, "F D"]
  post_gain: Float[Array, "D"]


@functools.partial(jax.custom_vjp, nondiff_argnums=(0,))
def add_mlp(
  eps: float, x: Float[Array, "N D"], weights: Weights
) -> Float[Array, "N D"]:
  """x plus its normed MLP."""
  return _forward(eps, x, weights)[0]


def _forward(eps: float, x: Array, weights: Weights) -> tuple[Array, Any]:
  like = lambda width: jax.ShapeDtypeStruct((x.shape[0], width), x.dtype)
  width, hidden = weights.gate.shape
  outputs = like(width), like(hidden), like(hidden), like(width)
  y, gate, up, part = _call(
    eps, "mlp_forward", _forward_kernel, (x,), weights, outputs, 3
  )
  return y, (x, gate, up, part, weights)


def _backward(eps: float, kept: Any, d_y: Array) -> tuple[Array, Weights]:
  x, gate, up, part, weights = kept
  whole = lambda w: jax.ShapeDtypeStruct(w.shape, jnp.float32)
  gain = jax.ShapeDtypeStruct((8, x.shape[1]), jnp.float32)
  matrices = (whole(w) for w in (weights.gate, weights.up, weights.down))
  outputs = jax.ShapeDtypeStruct(x.shape, x.dtype), gain, *matrices, gain
  tiles = x, gate, up, part, d_y
  d_x, *d = _call(
    eps, "mlp_backward", _backward_kernel, tiles, weights, outputs, 6
  )
  d[0], d[-1] = (jnp.sum(g, axis=0) for g in (d[0], d[-1]))
  return d_x, Weights(*(g.astype(w.dtype) for g, w in zip(d, weights)))


add_mlp.defvjp(_forward, _backward)


def _call(
  eps: float,
  name: str,
  kernel: Any,
  tiles: tuple[Array, ...],
  weights: Weights,
  outputs: tuple[Any, ...],
  products: int,
) -> Any:
  """A tile of positions a step; weights and their gradients stay."""
  positions, dtype = tiles[0].shape[0], tiles[0].dtype
  pre_gain, *matrices, post_gain = weights
  gain = lambda g: g.astype(jnp.float32)[None]
  weights = gain(pre_gain), *(w.astype(dtype) for w in matrices), gain(post_gain)
  operands = (*tiles, *weights)
  tile = next(tile for tile in _TILES if not positions % tile)

  def spec(x: Any) -> pl.BlockSpec:
    if x.shape[0] == positions:
      return pl.BlockSpec((tile, x.shape[1]), lambda i: (i, 0))
    return pl.BlockSpec(x.shape, lambda i: (0, 0))

  arrays = (*operands, *outputs)
  size = positions * matrices[0].size
  cost = pl.CostEstimate(
    flops=2 * products * size,
    transcendentals=positions * matrices[0].shape[1],
    bytes_accessed=sum(x.size * x.dtype.itemsize for x in arrays),
  )
  return pl.pallas_call(
    functools.partial(kernel, eps),
    grid=(positions // tile,),
    in_specs=[spec(x) for x in operands],
    out_specs=[spec(x) for x in outputs],
    out_shape=outputs,
    compiler_params=pltpu.CompilerParams(
      dimension_semantics=("arbitrary",), vmem_limit_bytes=_VECTOR_MEMORY
    ),
    cost_estimate=cost,
    name=name,
  )(*operands)


def _chunks(hidden: int) -> list[slice]:
  return [
    slice(start, min(start + _HIDDEN, hidden))
    for start in range(0, hidden, _HIDDEN)
  ]


def _forward_kernel(
  eps, x, pre_gain, gate, up, down, post_gain, y, kept_gate, kept_up, kept_part
):
  given = x[...].astype(jnp.float32)
  normed = (norm(eps, given)[0] * pre_gain[...]).astype(x.dtype)
  part = jnp.zeros(x.shape, jnp.float32)
  for some in _chunks(gate.shape[1]):
    opened = product(normed, gate[:, some], 1, 0)
    raised = product(normed, up[:, some], 1, 0)
    kept_gate[:, some] = opened.astype(x.dtype)
    kept_up[:, some] = raised.astype(x.dtype)
    hidden = (_gelu(opened)[0] * raised).astype(x.dtype)
    part += product(hidden, down[some], 1, 0)
  kept_part[...] = part.astype(x.dtype)
  y[...] = (given + norm(eps, part)[0] * post_gain[...]).astype(x.dtype)


def _backward_kernel(
  eps,
  x,
  kept_gate,
  kept_up,
  kept_part,
  d_y,
  pre_gain,
  gate,
  up,
  down,
  post_gain,
  d_x,
  d_pre_gain,
  d_gate,
  d_up,
  d_down,
  d_post_gain,
):
  @pl.when(pl.program_id(0) == 0)
  def _start():
    for total in (d_pre_gain, d_gate, d_up, d_down, d_post_gain):
      total[...] = jnp.zeros(total.shape, jnp.float32)

  full = lambda ref: ref[...].astype(jnp.float32)
  d_sum, part = full(d_y), norm(eps, full(kept_part))
  d_post_gain[...] += fold(d_sum * part[0])
  d_part = norm_back(part, d_sum * post_gain[...]).astype(x.dtype)
  given = norm(eps, full(x))
  normed = (given[0] * pre_gain[...]).astype(x.dtype)
  d_normed = jnp.zeros(x.shape, jnp.float32)
  for some in _chunks(gate.shape[1]):
    raised = kept_up[:, some].astype(jnp.float32)
    active, slope = _gelu(kept_gate[:, some].astype(jnp.float32))
    hidden = (active * raised).astype(x.dtype)
    d_down[some] += product(hidden, d_part, 0, 0)
    d_hidden = product(d_part, down[some], 1, 1)
    d_raised = (d_hidden * active).astype(x.dtype)
    d_opened = (d_hidden * raised * slope).astype(x.dtype)
    d_gate[:, some] += product(normed, d_opened, 0, 0)
    d_up[:, some] += product(normed, d_raised, 0, 0)
    d_normed += product(d_opened, gate[:, some], 1, 1)
    d_normed += product(d_raised, up[:, some], 1, 1)
  d_pre_gain[...] += fold(d_normed * given[0])
  d_given = d_sum + norm_back(given, d_normed * pre_gain[...])
  d_x[...] = d_given.astype(x.dtype)


def _gelu(x: Array) -> tuple[Array, Array]:
  """GeLU in its tanh form, and its derivative."""
  square = x * x
  bent = jnp.tanh(_SLOPE * x * (1.0 + _CUBE * square))
  half = 0.5 * (1.0 + bent)
  inner = _SLOPE * (1.0 + 3.0 * _CUBE * square)
  return x * half, half + 0.5 * x * (1.0 - bent * bent) * inner
