"""A model for tests: both kinds of layers, trained in seconds on one core."""

from embeddinggemma.model.config import GLOBAL, LOCAL, ModelConfig
from embeddinggemma.presets.preset import Preset, Search, Training

PRESET = Preset(
  model=ModelConfig(
    vocab_size=1024,
    num_layers=2,
    width=32,
    mlp_width=64,
    num_heads=2,
    num_kv_heads=1,
    head_dim=16,
    up_width=64,
    embed_dim=32,
    window=16,
    max_length=64,
    pattern=(LOCAL, GLOBAL),
  ),
  small=True,
  lsa=False,
  text_length=32,
  pair_length=32,
  pretrain=Training(steps=10, batch_size=16, lr=1e-2, warmup_steps=2),
  adapt=Training(steps=10, batch_size=16, lr=1e-2, warmup_steps=2),
  every_adapted=2,
  prefinetune=Training(steps=20, batch_size=16, lr=1e-2, warmup_steps=2),
  finetune=Training(steps=6, batch_size=16, lr=1e-3, warmup_steps=1),
  qat=Training(steps=6, batch_size=16, lr=1e-3, warmup_steps=1),
  mixture=Search(steps=3, dirichlet=2, proposed=2),
  seconds={
    "tokenizer": 1.0,
    "text": 1.0,
    "pretrain": 5.0,
    "adapt": 10.0,
    "teach": 2.0,
    "initialise": 30.0,
    "prefinetune": 25.0,
    "mine": 2.0,
    "mixture": 30.0,
    "finetune": 5.0,
    "soup": 1.0,
    "qat": 10.0,
    "evaluate": 10.0,
    "export": 5.0,
    "index": 5.0,
  },
)
