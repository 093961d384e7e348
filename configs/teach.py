"""A teacher's vectors, for distillation by embedding matching (section 2.2).

  embeddinggemma teach --config=configs/teach.py --data=PAIRS --output=DIR
  embeddinggemma train --config=configs/finetune.py:laptop,data=PAIRS ... \
    --config.teacher=DIR --config.loss.distill=1 --config.loss.teacher_width=512

PAIRS may also hold texts.jsonl, texts without a partner, or be of such alone.
"""

from ml_collections import ConfigDict


def get_config(arg: str | None = None) -> ConfigDict:
  del arg
  config = ConfigDict()
  # tfidf needs no download. Or the path of a checkpoint, or a
  # sentence-transformers model on this machine; those have their own width.
  config.teacher = "tfidf"
  config.width = 512  # of tfidf's vectors
  config.dtype = "float16"  # or "float32"
  config.seed = 0
  return config
