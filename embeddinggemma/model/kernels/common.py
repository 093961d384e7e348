"""Parts that the TPU kernels of a layer's two halves share (Pallas).

A half of a layer is x + post_norm(part(pre_norm(x))), where the part is
attention or the MLP. One kernel computes all of it, and one its gradient, a
tile of positions at a time: intermediate values between the matrix products
stay in the chip's vector memory, as do the weights and, summed over all tiles,
their gradients. The forward pass keeps the inputs and outputs of the inner
products for the backward pass, which computes norms and elementwise functions
again. Everything but the operands of the products is float32.
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
_VECTOR_MEMORY = 100 * 2**20  # bytes of vector memory that a kernel may use


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
  """Run kernel(tiles, weights, outputs, totals, *scratch) `steps` times.

  Args:
    tiles: arrays; each step sees its part of their first axis.
    weights: arrays that every step sees whole.
    outputs: shapes of results, each step writing its part of the first axis.
    totals: shapes of results that accumulate over all steps, starting at zero.
    scratch: vector memory that a step may use.
    flops: operations of the matrix products. With `transcendentals` and the
      bytes of all arrays it is the cost estimate that the compiler gets.

  Returns:
    The outputs and the totals.
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
  """Weights as the kernels take them.

  Matrices are cast to the type of the products, gains become (1, D) in float32.
  """
  return jax.tree.map(
    lambda w: w.astype(dtype) if w.ndim > 1 else w.astype(jnp.float32)[None],
    weights,
  )


def gradients(weights: Any) -> Any:
  """Shapes of the arrays in which a kernel sums gradients of the weights."""
  shape = lambda w: w.shape if w.ndim > 1 else (_SUBLANES, *w.shape)
  return jax.tree.map(
    lambda w: jax.ShapeDtypeStruct(shape(w), jnp.float32), weights
  )


def summed(totals: Any, weights: Any) -> Any:
  """Gradients of the weights from a kernel's totals.

  The gradient of a gain comes as eight partial sums (see `fold`), which are
  added.
  """
  finish = lambda d, w: d if w.ndim > 1 else jnp.sum(d, axis=0)
  return jax.tree.map(
    lambda d, w: finish(d, w).astype(w.dtype), totals, weights
  )


def norm(
  eps: float, x: Float[Array, "N E"]
) -> tuple[Float[Array, "N E"], Float[Array, "N 1"]]:
  """x scaled to a root mean square of 1 along its last axis, and the scale."""
  factor = jax.lax.rsqrt(jnp.mean(x * x, axis=1, keepdims=True) + eps)
  return x * factor, factor


def norm_back(
  normed: tuple[Array, Array], d: Float[Array, "N E"]
) -> Float[Array, "N E"]:
  """Gradient of x, from `norm(x)` and the gradient of the normalised x."""
  x, factor = normed
  return factor * (d - x * jnp.mean(d * x, axis=1, keepdims=True))


def fold(x: Float[Array, "N E"]) -> Float[Array, "8 E"]:
  """Sum over positions into 8 rows, one for each sublane of the vector unit.

  The rest of the sum would move data between sublanes; `summed` does it
  outside.
  """
  return jnp.sum(x.reshape(-1, _SUBLANES, x.shape[1]), axis=0)


def product(a: Array, b: Array, a_axis: int, b_axis: int) -> Array:
  """Contract one axis of each operand, accumulating in float32."""
  axes = (((a_axis,), (b_axis,)), ((), ()))
  return jax.lax.dot_general(a, b, axes, preferred_element_type=jnp.float32)


def full(ref: Any) -> Array:
  """The whole content of a Pallas reference, in float32."""
  return ref[...].astype(jnp.float32)
