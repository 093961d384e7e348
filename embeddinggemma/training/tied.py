"""Gradients of a table that is read and compared to, each computed alone.

Tokens are looked up in a tied table, and logits are formed with it. Added into
one buffer, the scattered and the dense gradient were silently corrupted on TPUs
(openxla/xla 38597, jax 35409). Here neither is seen by the other's computation
before both are whole. To be removed with that fault.
"""

from collections.abc import Callable
from typing import Any

import jax

from embeddinggemma.types import Params

# (params, ids and slots of a group ...) -> its vectors, and the table.
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
  """`decode` with the same values, and the gradients of model/OWNER/embedding
  computed separately for its lookups and for its logits, then added."""

  def decoded(params: Params, *texts: Any) -> tuple[jax.Array, jax.Array]:
    model = params["model"]
    table = model[owner]["embedding"]
    read = {**model, owner: {**model[owner], "embedding": _alone(table)}}
    hidden, _ = decode({**params, "model": read}, *texts)
    return hidden, _alone(table)

  return decoded
