"""Objectives: (parameters, batch, key) -> loss and metrics, over the mesh.

They are written for the global batch; sums are divided once, by what is valid
in all of it, so devices and groups change nothing.
"""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jax.sharding import Mesh

from embeddinggemma import sharding
from embeddinggemma.losses import contrastive
from embeddinggemma.types import (
  Embeddings,
  Encode,
  Key,
  LossTerm,
  Metrics,
  Objective,
  PairBatch,
  Params,
  Text,
)

EncodePair = Callable[[Params, Text, Text], tuple[jax.Array, jax.Array]]
# (params, batch) -> of each text: summed loss, tokens that count, right ones.
TokenLosses = Callable[[Params, Any], tuple[jax.Array, jax.Array, jax.Array]]


def language_objective(losses: TokenLosses) -> Objective:
  """The mean cross-entropy a token, over all tokens of the global batch."""

  def objective(
    params: Params, batch: Any, key: Key
  ) -> tuple[jax.Array, Metrics]:
    del key
    loss, tokens, hits = map(jnp.sum, losses(params, batch))
    return loss / tokens, {"accuracy": hits / tokens}

  return objective


def separate(encode: Encode) -> EncodePair:
  """Two calls: on TPU, at 300M, the faster form."""
  return lambda params, query, positive: (
    encode(params, query),
    encode(params, positive),
  )


def joint(encode: Encode) -> EncodePair:
  """One call, so that half as much program is compiled.

  Falls back to two where the rows of the sides differ in length.
  """

  def encode_pair(
    params: Params, query: Text, positive: Text
  ) -> tuple[jax.Array, jax.Array]:
    if query.ids.shape[2] != positive.ids.shape[2]:
      return separate(encode)(params, query, positive)
    groups, places = query.valid.shape
    both = encode(params, _beside(query, positive))
    both = both.reshape(groups, 2, places, -1)
    side = lambda n: both[:, n].reshape(groups * places, -1)
    return side(0), side(1)

  return encode_pair


def _beside(first: Text, second: Text) -> Text:
  """The texts of two batches in the same groups, the second's places after."""
  places = first.valid.shape[1]
  along_rows = lambda a, b: jnp.concatenate((a, b), axis=1)
  slot = jnp.where(first.slot == places, 2 * places, first.slot)
  return Text(
    along_rows(first.ids, second.ids),
    along_rows(slot, second.slot + places),
    along_rows(first.valid, second.valid),
  )


ENCODE_PAIR = {"separate": separate, "joint": joint}


def pair_objective(
  encode: EncodePair, terms: dict[str, tuple[float, LossTerm]], mesh: Mesh
) -> Objective:
  """Embeds a batch of pairs and averages weighted terms over valid ones."""

  def objective(
    params: Params, batch: PairBatch, key: Key
  ) -> tuple[jax.Array, Metrics]:
    del key
    # All texts are encoded before anything is gathered: the TPU compiler would
    # else run the gather of the positives inside the queries' loop of groups.
    query, positive = jax.lax.optimization_barrier(
      encode(params, batch.query, batch.positive)
    )
    embeddings = Embeddings(
      query=query,
      positive=positive,
      negative=None,
      # Logits stay row-sharded: each device compares its queries to all.
      candidates=sharding.replicate(positive, mesh),
    )
    valid = batch.query.valid.reshape(-1)
    mean = lambda x: jnp.sum(jnp.where(valid, x, 0.0)) / jnp.sum(valid)
    metrics = {
      name: mean(term(params["aux"], embeddings, batch))
      for name, (weight, term) in terms.items()
      if weight
    }
    loss = sum(terms[name][0] * value for name, value in metrics.items())
    hit = _in_batch_hit(embeddings, batch)
    return jnp.asarray(loss), metrics | {"accuracy": mean(hit)}

  return objective


def _in_batch_hit(embeddings: Embeddings, batch: PairBatch) -> jax.Array:
  """1 where the own positive scores highest: is it learning at all?"""
  scores = embeddings.query @ embeddings.candidates.T
  own = jnp.eye(scores.shape[0], dtype=bool)
  rival = ~contrastive.duplicates(batch.keys) & ~own
  rival &= batch.positive.valid.reshape(1, -1)
  best = jnp.max(jnp.where(rival, scores, -2.0), axis=1)
  return (jnp.sum(embeddings.query * embeddings.positive, -1) > best).astype(
    jnp.float32
  )
