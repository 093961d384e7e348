"""Run the model with the rounding of another runtime's arithmetic.

llama.cpp multiplies packed integers by integers: it rounds the input of a
matrix product to Q8_0, or to bfloat16 where the weights are bfloat16, and it
reads GeLU from a table of float16 values. With the same rounding here, the
remaining difference between its embeddings and ours is the order of summation
and its approximations of exp, sin and cos. Without it the difference is a
hundred times as large and would hide real errors.

Sources: ggml's quantize_row_q8_0, ggml_vec_geglu_f32 and the vec_dot_type of
its CPU types.
"""

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple, cast

import flax.linen as nn
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from embeddinggemma import grids
from embeddinggemma.model import embedder
from embeddinggemma.model.config import ModelConfig

_GELU_ENDS = 10.0  # for |x| above it, GeLU is taken to be x or 0


class Arithmetic(NamedTuple):
  """The points at which a runtime rounds and this project does not."""

  # (weight path, key of ROUND): how the input of that weight's product rounds.
  inputs: tuple[tuple[str, str], ...] = ()
  half_gelu: bool = False  # GeLU is computed from and to float16


EXACT = Arithmetic()


def encode_group(
  config: ModelConfig, arithmetic: Arithmetic
) -> embedder.EncodeGroup:
  """`embedder.encode_group` with another runtime's rounding of activations.

  The activations that are rounded must be float32.
  """
  encode, intercept = embedder.encode_group(config), _interceptor(arithmetic)

  def encode_as(*args: Any) -> Float[Array, "b M"]:
    with nn.intercept_methods(intercept):
      return encode(*args)

  return encode_as


def _interceptor(arithmetic: Arithmetic) -> Callable[..., Any]:
  """A linen interceptor that rounds the input of products and activations."""
  kinds = dict(arithmetic.inputs)

  def intercept(
    following: Callable[..., Any],
    args: tuple[Any, ...],
    kwargs: Mapping[str, Any],
    context: nn.module.InterceptorContext,
  ) -> Any:
    if context.method_name == "reads":
      weight, x = args
      kind = kinds.get("/".join((*context.module.path, weight)))
      return ROUND[kind](x) if kind else x
    if context.method_name == "activation" and arithmetic.half_gelu:
      [x] = args
      inside = _half(following(_half(x)))
      inside = jnp.where(x <= -_GELU_ENDS, 0.0, inside)
      return jnp.where(x >= _GELU_ENDS, x, inside)
    return following(*args, **kwargs)

  return intercept


def _q8_0(x: Float[Array, "..."]) -> Float[Array, "..."]:
  """Round x in blocks of 32 along its last axes, as ggml rounds product inputs.

  This differs from grids.integers: the integers follow from the float32 scale,
  which is rounded to float16 only afterwards.
  """
  blocks = x.reshape(-1, grids.BLOCK)
  scale = jnp.max(jnp.abs(blocks), axis=1, keepdims=True) / 127
  inverse = jnp.where(scale == 0, 0.0, 1 / jnp.where(scale == 0, 1.0, scale))
  return (jnp.round(blocks * inverse) * _half(scale)).reshape(x.shape)


def _half(x: Float[Array, "*_"]) -> Float[Array, "*_"]:
  return cast(Array, grids.rounded(x, "float16"))


def _bfloat16(x: Float[Array, "*_"]) -> Float[Array, "*_"]:
  return jax.lax.reduce_precision(x, 8, 7)  # casts XLA may take for none


ROUND: Mapping[str, Callable[[Array], Array]] = {
  "q8_0": _q8_0,
  "bfloat16": _bfloat16,
}
