"""What happens inside an embedder, for those who check it."""

import functools
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple, cast

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Bool, Float, Int

from embeddinggemma.model import layers
from embeddinggemma.model.config import ModelConfig
from embeddinggemma.model.embedder import Embedder
from embeddinggemma.types import Array, Params


class Trace(NamedTuple):
  """Of one text a row; what is beyond a text's end is not meant to be read."""

  tokens: Float[Array, "R L D"]  # what is pooled
  pooled: Float[Array, "R D"] | None  # of a pooler with weights, else None
  largest: dict[str, Float[Array, ""]]  # absolute activation, by its place


Tracer = Callable[..., Trace]  # (params, ids, lengths) -> Trace


@functools.cache
def tracer(config: ModelConfig) -> Tracer:
  """The module that encodes, with what it makes on the way; jitted."""
  module = Embedder(config.portable)

  def trace(
    params: Params, ids: Int[Array, "R L"], lengths: Int[Array, "R"]
  ) -> Trace:
    rows, length = ids.shape
    inside = jnp.arange(length)[None] < lengths[:, None]
    slot = jnp.where(inside, jnp.arange(rows)[:, None], rows)
    _, state = module.apply(
      {"params": params["model"]},
      ids,
      slot,
      jnp.ones(rows, bool),
      capture_intermediates=True,
      mutable=["intermediates"],
    )
    made = cast(Mapping[str, Any], state)["intermediates"]
    encoder, own = made["encoder"], params["model"]["encoder"]
    top = lambda x: jnp.max(jnp.where(inside, _per_token(x), 0.0))
    table = own["embedding"]
    largest = {"embedding": top(layers.embed(table, ids, config.dtype))}
    for name in (f"layer_{n}" for n in range(config.num_layers)):
      normed = encoder[name]["pre_mlp_norm"]["__call__"][0]
      hidden = _hidden(own[name]["mlp"], normed)
      outputs = [*jax.tree.leaves(encoder[name]), hidden]
      largest[name] = jnp.max(jnp.stack([top(x) for x in outputs]))
    pooled = made["pooling"]["__call__"][0] if "pooling" in made else None
    return Trace(encoder["__call__"][0], pooled, largest)

  return jax.jit(trace)


def with_largest(
  run: Callable[..., Any], inside: Bool[np.ndarray, "R L"]
) -> Callable[..., tuple[Any, Array]]:
  """`run`, with the largest absolute activation of its modules beside it.

  Of what modules give and what their products read, at the places `inside`.
  """

  def traced(*args: Any) -> tuple[Any, Array]:
    seen: list[Array] = []

    def intercept(
      following: Callable[..., Any],
      given: tuple[Any, ...],
      named: Mapping[str, Any],
      context: nn.module.InterceptorContext,
    ) -> Any:
      out = following(*given, **named)
      if jnp.shape(out)[:2] == inside.shape:
        seen.append(jnp.max(jnp.where(inside, _per_token(out), 0.0)))
      return out

    with nn.intercept_methods(intercept):
      return run(*args), jnp.max(jnp.stack(seen))

  return traced


def _per_token(x: Float[Array, "R L *_"]) -> Float[Array, "R L"]:
  flat = jnp.reshape(x, (*x.shape[:2], -1)).astype(jnp.float32)
  return jnp.max(jnp.abs(flat), axis=-1)


def _hidden(
  mlp: Mapping[str, Array], x: Float[Array, "R L D"]
) -> Float[Array, "R L F"]:
  """What `layers.MLP` multiplies by `down`: no module's output."""
  gate, up = (x @ mlp[name].astype(x.dtype) for name in ("gate", "up"))
  return jax.nn.gelu(gate, approximate=True) * up
