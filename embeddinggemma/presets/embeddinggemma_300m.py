"""The paper's model (section 2.1): 307,581,696 parameters."""

from embeddinggemma.model.config import ModelConfig
from embeddinggemma.presets.preset import Preset, Search, Training

PRESET = Preset(
  model=ModelConfig(
    vocab_size=262_144,
    num_layers=24,
    width=768,
    mlp_width=1152,
    num_heads=3,
    num_kv_heads=1,
    head_dim=256,
    up_width=3072,
    embed_dim=768,
    window=512,
    max_length=2048,
  ),
  small=False,
  lsa=False,
  text_length=2_048,
  pair_length=512,
  pretrain=Training(
    steps=100_000, batch_size=2_048, lr=3e-4, warmup_steps=1_000
  ),
  # 4.2 million tokens a batch, 1.77 trillion in all.
  adapt=Training(steps=420_000, batch_size=2_048, lr=3e-4, warmup_steps=100),
  every_adapted=10_000,
  prefinetune=Training(
    steps=20_000, batch_size=16_384, lr=2e-4, warmup_steps=1_000
  ),
  finetune=Training(steps=5_000, batch_size=2_048, lr=1e-4, warmup_steps=250),
  qat=Training(steps=5_000, batch_size=2_048, lr=1e-4, warmup_steps=250),
  mixture=Search(steps=1_000, dirichlet=10, proposed=30),
)
