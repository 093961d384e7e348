"""The MLP half of a layer as TPU kernels: norms and GeGLU.

The results equal those of `layers.MLP` between its two norms, which a test
compares. Letters as in `model/config.py`; P positions of all rows.
"""

import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax.experimental import pallas as pl
from jax.experimental.pallas import tpu as pltpu
from jaxtyping import Array, Float

from embeddinggemma.model.kernels.common import (
  call,
  fold,
  full,
  gradients,
  norm,
  norm_back,
  product,
  ready,
  summed,
)

_TILES = (256, 128)  # positions of a kernel step: the first that divides P
# Hidden units that are processed together: the first that divides F.
_CHUNKS = (384, 256, 128, 64)
_SLOPE, _CUBE = 0.7978845608028654, 0.044715  # of GeLU's tanh form


class Weights(NamedTuple):
  """Weights of the MLP half of a layer; a gain is 1 + w of an RMSNorm."""

  pre_gain: Float[Array, "D"]
  gate: Float[Array, "D F"]
  up: Float[Array, "D F"]
  down: Float[Array, "F D"]
  post_gain: Float[Array, "D"]


class _Kept(NamedTuple):
  """What the forward pass keeps for the backward: arrays, or their shapes."""

  gate: Any  # (P, F)
  up: Any  # (P, F)
  part: Any  # (P, D): the MLP's output before its second norm


@functools.partial(jax.custom_vjp, nondiff_argnums=(0,))
def add_mlp(
  eps: float, x: Float[Array, "P D"], weights: Weights
) -> Float[Array, "P D"]:
  """x plus the normalised output of its MLP (the residual connection)."""
  return _forward(eps, x, weights)[0]


def _forward(eps: float, x: Array, weights: Weights) -> tuple[Array, Any]:
  like = lambda width: jax.ShapeDtypeStruct((x.shape[0], width), x.dtype)
  width, hidden = weights.gate.shape
  kept = _Kept(like(hidden), like(hidden), like(width))
  (y, kept), _ = call(
    functools.partial(_forward_kernel, eps),
    "mlp_forward",
    _steps(x),
    x,
    ready(weights, x.dtype),
    (like(width), kept),
    scratch=_scratch(x, x.dtype, jnp.float32),
    flops=2 * 3 * x.shape[0] * weights.gate.size,
    transcendentals=x.shape[0] * hidden,
  )
  return y, (x, kept, weights)


def _backward(eps: float, saved: Any, d_y: Array) -> tuple[Array, Weights]:
  x, kept, weights = saved
  d_x, totals = call(
    functools.partial(_backward_kernel, eps),
    "mlp_backward",
    _steps(x),
    (x, kept, d_y),
    ready(weights, x.dtype),
    jax.ShapeDtypeStruct(x.shape, x.dtype),
    gradients(weights),
    scratch=_scratch(x, x.dtype, x.dtype, jnp.float32),
    flops=2 * 6 * x.shape[0] * weights.gate.size,
    transcendentals=x.shape[0] * weights.gate.shape[1],
  )
  return d_x, summed(totals, weights)


add_mlp.defvjp(_forward, _backward)


def _scratch(x: Array, *dtypes: Any) -> tuple[Any, ...]:
  tile = x.shape[0] // _steps(x)
  return tuple(pltpu.VMEM((tile, x.shape[1]), dtype) for dtype in dtypes)


def _steps(x: Array) -> int:
  return x.shape[0] // next(t for t in _TILES if not x.shape[0] % t)


def _for_chunks(hidden: int, body: Callable[[Any], None]) -> None:
  """Run `body` for each chunk of hidden units, given the chunk's slice.

  It is a loop of the program and not of Python because compile time grows with
  each unrolled chunk.
  """
  size = next(size for size in _CHUNKS if not hidden % size)

  def step(i: Array, _: None) -> None:
    body(pl.ds(pl.multiple_of(i * size, size), size))

  jax.lax.fori_loop(0, hidden // size, step, None)


def _forward_kernel(
  eps: float,
  x: Any,
  weights: Any,
  outputs: Any,
  _: Any,
  normed: Any,
  part: Any,
) -> None:
  y, kept = outputs
  before = norm(eps, full(x))[0] * weights.pre_gain[...]
  normed[...] = before.astype(x.dtype)
  part[...] = jnp.zeros(x.shape, jnp.float32)

  def add(some: Any) -> None:
    opened = product(normed[...], weights.gate[:, some], 1, 0)
    raised = product(normed[...], weights.up[:, some], 1, 0)
    kept.gate[:, some] = opened.astype(x.dtype)
    kept.up[:, some] = raised.astype(x.dtype)
    hidden = (_gelu(opened)[0] * raised).astype(x.dtype)
    part[...] += product(hidden, weights.down[some], 1, 0)

  _for_chunks(kept.up.shape[1], add)
  kept.part[...] = part[...].astype(x.dtype)
  after = norm(eps, part[...])[0] * weights.post_gain[...]
  y[...] = (full(x) + after).astype(x.dtype)


def _backward_kernel(
  eps: float,
  tiles: Any,
  weights: Any,
  d_x: Any,
  totals: Any,
  normed: Any,
  d_part: Any,
  d_normed: Any,
) -> None:
  x, kept, d_y = tiles
  part = norm(eps, full(kept.part))
  totals.post_gain[...] += fold(full(d_y) * part[0])
  d = norm_back(part, full(d_y) * weights.post_gain[...])
  d_part[...] = d.astype(x.dtype)
  before = norm(eps, full(x))[0] * weights.pre_gain[...]
  normed[...] = before.astype(x.dtype)
  d_normed[...] = jnp.zeros(x.shape, jnp.float32)

  def add(some: Any) -> None:
    raised = kept.up[:, some].astype(jnp.float32)
    active, slope = _gelu(kept.gate[:, some].astype(jnp.float32))
    hidden = (active * raised).astype(x.dtype)
    totals.down[some] += product(hidden, d_part[...], 0, 0)
    d_hidden = product(d_part[...], weights.down[some], 1, 1)
    d_raised = (d_hidden * active).astype(x.dtype)
    d_opened = (d_hidden * raised * slope).astype(x.dtype)
    totals.gate[:, some] += product(normed[...], d_opened, 0, 0)
    totals.up[:, some] += product(normed[...], d_raised, 0, 0)
    d_normed[...] += product(d_opened, weights.gate[:, some], 1, 1)
    d_normed[...] += product(d_raised, weights.up[:, some], 1, 1)

  _for_chunks(kept.up.shape[1], add)
  given = norm(eps, full(x))
  totals.pre_gain[...] += fold(d_normed[...] * given[0])
  d_given = norm_back(given, d_normed[...] * weights.pre_gain[...])
  d_x[...] = (full(d_y) + d_given).astype(x.dtype)


def _gelu(x: Array) -> tuple[Array, Array]:
  """GeLU in its tanh form, and its derivative."""
  square = x * x
  bent = jnp.tanh(_SLOPE * x * (1.0 + _CUBE * square))
  half = 0.5 * (1.0 + bent)
  inner = _SLOPE * (1.0 + 3.0 * _CUBE * square)
  return x * half, half + 0.5 * x * (1.0 - bent * bent) * inner
