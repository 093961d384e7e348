"""Texts to vectors: `eg.load` against sentence-transformers, the same weights.

  python tests/benchmarks/encode_throughput.py [--preset=embeddinggemma_300m]
    [--texts=2000] [--rounds=5] [--dtype=float32]

Random weights of a preset are written as a checkpoint and exported; both sides
read what `export` left, take turns in one process, and must agree. Texts are
prose of Python's manual, of lognormal lengths up to the model's limit. Needs
torch, transformers 5 and sentence-transformers 6.
"""

import argparse
import dataclasses
import json
import pathlib
import pydoc_data.topics
import statistics
import tempfile
import time

import jax
import numpy as np
import sentence_transformers
import torch

import embeddinggemma as eg
from embeddinggemma import checkpoint
from embeddinggemma.cli import main
from embeddinggemma.data import prompts
from embeddinggemma.data.tokenizer import train_tokenizer
from embeddinggemma.model import embedder
from embeddinggemma.presets import preset

MEDIAN, SIGMA = 30, 1.0  # words of a text: the lognormal's


def run(name: str, count: int, rounds: int, dtype: str) -> None:
  """Prints texts and tokens a second of both, and their ratio."""
  with tempfile.TemporaryDirectory() as folder:
    source, exported = made(name, pathlib.Path(folder))
    ours = eg.load(source, dtype=dtype)
    theirs = sentence_transformers.SentenceTransformer(
      str(exported), device="cpu", model_kwargs={"dtype": getattr(torch, dtype)}
    )
  texts = prose(count)
  ids, cut = ours.tokenizer.encode_batch(texts, ours.config.max_length)
  lengths = np.array([len(row) for row in ids])
  print(
    f"{name}, {dtype}: {count} texts, {lengths.sum():,} tokens; lengths"
    f" {lengths.min()} to {lengths.max()}, median {np.median(lengths):.0f};"
    f" {cut} cut"
  )
  sides = {"ours": ours.encode, "sentence-transformers": theirs.encode}
  first, got = {}, {}
  for side, encode in sides.items():
    began = time.perf_counter()
    got[side] = np.asarray(encode(texts))
    first[side] = time.perf_counter() - began
  cosines = ours.similarity_pairwise(*got.values())
  assert cosines.min() > (0.9999 if dtype == "float32" else 0.99), cosines.min()
  seconds: dict[str, list[float]] = {side: [] for side in sides}
  for _ in range(rounds):
    for side, encode in sides.items():
      began = time.perf_counter()
      encode(texts)
      seconds[side].append(time.perf_counter() - began)
  for side, values in seconds.items():
    took = statistics.median(values)
    print(
      f"{side}: {count / took:,.1f} texts/s, {lengths.sum() / took:,.0f}"
      f" tokens/s; the first call took {first[side] - took:.1f} s longer"
    )
  ratios = [b / a for a, b in zip(*seconds.values(), strict=True)]
  print(
    f"ratio: {statistics.median(ratios):.2f}"
    f" ({min(ratios):.2f} to {max(ratios):.2f} in {rounds} rounds)"
  )


def made(name: str, folder: pathlib.Path) -> tuple[pathlib.Path, pathlib.Path]:
  """A checkpoint of random weights, and what `export` makes of it."""
  config, tokenizer = preset(name).model, folder / "tokenizer.model"
  train_tokenizer(manual(), tokenizer, min(config.vocab_size, 16_384))
  tree = {
    "model.json": dataclasses.asdict(config),
    "prompts.json": dict(prompts.PROMPTS),
  }
  files = {file: json.dumps(value).encode() for file, value in tree.items()}
  files["tokenizer.model"] = tokenizer.read_bytes()
  params = embedder.init(config)(jax.random.key(0))
  checkpoint.write(folder / "run", params, files)
  exported = folder / "exported"
  arguments = [f"--model={folder / 'run'}", f"--output={exported}"]
  asked = ["export", *arguments, "--format=sentence-transformers"]
  assert main.call(asked) == 0, asked
  return folder / "run", exported


def manual() -> list[str]:
  """The topics of Python's manual."""
  return list(pydoc_data.topics.topics.values())


def prose(count: int) -> list[str]:
  """Pieces of the manual, of lognormal lengths."""
  rng = np.random.default_rng(0)
  words = " ".join(manual()).split()
  sizes = np.maximum(1, rng.lognormal(np.log(MEDIAN), SIGMA, count)).astype(int)
  starts = rng.integers(0, len(words) - sizes)
  return [" ".join(words[s : s + n]) for s, n in zip(starts, sizes)]


if __name__ == "__main__":
  parser = argparse.ArgumentParser()
  parser.add_argument("--preset", default="laptop")
  parser.add_argument("--texts", type=int, default=2000)
  parser.add_argument("--rounds", type=int, default=5)
  parser.add_argument("--dtype", default="float32")
  flags = parser.parse_args()
  run(flags.preset, flags.texts, flags.rounds, flags.dtype)
