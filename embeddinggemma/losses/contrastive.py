"""InfoNCE with in-batch negatives (paper equation 2 and 3)."""

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


def info_nce(temperature: float, keep_positive: bool) -> LossTerm:
  """-log softmax of the positive among all positives of the global batch.

  Args:
    temperature: tau; similarities are cosines over tau.
    keep_positive: read literally, equation 3 masks j = i as well, which takes
      the positive out of the denominator (the decoupled loss, which can be
      negative). True keeps it and masks only other pairs' duplicates.

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
    return jnp.where(jnp.any(allowed, axis=1), denominator - positive, 0.0)

  return term
