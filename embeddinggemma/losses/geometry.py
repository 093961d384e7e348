"""How a batch's vectors lie: close to their partners, spread, of what rank.

Alignment and uniformity are those of Wang and Isola (ICML 2020, arXiv
2005.10242). The effective rank is the participation ratio of the eigenvalues
of the vectors' covariance, (sum l)^2 / sum l^2: the number of directions that
they use, if all were used alike. It needs no eigenvalues, since the sum of their
squares is that of all dot products of centred vectors.

Equal texts have equal vectors, which says nothing about a model: each text
counts once.
"""

import functools
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax.sharding import Mesh
from jaxtyping import Bool, Float, UInt32

from embeddinggemma import sharding
from embeddinggemma.types import Array, Metrics, PairBatch, Seen

ALIGNMENT = "alignment"
UNIFORMITY = "uniformity"
RANK = "effective_rank"
COSINE = "mean_cosine"
DISTINCT = "distinct"
SIDES = ("query", "positive")  # single texts are queries


class _Keys(NamedTuple):
  """Which text each place of a side holds."""

  key: UInt32[Array, "B"]
  valid: Bool[Array, "B"]
  place: Any  # its number in the whole batch


class _Points(NamedTuple):
  """The vectors of a side, of which only distinct texts count."""

  vector: Float[Array, "B M"]
  centred: Float[Array, "B M"]  # less the mean; 0 where it does not count
  counts: Bool[Array, "B"]
  place: Any


def figures(seen: Seen, batch: PairBatch, mesh: Mesh) -> Metrics:
  """All figures of a batch, those of a side as "NAME/SIDE".

  Returns:
    `alignment`, the mean squared distance of a query to its positive, and for
    each side `mean_cosine` and `uniformity` over pairs of distinct texts, the
    `effective_rank`, and how many distinct texts there are. What needs two texts
    is NaN where there are fewer.
  """
  valid = batch.query.valid.reshape(-1)
  found: Metrics = {}
  sides = {"query": (seen.query, valid, batch.keys[:, 0])}
  if seen.positive is not None and batch.positive is not None:
    found[ALIGNMENT] = alignment(seen.query, seen.positive, valid)
    there = batch.positive.valid.reshape(-1)
    sides["positive"] = (seen.positive, there, batch.keys[:, 1])
  for side, given in sides.items():
    for name, value in spread(*given, mesh).items():
      found[f"{name}/{side}"] = value
  return found


def alignment(
  query: Float[Array, "B M"],
  positive: Float[Array, "B M"],
  valid: Bool[Array, "B"],
) -> Float[Array, ""]:
  """The mean squared distance of the pairs: 0 if they coincide, at most 4."""
  apart = jnp.sum((query - positive) ** 2, axis=-1)
  return jnp.sum(jnp.where(valid, apart, 0.0)) / jnp.sum(valid)


def spread(
  vectors: Float[Array, "B M"],
  valid: Bool[Array, "B"],
  keys: UInt32[Array, "B"],
  mesh: Mesh,
) -> Metrics:
  """How the distinct texts of one side spread; see `figures`."""
  width = vectors.shape[1]
  over_rows = functools.partial(sharding.over_rows, mesh=mesh, at_once=width)
  place = jnp.arange(vectors.shape[0])
  texts = _Keys(keys, valid, place)
  counts = valid & over_rows(_is_first)(texts, texts)
  number = jnp.sum(counts)
  real = lambda x: jnp.where(counts[:, None], x, 0.0)
  mean = jnp.sum(real(vectors), axis=0) / jnp.maximum(number, 1)
  centred = real(vectors - mean[None, :])
  points = _Points(vectors, centred, counts, place)
  cosine, closeness, power = (
    jnp.sum(jnp.where(counts, x, 0.0))
    for x in over_rows(_to_others)(points, points)
  )
  pairs = jnp.where(number > 1, number * (number - 1.0), jnp.nan)
  variance = jnp.sum(centred**2)
  rank = jnp.where(power > 0, variance**2 / power, 0.0)  # of one point: 0
  return {
    COSINE: cosine / pairs,
    UNIFORMITY: jnp.log(closeness / pairs),
    RANK: jnp.where(number > 1, rank, jnp.nan),
    DISTINCT: number.astype(jnp.float32),
  }


def _is_first(rows: _Keys, columns: _Keys) -> Bool[Array, "_B"]:
  """Whether no earlier place of the batch holds the same text."""
  earlier = columns.place[None, :] < rows.place[:, None]
  same = columns.key[None, :] == rows.key[:, None]
  return ~jnp.any(earlier & same & columns.valid[None, :], axis=1)


def _to_others(rows: _Points, columns: _Points) -> tuple[Array, Array, Array]:
  """For each text, sums over the others that count.

  These are the cosines, exp(-2 |x - y|^2), which is exp(4 (cosine - 1)) of unit
  vectors, and the squared dot products of centred vectors, its own included.
  """
  other = columns.counts[None, :] & (
    columns.place[None, :] != rows.place[:, None]
  )
  cosines = _dots(rows.vector, columns.vector)
  summed = lambda x: jnp.sum(jnp.where(other, x, 0.0), axis=1)
  power = jnp.sum(_dots(rows.centred, columns.centred) ** 2, axis=1)
  return summed(cosines), summed(jnp.exp(4.0 * (cosines - 1.0))), power


def _dots(
  x: Float[Array, "_B M"], y: Float[Array, "_C M"]
) -> Float[Array, "_B _C"]:
  """Dot products in full precision: near collapse they differ by little."""
  full = jax.lax.Precision.HIGHEST
  return jnp.einsum("im,jm->ij", x, y, precision=full)
