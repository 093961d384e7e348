"""Adaptation: a decoder becomes an encoder-decoder by UL2 (paper section 2.1).

  embeddinggemma train --config=configs/adapt.py:laptop --workdir=DIR \\
    --config.init_from=PRETRAINED
  embeddinggemma train --config=configs/adapt.py:laptop,decoder=tiny ... \\
    --config.init_from=PRETRAINED --config.decoder_from=OTHER

Denoisers, warm-up, clipping and the mean of the last five checkpoints are
those of T5Gemma 2 (arXiv 2512.14856); it prints no learning rate or weight
decay, and no 300M model.
"""

import dataclasses

from ml_collections import ConfigDict

from embeddinggemma.config import parse_arg, sibling
from embeddinggemma.data.denoisers import UL2
from embeddinggemma.model.config import LARGE, preset

# What differs by preset: steps, batch_size, max_length, lr, warmup_steps,
# every_checkpoint.
SIZES = {
  "laptop": (80, 16, 128, 1e-2, 8, 8),
  "tiny": (10, 16, 32, 1e-2, 2, 2),
  # 4.2 million tokens a batch, 1.77 trillion in all.
  "embeddinggemma_300m": (420_000, 2_048, 2_048, 3e-4, 100, 10_000),
  "gemma3_270m": (420_000, 2_048, 2_048, 3e-4, 100, 10_000),
}


def get_config(arg: str | None = None) -> ConfigDict:
  pretrain = sibling(__file__, "pretrain")
  args = parse_arg(arg, **pretrain.ARGUMENTS, decoder="")
  config = pretrain.from_arguments(args)
  name = args["preset"]
  steps, batch_size, max_length, lr, warmup_steps, every = SIZES[name]

  config.stage = "adapt"
  config.steps = steps
  config.batch_size = batch_size
  config.max_length = max_length  # of input and target each
  config.every_checkpoint = every
  config.keep_checkpoints = 5
  config.average = 5  # last checkpoints that the result is the mean of
  config.optimizer.lr = lr
  config.optimizer.warmup_steps = warmup_steps

  if name == "laptop":
    # The encoder keeps its table and gains (see pretrain); the decoder learns.
    config.frozen = ("embedding$", "encoder/.*norm")

  # `model` is the encoder; the decoder's own sizes can be set apart.
  decoder = preset(args["decoder"] or name)
  config.decoder = ConfigDict(dataclasses.asdict(decoder))
  for key in LARGE:
    config.decoder[key] = config.model[key]
  config.decoder_from = ""  # a causal checkpoint of other sizes than model's
  config.tied = True  # one table: input and output of both sides
  # True: computes the table's two gradients apart, should a TPU corrupt them
  # (training/tied.py); watch for it with guard.jump.
  config.separate_gradients = False
  config.cross_attention = "merged"  # T5Gemma 2; "separate" as T5Gemma
  # With separate cross-attention whose sizes differ from self-attention's, it
  # starts random, and alone moves so many steps.
  config.hold_steps = min(1_000, steps // 10)
  config.denoisers = tuple(tuple(denoiser) for denoiser in UL2)
  return config
