"""Gemma 3 270M, the nearest public decoder, with a head as the paper's.

Its up-projection is four times the width, as in the paper's model.
"""

import dataclasses

from embeddinggemma.model.config import ModelConfig
from embeddinggemma.presets.embeddinggemma_300m import PRESET as PAPER

# Its trainings have the sizes of those of the paper's model.
PRESET = dataclasses.replace(
  PAPER,
  model=ModelConfig(
    vocab_size=262_144,
    num_layers=18,
    width=640,
    mlp_width=2048,
    num_heads=4,
    num_kv_heads=1,
    head_dim=256,
    up_width=2560,
    embed_dim=640,
    window=512,
    max_length=2048,
  ),
)
