"""Embedding matching with a teacher (paper section 2.2; EmbedDistill 2023).

L_D = L_Q + L_P + L_N: the distances between the embeddings of student and
teacher, for queries, positives and hard negatives alike. Kim et al. (arXiv
2301.12005) use the Euclidean distance, jina-embeddings-v5 (arXiv 2602.15547)
one minus the cosine. Where the widths differ, both put a learned linear map on
the student's side: on the teacher's side it could collapse everything to a
point.

A teacher that was trained with Matryoshka dimensions, as the paper's was, can
also be matched prefix by prefix (section 2.2; Kusupati 2022).
"""

from collections.abc import Callable, Mapping, Sequence

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float

from embeddinggemma.losses import contrastive, matryoshka
from embeddinggemma.types import (
  Aux,
  BadInput,
  Embeddings,
  Key,
  LossTerm,
  PairBatch,
  Values,
)

PROJECTION = "projection"  # key of aux: the map to the teacher's width

Distance = Callable[
  [Float[Array, "*B T"], Float[Array, "*B T"]], Float[Array, "*B"]
]


def init_projection(key: Key, width: int, target: int) -> Float[Array, "M T"]:
  """A random linear map that on average keeps norms and angles."""
  return jax.random.normal(key, (width, target)) / jnp.sqrt(target)


def euclidean(
  student: Float[Array, "*B T"], teacher: Float[Array, "*B T"]
) -> Float[Array, "*B"]:
  """The Euclidean distance, not squared and without normalisation.

  The norm of a projected vector therefore counts. The gradient at distance 0 is
  0.
  """
  power = jnp.sum((student - teacher) ** 2, axis=-1)
  return jnp.where(power > 0, jnp.sqrt(jnp.where(power > 0, power, 1.0)), 0.0)


def one_less_cosine(
  student: Float[Array, "*B T"], teacher: Float[Array, "*B T"]
) -> Float[Array, "*B"]:
  """1 - cosine, for vectors of any norm; 1 if one of them is zero."""
  scale = lambda x: jax.lax.rsqrt(jnp.maximum(jnp.sum(x * x, axis=-1), 1e-24))
  dots = jnp.sum(student * teacher, axis=-1)
  return 1.0 - dots * scale(student) * scale(teacher)


DISTANCES: Mapping[str, Distance] = {
  "l2": euclidean,
  "cosine": one_less_cosine,
}


def embedding_matching(distance: str, dims: Sequence[int] = ()) -> LossTerm:
  """A loss term: the sum of distances to the teacher's embeddings.

  Only the sides for which the teacher has vectors count.

  Args:
    distance: one of DISTANCES.
    dims: at which renormalised prefixes of both are compared as well, each
      added without a weight; the whole width always counts, once.

  Returns:
    A term with values (B,), 0 at empty places, whose parts are the dimensions
    if there are any. Hard negatives contribute the mean over those that a query
    has. If aux holds a projection (M, T), it is applied to the student's
    embeddings. When traced, the term raises BadInput if the batch has no
    teacher or the widths differ.
  """
  if distance not in DISTANCES:
    known = " or ".join(DISTANCES)
    raise BadInput(f"unknown distance {distance!r}; use {known}")
  whole = _matching(DISTANCES[distance], None)

  def summed(aux: Aux, embeddings: Embeddings, batch: PairBatch) -> Values:
    width = embeddings.query.shape[-1]
    shorter = [dim for dim in dims if dim != width]
    terms = [whole, *(_matching(DISTANCES[distance], d) for d in shorter)]
    parts = [Values(term(aux, embeddings, batch)) for term in terms]
    return matryoshka.added(parts, [str(d) for d in (width, *shorter)])

  return summed if dims else whole


def _matching(
  distance: Distance, dim: int | None
) -> Callable[[Aux, Embeddings, PairBatch], Float[Array, "B"]]:
  """The matching of prefixes of this dimension; None: of whole vectors."""

  def term(
    aux: Aux, embeddings: Embeddings, batch: PairBatch
  ) -> Float[Array, "B"]:
    teacher = batch.teacher
    if teacher is None:
      raise BadInput(
        "distillation has a weight, but batches carry no teacher's vectors;"
        " write them with `teach` or set the weight to 0"
      )
    match = lambda x, y, valid: _match(distance, dim, aux, x, y, valid)
    total = jnp.zeros(batch.keys.shape[0], jnp.float32)
    if teacher.query is not None:
      valid = batch.query.valid.reshape(-1)
      total += match(embeddings.query, teacher.query, valid)
    if teacher.positive is not None and batch.positive is not None:
      valid = batch.positive.valid.reshape(-1)
      total += match(embeddings.positive, teacher.positive, valid)
    if teacher.negative is not None:
      valid = contrastive.negatives_valid(batch)
      apart = match(embeddings.negative, teacher.negative, valid)
      total += jnp.sum(apart, axis=1) / jnp.maximum(jnp.sum(valid, axis=1), 1)
    return total

  return term


def _match(
  distance: Distance,
  dim: int | None,
  aux: Aux,
  student: Float[Array, "*B M"],
  teacher: Float[Array, "*B T"],
  valid: Bool[Array, "*B"],
) -> Float[Array, "*B"]:
  """Distances to the teacher; 0 without a gradient where there is no text."""
  real = lambda x: jnp.where(valid[..., None], x, 0.0)
  projection = aux.get(PROJECTION)
  _check_widths(student.shape[-1], teacher.shape[-1], projection)
  student, teacher = real(student), real(teacher)
  if projection is not None:
    student = jnp.einsum(
      "...m,mt->...t", student, projection, preferred_element_type=jnp.float32
    )
  if dim is not None:
    student, teacher = (matryoshka.truncate(x, dim) for x in (student, teacher))
  return jnp.where(valid, distance(student, teacher), 0.0)


def _check_widths(
  student: int, teacher: int, projection: Float[Array, "_M _T"] | None
) -> None:
  if projection is None:
    if student != teacher:
      raise BadInput(
        f"the teacher's vectors have width {teacher}, the student's {student},"
        " and no projection is trained; use a teacher of that width or add one"
      )
  elif projection.shape != (student, teacher):
    raise BadInput(
      f"the projection has shape {projection.shape}, but the student's vectors"
      f" have width {student} and the teacher's {teacher}; use the teacher that"
      " it was made for"
    )
