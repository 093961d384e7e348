"""Finetuning: pairs with hard negatives (paper sections 2.2 and 2.3).

  embeddinggemma train --config=configs/finetune.py:laptop,data=PAIRS \
    --workdir=DIR --config.init_from=PREFINETUNED

PAIRS have `negative` texts: your own, or those that `mine` found. Batches are
smaller than in pre-finetuning, as in the paper, which publishes no sizes: the
values below are ours.
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
  config = sibling(__file__, "prefinetune").get_config(arg)
  name = parse_arg(arg, preset="laptop", data="")["preset"]
  steps, batch_size, lr, warmup_steps = SIZES[name]
  config.stage = "finetune"
  config.steps = steps
  config.batch_size = batch_size
  config.negatives = 1  # of a query, at most
  config.every_checkpoint = min(max(steps // 4, 1), 500)
  config.optimizer.lr = lr
  config.optimizer.warmup_steps = warmup_steps
  return config
