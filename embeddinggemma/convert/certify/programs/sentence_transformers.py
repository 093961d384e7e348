"""A program: vectors of a folder from sentence-transformers.

Its arguments are the paths of the request and of the reply.
"""

import json
import pathlib
import sys
from importlib.metadata import version
from typing import Any

_PACKAGES = ("sentence-transformers", "transformers", "torch")
_BATCH = 8  # texts of different lengths are padded together


def main(request: str, reply: str) -> None:
  """Answer a request: texts in padded batches, rows of ids one by one."""
  import numpy as np
  import sentence_transformers  # pyrefly: ignore[missing-import]
  import torch  # pyrefly: ignore[missing-import]

  asked = json.loads(pathlib.Path(request).read_text())
  model = sentence_transformers.SentenceTransformer(
    asked["artefact"], device="cpu"
  )
  items = asked["items"]
  texts = [n for n, item in enumerate(items) if isinstance(item, str)]
  found: dict[int, Any] = {}
  encoded = model.encode([items[n] for n in texts], batch_size=_BATCH)
  found.update(zip(texts, np.asarray(encoded, np.float32).tolist()))
  for n in sorted(set(range(len(items))) - set(texts)):
    ids = torch.tensor([items[n]])
    given = {"input_ids": ids, "attention_mask": torch.ones_like(ids)}
    with torch.no_grad():
      vector = model(given)["sentence_embedding"][0]
    found[n] = vector.float().tolist()
  tree = {
    "vectors": [found[n] for n in range(len(items))],
    "versions": {name: version(name) for name in _PACKAGES},
  }
  pathlib.Path(reply).write_text(json.dumps(tree))


if __name__ == "__main__":
  main(*sys.argv[1:])
