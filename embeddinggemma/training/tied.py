"""Separate gradients for a table that is both looked up and compared to.

With a tied table, tokens are looked up and logits are computed from the same
parameter. When the scattered and the dense gradient were added into one buffer,
they were silently corrupted on TPUs (openxla/xla 38597, jax 35409). Here each
is complete before they are added. Remove this module once that fault is fixed.
"""

from collections.abc import Callable
from typing import Any

import jax

from embeddinggemma.types import Params

# (params, token ids and segment ids of a group, ...) -> (states, table).
Decode = Callable[..., tuple[jax.Array, jax.Array]]


@jax.custom_vjp
def _alone(x: jax.Array) -> jax.Array:
  return x


def _forward(x: jax.Array) -> tuple[jax.Array, None]:
  return x, None


def _backward(_: None, gradient: jax.Array) -> tuple[jax.Array]:
  return (jax.lax.optimization_barrier(gradient),)


_alone.defvjp(_forward, _backward)


def apart(decode: Decode, owner: str) -> Decode:
  """`decode`, with the two gradients of its embedding table kept apart.

  The gradients of model/OWNER/embedding from lookups and from logits are
  computed separately and then added; the values do not change.
  """

  def decoded(params: Params, *texts: Any) -> tuple[jax.Array, jax.Array]:
    model = params["model"]
    table = model[owner]["embedding"]
    read = {**model, owner: {**model[owner], "embedding": _alone(table)}}
    hidden, _ = decode({**params, "model": read}, *texts)
    return hidden, _alone(table)

  return decoded
