"""What the TPU kernels of a layer's two halves share (Pallas).

A half is x + post_norm(part(pre_norm(x))). One kernel does all of it, and one
its gradient, a tile of positions at a time: what lies between the products
stays in the chip's vector memory, and so do the weights and, over all tiles,
their gradients. Between the two, inputs and outputs of the inner products are
kept; norms and what is elementwise are computed again. All but the products'
operands is float32.
"""

import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jax.experimental import pallas as pl
from jax.experimental.pallas import tpu as pltpu
from jaxtyping import Array, Float

_SUBLANES = 8
_VECTOR_MEMORY = 100 * 2**20  # bytes that a kernel may take


def call(
  kernel: Callable[..., None],
  name: str,
  steps: int,
  tiles: Any,
  weights: Any,
  outputs: Any,
  totals: Any = (),
  scratch: tuple[Any, ...] = (),
  flops: int = 0,
  transcendentals: int = 0,
) -> tuple[Any, Any]:
  """Runs kernel(tiles, weights, outputs, totals, *scratch) `steps` times.

  Args:
    tiles: arrays of which a step sees its part of the first axis.
    weights: arrays that every step sees whole.
    outputs: shapes of results, written as tiles are read.
    totals: shapes of results that stay from step to step; zero at first.
    scratch: vector memory that a step may use.
    flops: of the matrix products; with `transcendentals` and the bytes of all
      arrays once through HBM what the compiler is told that this costs.

  Returns:
    outputs and totals.
  """

  def part(x: Any) -> pl.BlockSpec:
    rest = (0,) * (len(x.shape) - 1)
    return pl.BlockSpec(
      (x.shape[0] // steps, *x.shape[1:]), lambda i: (i, *rest)
    )

  def whole(x: Any) -> pl.BlockSpec:
    return pl.BlockSpec(x.shape, lambda i: (0,) * len(x.shape))

  def body(
    tiles: Any, weights: Any, outputs: Any, totals: Any, *scratch: Any
  ) -> None:
    @pl.when(pl.program_id(0) == 0)
    def _start() -> None:
      for total in jax.tree.leaves(totals):
        total[...] = jnp.zeros(total.shape, total.dtype)

    kernel(tiles, weights, outputs, totals, *scratch)

  arrays = jax.tree.leaves((tiles, weights, outputs, totals))
  specs = (
    functools.partial(jax.tree.map, part),
    functools.partial(jax.tree.map, whole),
  )
  return pl.pallas_call(
    body,
    grid=(steps,),
    in_specs=(specs[0](tiles), specs[1](weights)),
    out_specs=(specs[0](outputs), specs[1](totals)),
    out_shape=(outputs, totals),
    scratch_shapes=scratch,
    compiler_params=pltpu.CompilerParams(
      dimension_semantics=("arbitrary",), vmem_limit_bytes=_VECTOR_MEMORY
    ),
    cost_estimate=pl.CostEstimate(
      flops=flops,
      transcendentals=transcendentals,
      bytes_accessed=sum(x.size * x.dtype.itemsize for x in arrays),
    ),
    name=name,
  )(tiles, weights)


def ready(weights: Any, dtype: Any) -> Any:
  """Matrices in the products' type, gains as (1, D) in float32."""
  return jax.tree.map(
    lambda w: w.astype(dtype) if w.ndim > 1 else w.astype(jnp.float32)[None],
    weights,
  )


def gradients(weights: Any) -> Any:
  """Shapes of the totals of the weights' gradients."""
  shape = lambda w: w.shape if w.ndim > 1 else (_SUBLANES, *w.shape)
  return jax.tree.map(
    lambda w: jax.ShapeDtypeStruct(shape(w), jnp.float32), weights
  )


def summed(totals: Any, weights: Any) -> Any:
  """Totals as gradients of the weights: those of gains come folded."""
  finish = lambda d, w: d if w.ndim > 1 else jnp.sum(d, axis=0)
  return jax.tree.map(
    lambda d, w: finish(d, w).astype(w.dtype), totals, weights
  )


def norm(
  eps: float, x: Float[Array, "N E"]
) -> tuple[Float[Array, "N E"], Float[Array, "N 1"]]:
  """x at root mean square 1, and the factor that brought it there."""
  factor = jax.lax.rsqrt(jnp.mean(x * x, axis=1, keepdims=True) + eps)
  return x * factor, factor


def norm_back(
  normed: tuple[Array, Array], d: Float[Array, "N E"]
) -> Float[Array, "N E"]:
  """The gradient of x, from what `norm` gave and the gradient of the first."""
  x, factor = normed
  return factor * (d - x * jnp.mean(d * x, axis=1, keepdims=True))


def fold(x: Float[Array, "N E"]) -> Float[Array, "8 E"]:
  """Sums over positions as far as that needs no move between sublanes."""
  return jnp.sum(x.reshape(-1, _SUBLANES, x.shape[1]), axis=0)


def product(a: Array, b: Array, a_axis: int, b_axis: int) -> Array:
  """Contracts an axis of each, accumulating in float32."""
  axes = (((a_axis,), (b_axis,)), ((), ()))
  return jax.lax.dot_general(a, b, axes, preferred_element_type=jnp.float32)


def full(ref: Any) -> Array:
  """All of a reference, in float32."""
  return ref[...].astype(jnp.float32)
