"""InfoNCE with in-batch and hard negatives (paper equation 2 and 3)."""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, UInt32

from embeddinggemma.types import Aux, Embeddings, LossTerm, PairBatch

_EXCLUDED = -1e30  # finite: a row with nothing left must not give NaN


def duplicates(keys: UInt32[Array, "B 2"]) -> Bool[Array, "B B"]:
  """True where two pairs share their query or their positive (1 - 1_TN)."""
  query, positive = keys[:, 0], keys[:, 1]
  same_query = query[:, None] == query[None, :]
  return same_query | (positive[:, None] == positive[None, :])


def info_nce(
  temperature: float, keep_positive: bool, hardness: float = 0.0
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

  Returns:
    A term with values (B,). A pair with nothing to compare to has loss 0.
  """

  def term(
    aux: Aux, embeddings: Embeddings, batch: PairBatch
  ) -> Float[Array, "B"]:
    del aux
    logits = (
      jnp.einsum(
        "id,jd->ij",
        embeddings.query,
        embeddings.candidates,
        preferred_element_type=jnp.float32,
      )
      / temperature
    )
    positive = jnp.sum(embeddings.query * embeddings.positive, -1) / temperature
    own = jnp.eye(logits.shape[0], dtype=bool)
    allowed = ~duplicates(batch.keys) & batch.positive.valid.reshape(1, -1)
    allowed = (allowed & ~own) | own if keep_positive else allowed & ~own
    denominator = jax.nn.logsumexp(
      jnp.where(allowed, logits, _EXCLUDED), axis=1
    )
    comparable = jnp.any(allowed, axis=1)
    if embeddings.negative is not None:
      # Added apart: beside an absent one, the rest keeps its every bit.
      hard, valid = _hard_negatives(embeddings, batch, temperature, hardness)
      denominator = jnp.logaddexp(denominator, hard)
      comparable |= valid
    return jnp.where(comparable, denominator - positive, 0.0)

  return term


def negatives_valid(batch: PairBatch) -> Bool[Array, "B N"]:
  """Which hard negatives of each query there are; a place i * N + n is i's."""
  assert batch.negative is not None
  return batch.negative.valid.reshape(batch.keys.shape[0], -1)


def _hard_negatives(
  embeddings: Embeddings,
  batch: PairBatch,
  temperature: float,
  hardness: float,
) -> tuple[Float[Array, "B"], Bool[Array, "B"]]:
  """log sum_n w_n exp(s_n / tau), and whether the query has any."""
  assert embeddings.negative is not None
  valid = negatives_valid(batch)
  negative = jnp.where(valid[:, :, None], embeddings.negative, 0.0)
  cosine = jnp.einsum(
    "id,ind->in",
    embeddings.query,
    negative,
    preferred_element_type=jnp.float32,
  )
  logits = cosine / temperature + hardness * jax.lax.stop_gradient(cosine)
  logits = jnp.where(valid, logits, _EXCLUDED)
  return jax.nn.logsumexp(logits, axis=1), jnp.any(valid, axis=1)
