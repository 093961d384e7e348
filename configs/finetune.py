"""Finetuning: pairs with hard negatives (paper sections 2.2 and 2.3).

  embeddinggemma train --config=configs/finetune.py:laptop,data=PAIRS \
    --workdir=DIR --config.init_from=PREFINETUNED

PAIRS have `negative` texts: your own, or those that `mine` found. Batches are
smaller than in pre-finetuning, as in the paper, which publishes no sizes: the
values below are ours.
"""

from ml_collections import ConfigDict

from embeddinggemma.config import parse_arg, sibling
from embeddinggemma.presets import preset


def get_config(arg: str | None = None) -> ConfigDict:
  config = sibling(__file__, "prefinetune").get_config(arg)
  name = parse_arg(arg, preset="laptop", data="")["preset"]
  sizes = preset(name).finetune
  config.stage = "finetune"
  config.steps = sizes.steps
  config.batch_size = sizes.batch_size
  config.negatives = 1  # hard negatives per query, at most
  config.every_checkpoint = min(max(sizes.steps // 4, 1), 500)
  config.optimizer.lr = sizes.lr
  config.optimizer.warmup_steps = sizes.warmup_steps
  return config
