"""InfoNCE with in-batch and hard negatives (paper equation 2 and 3)."""

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Bool, Float, Int, UInt32

from embeddinggemma.losses import matryoshka
from embeddinggemma.types import (
  Array,
  Aux,
  BadInput,
  Embeddings,
  LossTerm,
  PairBatch,
  Teacher,
  Values,
)

EXCLUDED = -1e30  # finite, so that a row with all logits masked gives no NaN
JUDGES = ("student", "teacher")  # whose scores say what is a false negative


class Rows(NamedTuple):
  """The pairs whose loss is computed: those of one device, or all."""

  query: Float[Array, "B M"]
  positive: Float[Array, "B M"] | None  # None: of single texts
  keys: UInt32[Array, "B 2"]
  place: Int[Array, "B"]  # the column of the row's own positive, or text
  negative: Float[Array, "B N M"] | None
  negative_valid: Bool[Array, "B N"] | None
  teacher: Teacher | None = None  # at unit norm; of what is not there, 0


class Columns(NamedTuple):
  """What every query is compared with: the positives of the global batch.

  Of single texts it is the texts.
  """

  positive: Float[Array, "C M"]
  keys: UInt32[Array, "C 2"]
  valid: Bool[Array, "C"]
  teacher: Float[Array, "C T"] | None = None  # of the same, at unit norm


# -> a value for each row, and whether the row has what that is made of.
Judged = tuple[Float[Array, "_B"], Bool[Array, "_B"]]
OfRows = Callable[[Rows, Columns], Judged]
# Turns a function of one device's rows and all columns into one of all rows.
OverRows = Callable[[OfRows], OfRows]


def at_once(of_rows: OfRows) -> OfRows:
  """All rows in one matrix of logits, for a single device."""
  return of_rows


def sides(embeddings: Embeddings, batch: PairBatch) -> tuple[Rows, Columns]:
  """The batch as rows (pairs) and columns (candidates) of the logits."""
  negative = embeddings.negative
  rows = Rows(
    embeddings.query,
    embeddings.positive,
    batch.keys,
    jnp.arange(batch.keys.shape[0]),
    negative,
    None if negative is None else negatives_valid(batch),
  )
  text = batch.query if batch.positive is None else batch.positive
  valid = text.valid.reshape(-1)
  return rows, Columns(embeddings.candidates, batch.keys, valid)


def taught_sides(
  embeddings: Embeddings, batch: PairBatch, what: str
) -> tuple[Rows, Columns]:
  """The same with the teacher's vectors, for the term that is called `what`.

  Raises BadInput, when traced, if the batch has none of queries or positives.
  """
  rows, columns = sides(embeddings, batch)
  teacher, alone = batch.teacher, batch.positive is None
  texts = teacher and (teacher.query if alone else teacher.positive)
  if teacher is None or teacher.query is None or texts is None:
    raise BadInput(
      f"{what} needs a teacher's vectors of queries and positives, which the"
      " batches do not carry; write them with `teach`"
    )
  unit = lambda x: matryoshka.truncate(x, x.shape[-1])
  # Vectors of places without a text may be anything.
  there = lambda x, valid: unit(jnp.where(valid[..., None], x, 0.0))
  negative = None
  if rows.negative_valid is not None and teacher.negative is not None:
    negative = there(teacher.negative, rows.negative_valid)
  query = there(teacher.query, batch.query.valid.reshape(-1))
  candidates = query if alone else there(texts, columns.valid)
  found = Teacher(query, None if alone else candidates, negative)
  return rows._replace(teacher=found), columns._replace(teacher=candidates)


def rivals(rows: Rows, columns: Columns) -> Bool[Array, "_B _C"]:
  """True for columns that are valid in-batch negatives of a row.

  These are the other pairs' positives, without those that share the row's query
  or positive: 1_TN of equation 3, with j = i left out as well.
  """
  own = rows.place[:, None] == jnp.arange(columns.valid.shape[0])[None, :]
  same = lambda n: rows.keys[:, n, None] == columns.keys[None, :, n]
  return ~(own | same(0) | same(1)) & columns.valid[None, :]


