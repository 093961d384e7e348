"""The spread-out regulariser (paper equation 4; Zhang et al. 2017).

Only the second moment: the mean of (x_i . x_j)^2 over i != j, of queries and
of positives. It never needs a B x B matrix, since the sum over all i, j is
||X'X||_F^2: per example, (x' G x - |x|^4) / (B - 1) with G = X'X, which is
O(B d^2).
"""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float

from embeddinggemma.types import Aux, Embeddings, PairBatch


def second_moment(
  x: Float[Array, "B d"], valid: Bool[Array, "B"]
) -> Float[Array, "B"]:
  """Mean squared dot product of each vector with the other valid ones."""
  x = jnp.where(valid[:, None], x, 0.0)
  gram = jnp.einsum("bi,bj->ij", x, x, preferred_element_type=jnp.float32)
  own = jnp.sum(x * x, axis=-1) ** 2
  others = jnp.maximum(jnp.sum(valid) - 1, 1)
  # In full precision: a TPU would else round the devices' parts of G to
  # bfloat16 before it adds them up, and the more devices, the more is lost.
  full = jax.lax.Precision.HIGHEST
  return (jnp.sum(jnp.dot(x, gram, precision=full) * x, -1) - own) / others


def spread_out(
  aux: Aux, embeddings: Embeddings, batch: PairBatch
) -> Float[Array, "B"]:
  """Equation 4 per example, over queries and positives (no hard negatives)."""
  del aux
  query = second_moment(embeddings.query, batch.query.valid.reshape(-1))
  if batch.positive is None or embeddings.positive is None:
    return query
  positive = second_moment(
    embeddings.positive, batch.positive.valid.reshape(-1)
  )
  return query + positive
