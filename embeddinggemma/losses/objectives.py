"""Objectives: functions (parameters, batch) -> (loss, metrics).

They are written for the global batch: sums are divided once, by the number of
valid examples in all of it, so results do not depend on devices or groups.
"""

import functools
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh
from jaxtyping import Array, Bool, Float, Int

from embeddinggemma import sharding
from embeddinggemma.losses import contrastive, matryoshka
from embeddinggemma.losses import terms as terms_lib
from embeddinggemma.types import (
  Aux,
  Embeddings,
  Encode,
  LossTerm,
  Metrics,
  Objective,
  PairBatch,
  Params,
  Text,
  Values,
)

# Metrics: the share of pairs that nothing is compared with, and whether a batch
# holds only such, so that it must not move the weights.
WITHOUT_NEGATIVES = "without_negatives"
IDLE = "idle"
SEEN = "seen"  # no metric: what a step shows to a probe (types.Seen)

# (params, texts of each side) -> the embeddings of each side.
EncodeSides = Callable[[Params, Sequence[Text]], list[jax.Array]]
# (aux, embeddings) -> what the step hands out beside its metrics.
Show = Callable[[Aux, Embeddings], Metrics]
# (params, batch) -> for each text: summed loss, number of tokens, of hits.
TokenLosses = Callable[[Params, Any], tuple[jax.Array, jax.Array, jax.Array]]


def language_objective(losses: TokenLosses) -> Objective:
  """The mean cross-entropy per token of the global batch, and accuracy."""

  def objective(params: Params, batch: Any) -> tuple[jax.Array, Metrics]:
    loss, tokens, hits = map(jnp.sum, losses(params, batch))
    return loss / tokens, {"accuracy": hits / tokens}

  return objective


def separate(encode: Encode) -> EncodeSides:
  """Encode each side in a call of its own: the faster form on TPUs, at 300M."""
  return lambda params, sides: [encode(params, side) for side in sides]


def joint(encode: Encode) -> EncodeSides:
  """Encode all sides in one call, which halves the program to compile.

  It falls back to separate calls where the sides' rows differ in length.
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
  """Join the texts of several sides in the same groups.

  In each group the places of a side follow those of the side before it; `ends`
  holds the number of places up to each side's last.
  """
  segments = []
  for side, end in zip(sides, ends.tolist()):
    places = side.valid.shape[1]
    nowhere, first = int(ends[-1]), end - places
    segments.append(
      jnp.where(side.segment_ids == places, nowhere, side.segment_ids + first)
    )
  ids, valid = ([getattr(side, x) for side in sides] for x in ("ids", "valid"))
  return Text(*(jnp.concatenate(x, axis=1) for x in (ids, segments, valid)))


def row_by_row(mesh: Mesh, width: int) -> contrastive.OverRows:
  """Divide the matrix of logits by rows among the devices.

  A device computes at most `width` rows at once, so that its logits take no
  more memory than embeddings of that width.
  """
  return lambda of_rows: sharding.over_rows(of_rows, mesh, width)


ENCODE_SIDES = {"separate": separate, "joint": joint}


def nothing(aux: Aux, embeddings: Embeddings) -> Metrics:
  """Hands out nothing: there is no probe."""
  del aux, embeddings
  return {}


def pair_objective(
  encode: EncodeSides,
  terms: dict[str, tuple[float, LossTerm]],
  mesh: Mesh,
  show: Show = nothing,
) -> Objective:
  """Embed a batch of pairs and sum weighted terms, averaged over valid pairs.

  Args:
    encode: encodes the sides of the batch.
    terms: name -> (weight, term); terms of weight 0 are not computed.
    mesh: the devices.
    show: what it hands out beside its metrics, for a probe.

  Returns:
    An objective whose metrics are the mean of each term and of its parts, the
    in-batch accuracy of pairs, the share without a negative, and whether the
    batch is idle. A mean is over the pairs that have the value; of none, a
    metric is NaN, and the loss 0.
  """

  def objective(params: Params, batch: PairBatch) -> tuple[jax.Array, Metrics]:
    given = [batch.query, batch.positive, batch.negative]
    sides = [side for side in given if side is not None]
    # All texts are encoded before anything is gathered: the TPU compiler would
    # else run the gather of the positives inside the queries' loop of groups.
    vectors = jax.lax.optimization_barrier(encode(params, sides))
    query, *positive = vectors[: 1 if batch.positive is None else 2]
    negative = vectors[2:]
    apart = lambda x: x.reshape(query.shape[0], -1, x.shape[1])  # (B, N, M)
    embeddings = Embeddings(
      query=query,
      positive=positive[0] if positive else None,
      negative=sharding.split_batch(apart(*negative), mesh)
      if negative
      else None,
      candidates=[query, *positive][-1],
    )
    valid = batch.query.valid.reshape(-1)
    found = {
      name: matryoshka.values(term(params["aux"], embeddings, batch))
      for name, (weight, term) in terms.items()
      if weight
    }
    loss = sum(terms[name][0] * _mean(x, valid) for name, x in found.items())
    judged = jax.lax.stop_gradient(
      found | _accuracy(embeddings, batch, row_by_row(mesh, query.shape[1]))
    )
    figures = {name: _figure(x, valid) for name, x in _by_part(judged)}
    figures |= _negatives(found, valid) | show(params["aux"], embeddings)
    return jnp.asarray(loss), figures

  return objective


def _accuracy(
  embeddings: Embeddings, batch: PairBatch, over_rows: contrastive.OverRows
) -> dict[str, Values]:
  """The in-batch accuracy; {} of single texts, which have no answer."""
  if batch.positive is None:
    return {}
  best = over_rows(contrastive.is_best)
  return {"accuracy": Values(*best(*contrastive.sides(embeddings, batch)))}


def _by_part(
  found: Mapping[str, Values],
) -> Iterator[tuple[str, Values]]:
  """Each value by its name, and each of its parts as "NAME/PART"."""
  for name, values in found.items():
    yield name, values
    for part, summand in values.parts.items():
      yield f"{name}/{part}", summand


def counted(values: Values, valid: Bool[Array, "B"]) -> Bool[Array, "B"]:
  """The pairs that have the value."""
  return valid if values.counted is None else valid & values.counted


def _mean(values: Values, valid: Bool[Array, "B"]) -> Float[Array, ""]:
  """The mean over the pairs that have the value; 0 if none has."""
  some = counted(values, valid)
  total = jnp.sum(jnp.where(some, values.total, 0.0))
  return total / jnp.maximum(jnp.sum(some), 1)


def _figure(values: Values, valid: Bool[Array, "B"]) -> Float[Array, ""]:
  """The mean as a metric: NaN if no pair has the value."""
  some = jnp.any(counted(values, valid))
  return jnp.where(some, _mean(values, valid), jnp.nan)


def _negatives(found: Mapping[str, Values], valid: Bool[Array, "B"]) -> Metrics:
  """How many pairs have no negative, and whether nothing else teaches them.

  Without a term that compares, there are no such metrics.
  """
  compared = [x.counted for x in found.values() if x.counted is not None]
  if not compared:
    return {}
  some = functools.reduce(jnp.logical_or, compared)
  alone = jnp.sum(valid & ~some) / jnp.sum(valid)
  teaches = [
    name
    for name, values in found.items()
    if values.counted is None and name not in terms_lib.REGULARISERS
  ]
  idle = ~jnp.any(valid & some) if not teaches else jnp.zeros((), bool)
  return {WITHOUT_NEGATIVES: alone, IDLE: idle}
