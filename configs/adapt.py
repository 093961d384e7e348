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
from embeddinggemma.model.config import LARGE
from embeddinggemma.presets import preset


def get_config(arg: str | None = None) -> ConfigDict:
  pretrain = sibling(__file__, "pretrain")
  args = parse_arg(arg, **pretrain.ARGUMENTS, decoder="")
  config = pretrain.from_arguments(args)
  preset_of = preset(args["preset"])
  sizes = preset_of.adapt

  config.stage = "adapt"
  config.steps = sizes.steps
  config.batch_size = sizes.batch_size
  config.max_length = preset_of.text_length  # tokens of input and target each
  config.every_checkpoint = preset_of.every_adapted
  config.keep_checkpoints = 5
  config.average = 5  # the result is the mean of this many last checkpoints
  config.optimizer.lr = sizes.lr
  config.optimizer.warmup_steps = sizes.warmup_steps

  if preset_of.lsa:
    # The encoder keeps its table and gains (see pretrain); the decoder learns.
    config.frozen = ("embedding$", "encoder/.*norm")

  # `model` is the encoder; the decoder's own sizes can be set apart.
  decoder = preset(args["decoder"] or args["preset"]).model
  config.decoder = ConfigDict(dataclasses.asdict(decoder))
  for key in LARGE:
    config.decoder[key] = config.model[key]
  config.decoder_from = ""  # a causal checkpoint of other sizes than model's
  config.tied = True  # one table: input and output of both sides
  # True computes the table's two gradients separately, in case a TPU corrupts
  # their sum (training/tied.py); guard.jump detects that.
  config.separate_gradients = False
  config.cross_attention = "merged"  # T5Gemma 2; "separate" as T5Gemma
  # Separate cross-attention whose sizes differ from self-attention's starts at
  # random; only it is trained in these first steps.
  config.hold_steps = min(1_000, sizes.steps // 10)
  config.denoisers = tuple(tuple(denoiser) for denoiser in UL2)
  return config
