"""Distillation of scores: how a teacher ranks the texts of a batch.

For each query, the Kullback-Leibler divergence of the student's distribution
over candidates from the teacher's: the softmax of cosines over a temperature.
The field calls it score-based or contrastive distillation: beside embedding
matching in EmbedDistill (Kim et al., arXiv 2301.12005), in tightly coupled
teachers (Lin et al., arXiv 2010.11386), in NeMo AutoModel's InfoNCEDistillLoss,
which trained Nemotron's small embedders and whose temperature is the default
here. It is not the score matching of generative models.

Only cosines are compared, so the two models may have any widths. Of single texts
the candidates are the other texts of the batch.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Bool, Float

from embeddinggemma.losses import contrastive
from embeddinggemma.losses.contrastive import (
  Columns,
  Judged,
  OverRows,
  Rows,
  at_once,
)
from embeddinggemma.types import (
  Array,
  Aux,
  Embeddings,
  LossTerm,
  PairBatch,
  Values,
)


class _Scores(NamedTuple):
  """Cosines of queries with some of their candidates, over the temperature."""

  student: Float[Array, "_B _n"]
  teacher: Float[Array, "_B _n"]
  allowed: Bool[Array, "_B _n"]


def score_matching(
  temperature: float, over_rows: OverRows = at_once
) -> LossTerm:
  """KL(teacher || student) over the candidates of each query.

  The candidates are the own positive, the in-batch negatives of equation 3, so
  without those that share the query or the positive, and the hard negatives of
  which the teacher has vectors.

  Args:
    temperature: of both distributions.
    over_rows: how the rows of the scores are divided among devices.

  Returns:
    A term. A query with a single candidate has value 0 without a gradient, and
    is not counted. When traced, the term raises BadInput if the batch has no
    teacher's vectors.
  """

  def of_rows(rows: Rows, columns: Columns) -> Judged:
    parts = [_in_batch(rows, columns, temperature)]
    if rows.teacher is not None and rows.teacher.negative is not None:
      parts.append(_hard(rows, temperature))
    choices = sum(jnp.sum(part.allowed, axis=1) for part in parts)
    comparable = choices > 1
    return jnp.where(comparable, _divergence(parts), 0.0), comparable

  def term(aux: Aux, embeddings: Embeddings, batch: PairBatch) -> Values:
    del aux
    given = contrastive.taught_sides(embeddings, batch, "loss.score_matching")
    return Values(*over_rows(of_rows)(*given))

  return term


def _in_batch(rows: Rows, columns: Columns, temperature: float) -> _Scores:
  """The scores of the batch's positives, own one included, or other texts."""
  allowed = contrastive.rivals(rows, columns)
  if rows.positive is not None:
    number = columns.valid.shape[0]
    allowed |= rows.place[:, None] == jnp.arange(number)[None, :]
  return _Scores(
    contrastive.similarities(rows, columns) / temperature,
    contrastive.teacher_scores(rows, columns) / temperature,
    allowed,
  )


def _hard(rows: Rows, temperature: float) -> _Scores:
  """The scores of each query's own hard negatives."""
  teacher, valid = rows.teacher, rows.negative_valid
  assert teacher is not None and valid is not None
  assert rows.negative is not None
  negative = jnp.where(valid[:, :, None], rows.negative, 0.0)
  scores = lambda query, texts: jnp.einsum(
    "id,ind->in", query, texts, preferred_element_type=jnp.float32
  )
  return _Scores(
    scores(rows.query, negative) / temperature,
    scores(teacher.query, teacher.negative) / temperature,
    valid,
  )


def _divergence(parts: list[_Scores]) -> Float[Array, "_B"]:
  """KL(teacher || student) of distributions whose candidates come in parts."""
  student = _normaliser([(part.student, part.allowed) for part in parts])
  teacher = _normaliser([(part.teacher, part.allowed) for part in parts])
  total = student - teacher
  for part in parts:
    # Masked before the exponential too: that of a masked score may overflow.
    log = jnp.where(
      part.allowed, part.teacher - teacher[:, None], contrastive.EXCLUDED
    )
    total += jnp.sum(jnp.exp(log) * (part.teacher - part.student), axis=1)
  return total


def _normaliser(
  parts: list[tuple[Float[Array, "_B _n"], Bool[Array, "_B _n"]]],
) -> Float[Array, "_B"]:
  """log sum exp over the allowed scores of all parts."""
  of_each = [
    jax.nn.logsumexp(jnp.where(allowed, scores, contrastive.EXCLUDED), axis=1)
    for scores, allowed in parts
  ]
  return jax.nn.logsumexp(jnp.stack(of_each), axis=0)
