"""Vectors of a folder from two libraries: WHO FOLDER REQUEST REPLY.

WHO is `ours` or `theirs` (sentence-transformers). REQUEST is a JSON list of
[the prompt's name or null, texts]; REPLY becomes a .npy of all their vectors.
A program, because two models do not fit into the memory of one process.
"""

import json
import pathlib
import sys
from collections.abc import Sequence
from typing import Any

import numpy as np

Asks = Sequence[tuple[str | None, Sequence[str]]]
_BATCH = 8  # texts of different lengths are padded together


def encode(who: str, folder: str, asks: Asks) -> np.ndarray:
  """Vectors (n, M) of all texts, in their order."""
  model = _ours(folder) if who == "ours" else _theirs(folder)
  found = [
    np.asarray(model.encode(list(texts), prompt_name=name, batch_size=_BATCH))
    for name, texts in asks
  ]
  return np.concatenate(found)


def _ours(folder: str) -> Any:
  import embeddinggemma as eg

  return eg.load(folder)


def _theirs(folder: str) -> Any:
  import sentence_transformers

  return sentence_transformers.SentenceTransformer(
    folder, device="cpu", model_kwargs={"dtype": "float32"}
  )


def main(who: str, folder: str, request: str, reply: str) -> None:
  """Answers a request."""
  asks = json.loads(pathlib.Path(request).read_text())
  np.save(reply, encode(who, folder, asks))


if __name__ == "__main__":
  main(*sys.argv[1:])
