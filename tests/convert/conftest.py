"""A small embedder with random weights, its tokenizer, and their checkpoint."""

import dataclasses
import json
import pathlib

import jax
import numpy as np
import pytest

from embeddinggemma import checkpoint
from embeddinggemma.convert.write import exporting
from embeddinggemma.convert.write.sentence_transformers import FORMAT
from embeddinggemma.data.prompts import PROMPTS
from embeddinggemma.data.tokenizer import train_tokenizer
from embeddinggemma.model import embedder
from embeddinggemma.model.config import GLOBAL, LOCAL, ModelConfig
from embeddinggemma.presets import preset

TEXTS = [
  f"the {a} {b} of the {c} was seen at {n} o'clock"
  for n, (a, b, c) in enumerate(
    zip(
      ["red", "old", "quiet", "wide"] * 20,
      ["river", "house", "garden", "road", "lamp"] * 16,
      ["north", "town", "valley", "morning", "winter", "sea"] * 14,
    )
  )
]
CONFIG = dataclasses.replace(
  preset("tiny").model,
  vocab_size=512,
  num_layers=3,
  window=8,
  pattern=(LOCAL, GLOBAL),
)


@pytest.fixture(scope="session")
def tokenizer_model(tmp_path_factory) -> bytes:
  """A SentencePiece model of fewer pieces than CONFIG has rows."""
  path = tmp_path_factory.mktemp("tokenizer") / "tokenizer.model"
  train_tokenizer(TEXTS, path, 512)
  return path.read_bytes()


@pytest.fixture(scope="session")
def config() -> ModelConfig:
  """The small embedder's."""
  return CONFIG


@pytest.fixture(scope="session")
def write_checkpoint(tokenizer_model):
  """(workdir, config, more files) -> the workdir of random weights."""

  def write(
    workdir: pathlib.Path, config: ModelConfig, files=None
  ) -> pathlib.Path:
    shapes = jax.eval_shape(embedder.init(config), jax.random.key(0))
    rng = np.random.default_rng(0)
    # Norms far from 1, so that every tensor matters.
    weights = lambda s: (
      rng.standard_normal(s.shape, np.float32)
      * np.float32(0.3 if len(s.shape) == 1 else s.shape[0] ** -0.5)
    )
    content = {
      "model.json": json.dumps(dataclasses.asdict(config)).encode(),
      "prompts.json": json.dumps(dict(PROMPTS)).encode(),
      "tokenizer.model": tokenizer_model,
      "LICENSE": b"terms of the weights",
    }
    params = jax.tree.map(weights, shapes)
    checkpoint.write(workdir, params, content | (files or {}))
    return workdir

  return write


@pytest.fixture(scope="session")
def model(tmp_path_factory, write_checkpoint) -> pathlib.Path:
  """The workdir of the small embedder."""
  return write_checkpoint(tmp_path_factory.mktemp("model"), CONFIG)


@pytest.fixture(scope="session")
def exported(tmp_path_factory, model) -> pathlib.Path:
  """Its export for sentence-transformers."""
  folder = tmp_path_factory.mktemp("exported") / "st"
  exporting.export(FORMAT, str(model), folder)
  return folder
