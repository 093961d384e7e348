"""Hard negatives (paper section 2.2; Gecko, NV-Retriever, Qwen3 Embedding).

  embeddinggemma mine --config=configs/mine.py --data=PAIRS --model=MODEL \
    --output=DIR
  embeddinggemma train --config=configs/finetune.py:laptop,data=DIR ...
"""

from ml_collections import ConfigDict
from ml_collections.config_dict import placeholder


def get_config(arg: str | None = None) -> ConfigDict:
  del arg
  config = ConfigDict()
  config.search = "dense"  # or BM25 over "plain" or "stemmed" words
  config.negatives = 1  # per query, at most
  config.top_k = 20  # neighbours that are looked at
  config.choose = "lowest"  # of those that are left, as in Gecko; or "random"
  # A candidate that scores above the positive + margin, or above ratio * the
  # positive, may be an answer and is dropped. None leaves a rule out.
  config.margin = placeholder(float)
  config.ratio = 0.95
  # Texts are near-duplicates above this cosine, or this Jaccard similarity of
  # their words. 2 or None: never.
  config.near_cosine = 0.95
  config.near_words = 0.8
  config.seed = 0
  return config
