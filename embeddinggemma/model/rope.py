"""Rotary position embeddings."""

from typing import NamedTuple

from jaxtyping import Array, Float


class Rotary(NamedTuple):
  """The rotary angles of every position."""

  sin: Float[Array, "R L half"]
  cos: Float[Array, "R L half"]
