"""Matryoshka representation learning (paper section 2.2; Kusupati 2022).

Each loss becomes one loss for every prefix of the embedding, added up without
weights; a prefix is renormalised first.
"""

import functools
from collections.abc import Sequence

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from embeddinggemma.types import Aux, Embeddings, LossTerm, PairBatch, Values

DIMS = (768, 512, 256, 128)  # the paper's


def dims_of(embed_dim: int) -> tuple[int, ...]:
  """The model's own width, and the paper's dimensions below it."""
  return (embed_dim, *(d for d in DIMS if d < embed_dim))


def truncate(x: Float[Array, "*B M"], dim: int) -> Float[Array, "*B d"]:
  """The first `dim` coordinates at unit norm; a zero prefix stays zero."""
  prefix = x[..., :dim]
  power = jnp.sum(prefix * prefix, axis=-1, keepdims=True)
  return prefix * jax.lax.rsqrt(jnp.maximum(power, 1e-24))


def matryoshka(term: LossTerm, dims: Sequence[int]) -> LossTerm:
  """The sum of a loss term over embedding prefixes of these dimensions.

  The term sees renormalised prefixes, and for the full width the embeddings as
  they are. The sum counts a pair if any of its summands does, and has these as
  its parts, named by their dimension.
  """

  def summed(aux: Aux, embeddings: Embeddings, batch: PairBatch) -> Values:
    width = embeddings.query.shape[-1]
    cut = lambda d: jax.tree.map(lambda x: truncate(x, d), embeddings)
    parts = [
      values(term(aux, embeddings if d == width else cut(d), batch))
      for d in dims
    ]
    return added(parts, [str(d) for d in dims])

  return summed


def values(found: Float[Array, "B"] | Values) -> Values:
  """What a term returned, with all that it may say."""
  return found if isinstance(found, Values) else Values(found)


def added(parts: Sequence[Values], names: Sequence[str]) -> Values:
  """The sum of parts, which has their names; of a single one, that part."""
  first, *others = parts
  if not others:
    return first
  total = sum((part.total for part in others), first.total)
  counts = [part.counted for part in parts if part.counted is not None]
  whole = len(counts) < len(parts)  # one of them counts every pair
  counted = None if whole else functools.reduce(jnp.logical_or, counts)
  return Values(total, counted, dict(zip(names, parts, strict=True)))
