"""A small model of one layer, which trains within minutes on two CPU cores.

It starts from a table of latent semantic vectors (data/lsa.py).
"""

from embeddinggemma.model.config import GLOBAL, ModelConfig
from embeddinggemma.presets.preset import Preset, Search, Training

PRESET = Preset(
  # All input dimensions are multiples of 32, the block of every export format.
  model=ModelConfig(
    vocab_size=16_384,
    num_layers=1,
    width=512,
    mlp_width=128,
    num_heads=2,
    num_kv_heads=1,
    head_dim=64,
    up_width=1024,
    embed_dim=512,
    window=512,
    max_length=256,
    pattern=(GLOBAL,),
    post_norm_gain=0.02,
    projection_init="identity",
  ),
  small=True,
  lsa=True,
  text_length=128,
  pair_length=128,
  pretrain=Training(steps=120, batch_size=8, lr=3e-3, warmup_steps=12),
  adapt=Training(steps=80, batch_size=16, lr=1e-2, warmup_steps=8),
  every_adapted=8,
  prefinetune=Training(steps=80, batch_size=128, lr=3e-4, warmup_steps=8),
  finetune=Training(steps=12, batch_size=64, lr=1e-4, warmup_steps=2),
  qat=Training(steps=20, batch_size=64, lr=2e-4, warmup_steps=2),
  mixture=Search(steps=6, dirichlet=2, proposed=2),
  # Three of the standard library's tasks: each has its own shape to compile.
  qat_tasks={"code": 3.0, "code_name": 2.0, "documentation": 1.0},
  # "mixed" has one scale per row of the embedding table, whose spare dimension
  # (data/lsa.py) is twenty times the others: rounding leaves little of them, so
  # training has to move them far.
  qat_lr={"mixed": 5e-3},
  seconds={
    "tokenizer": 33.0,
    "text": 5.0,
    "pretrain": 45.0,
    "adapt": 50.0,
    "teach": 25.0,
    "initialise": 110.0,
    "prefinetune": 75.0,
    "mine": 20.0,
    "mixture": 110.0,
    "finetune": 40.0,
    "soup": 1.0,
    "qat": 60.0,
    "evaluate": 70.0,
    "export": 10.0,
    "index": 25.0,
  },
)
