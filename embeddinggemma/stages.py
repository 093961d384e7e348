"""The recipe on one page: each stage as (config, mesh) -> Stage.

Pre-finetuning, finetuning and quantisation-aware training are one function of
three configs (paper section 2.3); what differs is data and numbers.
"""

import dataclasses
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jax.sharding import Mesh

from embeddinggemma import config as config_lib
from embeddinggemma import sharding
from embeddinggemma.config import (
  DataConfig,
  LossConfig,
  MeshConfig,
  OptimizerConfig,
  at_least,
  suggest,
)
from embeddinggemma.losses import contrastive, matryoshka, spread_out
from embeddinggemma.model import embedder
from embeddinggemma.model.config import ModelConfig
from embeddinggemma.training import optimizer
from embeddinggemma.types import (
  BadInput,
  Embeddings,
  Encode,
  Key,
  LossTerm,
  Metrics,
  Objective,
  PairBatch,
  Params,
  Stage,
  Text,
)

INITS = ("random", "lsa")
CALLS = ("separate", "joint")
EncodePair = Callable[[Params, Text, Text], tuple[jax.Array, jax.Array]]


@dataclasses.dataclass(frozen=True)
class TrainConfig:
  """One stage of training, whole: what config.json of a workdir holds."""

  stage: str
  seed: int
  steps: int
  batch_size: int  # pairs, over the whole mesh
  max_length: int  # tokens of a text, prompt, BOS and EOS included
  groups_per_device: int  # > 1 trades recomputation for memory
  calls: str  # queries and positives in "separate" calls, or "joint" in one
  init: str  # of the table: "random" or "lsa"
  init_from: str  # a checkpoint; empty: `init` decides
  every_checkpoint: int  # steps
  keep_checkpoints: int
  compiler_options: dict[str, dict[str, Any]]  # of the step, by platform
  model: ModelConfig
  data: DataConfig
  loss: LossConfig
  optimizer: OptimizerConfig
  mesh: MeshConfig

  def __post_init__(self) -> None:
    for name in ("steps", "batch_size", "groups_per_device"):
      at_least(name, getattr(self, name), 1)
    for name in ("every_checkpoint", "keep_checkpoints"):
      at_least(name, getattr(self, name), 1)
    at_least("seed", self.seed, 0)
    at_least("max_length", self.max_length, 4)
    if self.max_length > self.model.max_length:
      raise BadInput(
        f"max_length={self.max_length} exceeds model.max_length="
        f"{self.model.max_length}; lower it or raise that"
      )
    for name, known in (("init", INITS), ("calls", CALLS)):
      value = getattr(self, name)
      if value not in known:
        raise BadInput(f"{name}={value!r} is unknown; use {' or '.join(known)}")
    if self.stage not in STAGES:
      raise BadInput(
        f"unknown stage {self.stage!r}{suggest(self.stage, list(STAGES))}"
      )
    for dim in self.loss.matryoshka:
      if not 0 < dim <= self.model.embed_dim:
        raise BadInput(
          f"loss.matryoshka holds {dim}; dimensions lie between 1 and"
          f" model.embed_dim={self.model.embed_dim}"
        )


def build(tree: dict) -> TrainConfig:
  """TrainConfig from a (resolved) ConfigDict's tree."""
  return config_lib.build(TrainConfig, tree)


def init(config: TrainConfig) -> Callable[[Key], Params]:
  """key -> fresh parameters of the configured model."""
  return embedder.init(config.model)


def encoder(model: ModelConfig, mesh: Mesh) -> Encode:
  """(params, Text) -> (B, M) unit vectors, over the mesh."""
  return sharding.data_parallel(embedder.encode_group(model), mesh)


def prefinetune(config: TrainConfig, mesh: Mesh) -> Stage:
  """Contrastive training on pairs, no hard negatives (paper section 2.3)."""
  return Stage(
    name="prefinetune",
    init=init(config),
    objective=pair_objective(
      ENCODE_PAIR[config.calls](encoder(config.model, mesh)),
      terms(config),
      mesh,
    ),
    optimizer=optimizer.adamw(config.optimizer, config.steps),
  )


STAGES: dict[str, Callable[[TrainConfig, Mesh], Stage]] = {
  "prefinetune": prefinetune,
}


def terms(config: TrainConfig) -> dict[str, tuple[float, LossTerm]]:
  """Name -> (weight, term); contrastive and spread-out are Matryoshka'd."""
  loss = config.loss
  dims = loss.matryoshka or matryoshka.dims_of(config.model.embed_dim)
  nce = contrastive.info_nce(loss.temperature, loss.keep_positive)
  return {
    "contrastive": (1.0, matryoshka.matryoshka(nce, dims)),
    "spread_out": (
      loss.spread_out,
      matryoshka.matryoshka(spread_out.spread_out, dims),
    ),
  }


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
