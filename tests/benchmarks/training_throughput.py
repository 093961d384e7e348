"""Training on ragged text: packed here against padded in sentence-transformers.

  python tests/benchmarks/training_throughput.py WORKDIR [LAYERS]

WORKDIR is that of a `run` or `train`: its corpus, tokenizer and config are
used. The same shapes, batches, precision (float32), loss (InfoNCE in the batch
at full width) and optimizer (AdamW) on both sides, which take turns in one
process. Needs torch, transformers 5 and sentence-transformers 6.
"""

import dataclasses
import json
import pathlib
import statistics
import sys
import time

import jax
import numpy as np
import sentence_transformers as st
import torch
import transformers
from sentence_transformers.base import modules
from sentence_transformers.sentence_transformer import losses
from sentence_transformers.sentence_transformer.modules import Pooling

from embeddinggemma import sharding
from embeddinggemma.checkpoint import find, read_files
from embeddinggemma.training import prepare, stages, step
from embeddinggemma.training.inputs import Inputs
from embeddinggemma.training.stages import pairs
from embeddinggemma.training.stages.pairs import PairConfig

ROUNDS = 5


def main(workdir: pathlib.Path, layers: int | None) -> None:
  """Prints real tokens a second of both, and their ratio."""
  config, made = read(workdir, layers)
  ours, theirs = ours_of(config, made), theirs_of(config)
  data = batches(config, made)
  for item in data:  # compile, and warm up
    ours(item)
    theirs(item)
  speeds: dict[str, list[float]] = {"packed": [], "padded": []}
  for _ in range(ROUNDS):
    for name, run in (("packed", ours), ("padded", theirs)):
      began = time.perf_counter()
      for item in data:
        run(item)
      tokens = sum(loaded.tokens for loaded, _ in data)
      speeds[name].append(tokens / (time.perf_counter() - began))
  ratios = [a / b for a, b in zip(speeds["packed"], speeds["padded"])]
  padded = sum(x.size for _, sides in data for x in sides)
  real = sum(loaded.tokens for loaded, _ in data)
  capacity = sum(loaded.capacity for loaded, _ in data)
  for name, values in speeds.items():
    print(f"{name}: {statistics.median(values):,.0f} real tokens/s")
  print(
    f"real tokens: {real / capacity:.1%} packed, {real / padded:.1%} padded"
  )
  print(
    f"ratio: {statistics.median(ratios):.2f}"
    f" ({min(ratios):.2f} to {max(ratios):.2f} in {ROUNDS} rounds)"
  )


def read(
  workdir: pathlib.Path, layers: int | None
) -> tuple[PairConfig, Inputs]:
  """The config of a checkpoint, with plain InfoNCE as the only loss."""
  recipe = json.loads(read_files(find(workdir))["recipe.json"])
  config = stages.build(recipe["config"])
  model = config.model
  if layers:
    model = dataclasses.replace(model, num_layers=layers)
  loss = dataclasses.replace(
    config.loss, spread_out=0.0, matryoshka=(model.embed_dim,)
  )
  made = "tokenizer" if (workdir / "tokenizer").is_dir() else "inputs"
  return (
    dataclasses.replace(config, model=model, loss=loss),
    Inputs(workdir / made, workdir / made / "text"),
  )


def batches(config: PairConfig, made: Inputs) -> list:
  """A packed batch, and its two sides padded to their longest text, a task."""
  tasks, _ = pairs.read_tasks(config, made)
  packed, _ = prepare.dataset(config, made, 1)
  found = {}
  for i in range(40):
    loaded = packed[i]
    if loaded.task not in found and len(loaded.rows) == config.batch_size:
      rows = tasks[loaded.task]
      sides = [
        pad([side[i] for i in loaded.rows])
        for side in (rows.query, rows.positive)
      ]
      found[loaded.task] = (loaded, sides)
  return list(found.values())


def pad(texts: list[np.ndarray]) -> np.ndarray:
  """Ids, 0 where there is no text."""
  out = np.zeros((len(texts), max(map(len, texts))), np.int64)
  for row, text in zip(out, texts):
    row[: len(text)] = text
  return out


def ours_of(config: PairConfig, made: Inputs):
  """One step of our training."""
  mesh = sharding.make_mesh(1, 1, jax.devices()[:1])
  stage = stages.make(config, mesh)
  held = [step.init_state(stage, config.seed, mesh)]
  options = config.compiler_options.get("cpu")
  program = step.compile_step(stage, config.seed, mesh, options)

  def run(item) -> None:
    batch = sharding.to_devices(item[0].batch, mesh)
    held[0], metrics = program(held[0], batch)
    jax.block_until_ready(metrics)

  return run


def theirs_of(config: PairConfig):
  """One step of sentence-transformers on the same shapes."""
  model = sentence_transformer(config)
  loss = losses.MultipleNegativesRankingLoss(
    model, scale=1 / config.loss.temperature
  )
  optimizer = torch.optim.AdamW(model.parameters(), lr=config.optimizer.lr)

  def run(item) -> None:
    features = [
      {
        "input_ids": torch.from_numpy(ids),
        "attention_mask": torch.from_numpy((ids != 0).astype(np.int64)),
      }
      for ids in item[1]
    ]
    optimizer.zero_grad()
    loss(features, None).backward()
    optimizer.step()

  return run


def sentence_transformer(config: PairConfig) -> st.SentenceTransformer:
  """Gemma 3 text model, mean pooling, two dense layers, unit norm."""
  m = config.model
  kinds = {"local": "sliding_attention", "global": "full_attention"}
  gemma = transformers.Gemma3TextConfig(
    vocab_size=m.vocab_size,
    hidden_size=m.width,
    intermediate_size=m.mlp_width,
    num_hidden_layers=m.num_layers,
    num_attention_heads=m.num_heads,
    num_key_value_heads=m.num_kv_heads,
    head_dim=m.head_dim,
    query_pre_attn_scalar=m.head_dim,
    sliding_window=m.window,
    layer_types=[kinds[m.attention_kind(i)] for i in range(m.num_layers)],
    use_bidirectional_attention=True,
    max_position_embeddings=m.max_length,
  )
  body = transformers.Gemma3TextModel(gemma)

  class Body(torch.nn.Module):
    """Ids to token vectors, under the names that pooling reads."""

    def __init__(self) -> None:
      super().__init__()
      self.body = body

    def forward(self, features: dict, **kwargs) -> dict:
      del kwargs
      out = self.body(
        input_ids=features["input_ids"],
        attention_mask=features["attention_mask"],
      )
      return features | {"token_embeddings": out.last_hidden_state}

  dense = lambda a, b: modules.Dense(
    a, b, bias=False, activation_function=torch.nn.Identity()
  )
  return st.SentenceTransformer(
    modules=[
      Body(),
      Pooling(m.width, "mean"),
      dense(m.width, m.up_width),
      dense(m.up_width, m.embed_dim),
      modules.Normalize(),
    ],
    device="cpu",
  )


if __name__ == "__main__":
  main(
    pathlib.Path(sys.argv[1]), int(sys.argv[2]) if len(sys.argv) > 2 else None
  )
