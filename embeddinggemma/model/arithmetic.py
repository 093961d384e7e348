"""The model in another runtime's arithmetic: what that rounds on the way.

llama.cpp multiplies packed integers by integers: a product's input is rounded
to Q8_0 first, and to bfloat16 where weights are. Its gelu is a table from
float16 to float16. With the same rounding here, what is left between its
vectors and ours is the order of sums and its approximations of exp, sin and
cos; without, it is a hundred times as much, and hides what is wrong.

Sources: ggml's quantize_row_q8_0, ggml_vec_geglu_f32, and the vec_dot_type of
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

_GELU_ENDS = 10.0  # beyond it to either side, gelu is x and 0


class Arithmetic(NamedTuple):
  """How a runtime computes, where it is not as we do."""

  # A weight's path, and to what the inputs of its products are rounded.
  inputs: tuple[tuple[str, str], ...] = ()
  half_gelu: bool = False


EXACT = Arithmetic()


def encode_group(
  config: ModelConfig, arithmetic: Arithmetic
) -> embedder.EncodeGroup:
  """embedder.encode_group in that arithmetic; of activations in float32."""
  encode, intercept = embedder.encode_group(config), _interceptor(arithmetic)

  def encode_as(*args: Any) -> Float[Array, "b M"]:
    with nn.intercept_methods(intercept):
      return encode(*args)

  return encode_as


def _interceptor(arithmetic: Arithmetic) -> Callable[..., Any]:
  """Rounds what `reads` and `activation` of the model's modules see."""
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
  """x in blocks of 32 along its last axes, as ggml rounds what it multiplies.

  Not grids.integers: here integers are by the scale in float32, which is
  rounded to float16 only afterwards.
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
