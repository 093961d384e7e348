"""Intermediate values of an embedder, for those who check it."""

import functools
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple, cast

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Bool, Float, Int

from embeddinggemma.model import layers, pooling
from embeddinggemma.model.config import ModelConfig
from embeddinggemma.model.embedder import Embedder
from embeddinggemma.types import Array, Params


class Trace(NamedTuple):
  """Intermediate values for one text in each row.

  Positions beyond a text's end hold values without meaning.
  """

  tokens: Float[Array, "R L D"]  # the encoder's output, before pooling
  pooled: Float[Array, "R D"] | None  # if the pooler has weights, else None
  # Largest |activation|, by "embedding" and "layer_0", "layer_1", ...
  largest: dict[str, Float[Array, ""]]


Tracer = Callable[..., Trace]  # (params, ids, lengths) -> Trace


@functools.cache
def tracer(config: ModelConfig) -> Tracer:
  """A jitted function (params, ids, lengths) -> Trace, cached per config."""
  module = Embedder(config.portable)

  def trace(
    params: Params, ids: Int[Array, "R L"], lengths: Int[Array, "R"]
  ) -> Trace:
    rows, length = ids.shape
    inside = jnp.arange(length)[None] < lengths[:, None]
    segment_ids = jnp.where(inside, jnp.arange(rows)[:, None], rows)
    _, state = module.apply(
      {"params": params["model"]},
      ids,
      segment_ids,
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
    named = made.get(pooling.NAME)
    pooled = named["__call__"][0] if named else None
    return Trace(encoder["__call__"][0], pooled, largest)

  return jax.jit(trace)


def with_largest(
  run: Callable[..., Any], inside: Bool[np.ndarray, "R L"]
) -> Callable[..., tuple[Any, Array]]:
  """Wrap `run` so that it also returns the largest |activation| of its modules.

  The maximum is over the outputs of modules and the inputs of their products,
  at the positions where `inside` is True.
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
  """The input of `layers.MLP`'s down projection, which no module outputs."""
  gate, up = (x @ mlp[name].astype(x.dtype) for name in ("gate", "up"))
  return jax.nn.gelu(gate, approximate=True) * up