def info_nce(
  temperature: float,
  keep_positive: bool,
  hardness: float = 0.0,
  over_rows: OverRows = at_once,
  margin: float | None = None,
  judge: str = "student",
) -> LossTerm:
  """-log softmax of the positive among all positives of the global batch.

  Where a batch has hard negatives, each is one more summand of its own query's
  denominator, weighed by w = exp(hardness * cosine) without a gradient.

  Args:
    temperature: tau; similarities are cosines over tau.
    keep_positive: read literally, equation 3 masks j = i as well, which takes
      the positive out of the denominator (the decoupled loss, which can be
      negative). True keeps it and masks only other pairs' duplicates.
    hardness: alpha of w (the paper's is 5); 0 weighs a hard negative as any.
    over_rows: how the rows of the logits are divided among devices.
    margin: leaves out, as false negatives, the other pairs' positives whose
      cosine is more than this above that of the own one (Qwen3 Embedding,
      arXiv 2506.05176, has 0.1); None leaves none out. A hard negative always
      stays.
    judge: one of JUDGES: whose cosines these are, the model's own as it is now
      or those of the teacher's vectors in the batch.

  Returns:
    A term. A pair without a negative, of the batch or its own, has loss 0
    without a gradient, and is not counted: all that it could do is to be its
    own positive's nearest.
  """

  def of_rows(rows: Rows, columns: Columns) -> Judged:
    cosines = similarities(rows, columns)
    own = _own(rows.query, rows.positive)
    logits, positive = cosines / temperature, own / temperature
    allowed = rivals(rows, columns)
    if margin is not None and judge == "teacher":
      assert rows.teacher is not None
      best = _own(rows.teacher.query, rows.teacher.positive)
      allowed &= teacher_scores(rows, columns) <= best[:, None] + margin
    elif margin is not None:
      allowed &= cosines <= own[:, None] + margin
    comparable = jnp.any(allowed, axis=1)
    if keep_positive:
      number = columns.valid.shape[0]
      allowed |= rows.place[:, None] == jnp.arange(number)[None, :]
    denominator = jax.nn.logsumexp(jnp.where(allowed, logits, EXCLUDED), axis=1)
    if rows.negative is not None:
      # Added apart: beside an absent one, the rest keeps its every bit.
      hard, valid = _hard_negatives(rows, temperature, hardness)
      denominator = jnp.logaddexp(denominator, hard)
      comparable |= valid
    return jnp.where(comparable, denominator - positive, 0.0), comparable

  def term(aux: Aux, embeddings: Embeddings, batch: PairBatch) -> Values:
    del aux
    if margin is not None and judge == "teacher":
      given = taught_sides(embeddings, batch, "loss.false_negatives_by=teacher")
    else:
      given = sides(embeddings, batch)
    return Values(*over_rows(of_rows)(*given))

  return term


def _own(
  query: Float[Array, "_B d"] | None, positive: Float[Array, "_B d"] | None
) -> Float[Array, "_B"]:
  """Each query's cosine with its own positive."""
  assert query is not None and positive is not None, "texts have no partner"
  return jnp.sum(query * positive, axis=-1)


def similarities(rows: Rows, columns: Columns) -> Float[Array, "_B _C"]:
  """Cosine similarities of queries (rows) and positives (columns), float32."""
  return cosines_of(rows.query, columns.positive)


def teacher_scores(rows: Rows, columns: Columns) -> Float[Array, "_B _C"]:
  """The same of the teacher's vectors."""
  assert rows.teacher is not None and columns.teacher is not None
  return cosines_of(rows.teacher.query, columns.teacher)


def cosines_of(
  queries: Float[Array, "_B d"], candidates: Float[Array, "_C d"]
) -> Float[Array, "_B _C"]:
  """Dot products of unit vectors, accumulated in float32."""
  return jnp.einsum(
    "id,jd->ij", queries, candidates, preferred_element_type=jnp.float32
  )


def is_best(rows: Rows, columns: Columns) -> Judged:
  """1 where a query's own positive scores above all its in-batch negatives.

  Also says whether it has any: without one, being best is no merit.
  """
  others = rivals(rows, columns)
  scores = jnp.where(others, similarities(rows, columns), -2.0)
  own = _own(rows.query, rows.positive)
  best = (own > jnp.max(scores, axis=1)).astype(jnp.float32)
  return best, jnp.any(others, axis=1)


def negatives_valid(batch: PairBatch) -> Bool[Array, "B N"]:
  """True where a query has a hard negative; place i * N + n is query i's."""
  assert batch.negative is not None
  return batch.negative.valid.reshape(batch.keys.shape[0], -1)


def _hard_negatives(
  rows: Rows, temperature: float, hardness: float
) -> tuple[Float[Array, "_B"], Bool[Array, "_B"]]:
  """log sum_n w_n exp(s_n / tau), and whether the query has any."""
  valid = rows.negative_valid
  assert valid is not None and rows.negative is not None
  negative = jnp.where(valid[:, :, None], rows.negative, 0.0)
  cosine = jnp.einsum(
    "id,ind->in",
    rows.query,
    negative,
    preferred_element_type=jnp.float32,
  )
  logits = cosine / temperature + hardness * jax.lax.stop_gradient(cosine)
  logits = jnp.where(valid, logits, EXCLUDED)
  return jax.nn.logsumexp(logits, axis=1), jnp.any(valid, axis=1)
