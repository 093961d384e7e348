"""How long a model's texts may be: trained, read, and held in memory."""

import dataclasses
import pathlib
from collections.abc import Sequence
from typing import NamedTuple

from embeddinggemma import checkpoint
from embeddinggemma.convert.read import families
from embeddinggemma.data import packing
from embeddinggemma.loading import Model
from embeddinggemma.model.config import ModelConfig
from embeddinggemma.types import BadInput

LIMIT, TRAINING = "its max_length", "its last training"
# Copies of a layer's attention scores that are in memory at once, in float32.
_COPIES = 3


class Trained(NamedTuple):
  """The length beyond which a model reads more than it was trained on."""

  length: int  # tokens of a text, prompt, BOS and EOS included
  known_from: str  # LIMIT or TRAINING


def trained(path: str | pathlib.Path, config: ModelConfig) -> Trained:
  """The longest texts of a model's last training, as its checkpoint says.

  That is less than the model's own limit where it was trained on shorter texts.
  Public weights, and checkpoints that do not say it, have only that limit.
  """
  own = Trained(config.max_length, LIMIT)
  if families.is_public(pathlib.Path(path)):
    return own
  files = checkpoint.read_files(checkpoint.find(path))
  length = checkpoint.trained_length(files)
  return own if length is None else Trained(length, TRAINING)


def reading(model: Model, longest: int) -> Model:
  """The model with nothing cut off texts of `longest` tokens.

  Positions are rotary angles and the windows of local layers do not grow, so
  that longer texts need no other weights.
  """
  if longest <= model.config.max_length:
    return model
  config = dataclasses.replace(model.config, max_length=longest)
  return dataclasses.replace(model, config=config)


def require_memory(
  config: ModelConfig, lengths: Sequence[int], room: int
) -> None:
  """Raise BadInput where attention within one document exceeds `room` bytes."""
  too_long = [n for n in lengths if attention_bytes(config, n) > room]
  if too_long:
    fitting = [str(n) for n in lengths if n not in too_long]
    fix = (
      f"use --lengths={','.join(fitting)}" if fitting else "give more memory"
    )
    raise BadInput(
      f"a document of {too_long[0]} tokens needs"
      f" {attention_bytes(config, too_long[0]) / 1e9:.1f} GB for its attention,"
      f" and {max(room, 0) / 1e9:.1f} GB are free; {fix}"
    )


def attention_bytes(config: ModelConfig, length: int) -> int:
  """Memory of the attention of a layer within one document."""
  row = packing.rung(length)
  return _COPIES * config.num_heads * row * row * 4
