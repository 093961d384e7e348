"""Finetuning on own pairs: the recipe, and sentence-transformers beside it.

  python tests/benchmarks/own_pairs.py WORKDIR FOLDER [STEPS]

WORKDIR is that of a finished `run` of configs/recipe.py:pairs; FOLDER holds its
base for sentence-transformers. That trains on the same pairs in the same
batches and order, as many steps, with the same learning rate, warm-up, clipping
and frozen tensors, by its own losses (multiple negatives ranking, at every
Matryoshka dimension), padded to the longest text of a batch, in float32. Both
are scored by the same code on the same suites. Prints scores, real tokens a
second and peak memory. With STEPS it takes only so many, for the speed; the
scores are then of another training than ours. Needs torch, transformers 5 and sentence-transformers 6.
"""

import json
import pathlib
import resource
import sys
import time

import numpy as np
import sentence_transformers as st
import torch
from sentence_transformers.sentence_transformer import losses

from embeddinggemma import config as config_lib
from embeddinggemma.checkpoint import find, read_files
from embeddinggemma.data import prompts
from embeddinggemma.data.tokenizer import BOS, EOS
from embeddinggemma.losses import matryoshka
from embeddinggemma.recipes.own import scores
from embeddinggemma.training import hooks, optimizer
from embeddinggemma.training.inputs import Inputs
from embeddinggemma.training.stages import pairs
from embeddinggemma.training.stages.pairs import PairConfig

EMPTY = np.array([BOS, EOS], np.int32)  # the negative of a pair without one


def main(workdir: pathlib.Path, folder: str, most: int | None) -> None:
  """Prints a row a system."""
  recipe = json.loads(read_files(find(workdir / "finetune"))["recipe.json"])
  config = config_lib.build(PairConfig, recipe["config"])
  inputs = workdir / "inputs"
  mined = workdir / "mine"
  made = Inputs(inputs, inputs / "text", mined if mined.is_dir() else None)
  rows = hooks.read_metrics(workdir / "finetune" / hooks.METRICS)
  summary = json.loads((workdir / "summary.json").read_text())
  suites = scores.read(made.corpus, workdir / "general")
  model = st.SentenceTransformer(folder, device="cpu")
  before = scored(model, suites)
  tokens, seconds, losses_seen = train(model, config, made, rows[:most])
  after = scored(model, suites)
  peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e6
  told = summary["forgetting"]
  ours = {side: scores.means(told[side]) for side in ("before", "after")}
  pace = sum(r["tokens"] for r in rows[1:]) / sum(
    r["seconds"] for r in rows[1:]
  )
  show("ours", ours["before"], ours["after"], pace)
  show("sentence-transformers", before, after, tokens / seconds)
  print(f"ratio of tokens/s: {pace * seconds / tokens:.2f}")
  print(f"sentence-transformers: peak {peak:.1f} GB, losses {losses_seen}")


def show(name: str, before: dict, after: dict, pace: float) -> None:
  """A row."""
  parts = [f"{key} {before[key]:.3f} -> {after[key]:.3f}" for key in after]
  print(f"{name}: {', '.join(parts)}; {pace:.0f} real tokens/s")


def train(
  model: st.SentenceTransformer, config: PairConfig, made: Inputs, rows: list
) -> tuple[int, float, list[float]]:
  """Trains on the rows of our log; tokens and seconds after the first step."""
  tasks, _ = pairs.read_tasks(config, made)
  for name, tensor in model.named_parameters():
    if config.frozen and "embed_tokens" in name:
      tensor.requires_grad_(False)
  free = [x for x in model.parameters() if x.requires_grad]
  inner = losses.MultipleNegativesRankingLoss(
    model, scale=1 / config.loss.temperature
  )
  dims = config.loss.matryoshka or matryoshka.dims_of(config.model.embed_dim)
  loss = losses.MatryoshkaLoss(model, inner, list(dims))
  adam = config.optimizer
  optimiser = torch.optim.AdamW(
    free,
    betas=(adam.b1, adam.b2),
    eps=adam.eps,
    weight_decay=adam.weight_decay,
  )
  rate = optimizer.schedule(adam, config.steps)
  model.train()
  tokens, seconds, seen = 0, 0.0, []
  for number, row in enumerate(rows):
    began = time.perf_counter()
    task = tasks[row["task"]]
    sides = [
      [side[i] for i in row["rows"]] for side in (task.query, task.positive)
    ]
    if task.negatives:
      given = (task.negative[i][0] for i in row["rows"])
      sides += [[text if len(text) else EMPTY for text in given]]
    features = [padded(side) for side in sides]
    for group in optimiser.param_groups:
      group["lr"] = float(rate(number))
    optimiser.zero_grad()
    value = loss(features, None)
    value.backward()
    torch.nn.utils.clip_grad_norm_(free, adam.clip_norm)
    optimiser.step()
    seen.append(round(float(value), 3))
    if number:
      tokens += row["tokens"]
      seconds += time.perf_counter() - began
  model.eval()
  return tokens, seconds, seen


def padded(texts: list) -> dict[str, torch.Tensor]:
  """Ids and mask, each row as long as the longest text."""
  longest = max(map(len, texts))
  ids = np.zeros((len(texts), longest), np.int64)
  mask = np.zeros_like(ids)
  for n, text in enumerate(texts):
    ids[n, : len(text)], mask[n, : len(text)] = text, 1
  return {
    "input_ids": torch.from_numpy(ids),
    "attention_mask": torch.from_numpy(mask),
  }


def scored(model: st.SentenceTransformer, suites: scores.Suites) -> dict:
  """Suite -> mean, by our suites and metrics."""

  def encode(texts, prompt_name, titles=()):
    prompt = prompts.prompt_named(prompt_name, prompts.PROMPTS)
    titles = titles or [""] * len(texts)
    whole = [prompts.with_prompt(prompt, *x) for x in zip(texts, titles)]
    return model.encode(whole, normalize_embeddings=True, batch_size=16)

  width = model.get_sentence_embedding_dimension()
  return scores.means(scores.score(encode, width, suites))


if __name__ == "__main__":
  main(
    pathlib.Path(sys.argv[1]),
    sys.argv[2],
    int(sys.argv[3]) if len(sys.argv) > 3 else None,
  )
