"""Objectives: (parameters, batch, key) -> loss and metrics, over the mesh.

They are written for the global batch; sums are divided once, by what is valid
in all of it, so devices and groups change nothing.
"""

from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh
from jaxtyping import Int

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

# (params, texts of each side) -> their vectors.
EncodeSides = Callable[[Params, Sequence[Text]], list[jax.Array]]
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


def separate(encode: Encode) -> EncodeSides:
  """A call each: on TPU, at 300M, the faster form."""
  return lambda params, sides: [encode(params, side) for side in sides]


def joint(encode: Encode) -> EncodeSides:
  """One call, so that half as much program is compiled.

  Falls back to one each where the rows of the sides differ in length.
  """

  def encode_sides(params: Params, sides: Sequence[Text]) -> list[jax.Array]:
    if len({side.ids.shape[2] for side in sides}) > 1:
      return separate(encode)(params, sides)
    groups = sides[0].valid.shape[0]
    ends = np.cumsum([side.valid.shape[1] for side in sides])
    vectors = encode(params, _beside(sides, ends))
    vectors = vectors.reshape(groups, int(ends[-1]), -1)
    return [
      part.reshape(-1, part.shape[2])
      for part in jnp.split(vectors, ends[:-1].tolist(), axis=1)
    ]

  return encode_sides


def _beside(sides: Sequence[Text], ends: Int[np.ndarray, "_"]) -> Text:
  """The texts of several batches in the same groups, one's places after
  another's, which end at `ends`."""
  slots = []
  for side, end in zip(sides, ends.tolist()):
    places = side.valid.shape[1]
    nowhere, first = int(ends[-1]), end - places
    slots.append(jnp.where(side.slot == places, nowhere, side.slot + first))
  ids, valid = ([getattr(side, x) for side in sides] for x in ("ids", "valid"))
  return Text(*(jnp.concatenate(x, axis=1) for x in (ids, slots, valid)))


def row_by_row(mesh: Mesh, width: int) -> contrastive.OverRows:
  """Logits by rows among devices: at most `width` rows at once, so that they
  take no more than the vectors of that width that they are of."""
  return lambda of_rows: sharding.over_rows(of_rows, mesh, width)


ENCODE_SIDES = {"separate": separate, "joint": joint}


def pair_objective(
  encode: EncodeSides, terms: dict[str, tuple[float, LossTerm]], mesh: Mesh
) -> Objective:
  """Embeds a batch of pairs and averages weighted terms over valid ones."""

  def objective(
    params: Params, batch: PairBatch, key: Key
  ) -> tuple[jax.Array, Metrics]:
    del key
    sides = [batch.query, batch.positive]
    sides += [] if batch.negative is None else [batch.negative]
    # All texts are encoded before anything is gathered: the TPU compiler would
    # else run the gather of the positives inside the queries' loop of groups.
    vectors = jax.lax.optimization_barrier(encode(params, sides))
    query, positive, *negative = vectors
    apart = lambda x: x.reshape(query.shape[0], -1, x.shape[1])  # (B, N, M)
    embeddings = Embeddings(
      query=query,
      positive=positive,
      negative=sharding.split_batch(apart(*negative), mesh)
      if negative
      else None,
      candidates=positive,
    )
    valid = batch.query.valid.reshape(-1)
    mean = lambda x: jnp.sum(jnp.where(valid, x, 0.0)) / jnp.sum(valid)
    metrics = {
      name: mean(term(params["aux"], embeddings, batch))
      for name, (weight, term) in terms.items()
      if weight
    }
    loss = sum(terms[name][0] * value for name, value in metrics.items())
    best = row_by_row(mesh, query.shape[1])(contrastive.is_best)
    hit = jax.lax.stop_gradient(best(*contrastive.sides(embeddings, batch)))
    return jnp.asarray(loss), metrics | {"accuracy": mean(hit)}

  return objective
