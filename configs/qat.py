"""Quantisation-aware training: finetuning that sees its weights quantised.

  embeddinggemma train --config=configs/qat.py:laptop,data=PAIRS \
    --workdir=DIR --config.init_from=FINETUNED

Paper section 3.5, which publishes no sizes: the values below are ours. Where
there is no teacher, the vectors to match are those of FINETUNED itself, of the
texts that are read; `--config.quantize.spec` says what for: int4 and int8 by
block or channel, mixed, or llama.cpp's own q4_0.
"""

from ml_collections import ConfigDict

from embeddinggemma.config import parse_arg, sibling

# What differs by preset: steps, batch_size, lr, warmup_steps.
SIZES = {
  "laptop": (12, 64, 1e-4, 2),
  "tiny": (6, 16, 1e-3, 1),
  "embeddinggemma_300m": (5_000, 2_048, 1e-4, 250),
  "gemma3_270m": (5_000, 2_048, 1e-4, 250),
}


def get_config(arg: str | None = None) -> ConfigDict:
  config = sibling(__file__, "finetune").get_config(arg)
  name = parse_arg(arg, preset="laptop", data="")["preset"]
  steps, batch_size, lr, warmup_steps = SIZES[name]
  config.stage = "qat"
  config.steps = steps
  config.batch_size = batch_size
  config.every_checkpoint = min(max(steps // 4, 1), 500)
  config.optimizer.lr = lr
  config.optimizer.warmup_steps = warmup_steps
  del config.lora  # the weights themselves learn
  config.loss.distill = 1.0  # of the start's vectors, or of config.teacher's
  config.quantize = ConfigDict()
  config.quantize.spec = "int4"
  return config
