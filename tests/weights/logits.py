"""Ids of texts and a decoder's logits of what comes next: WORKDIR ASK REPLY.

ASK is a JSON list of texts; REPLY becomes a .npz of `ids` (n, L), which end
with -1, and `logits` (n, V).
"""

import json
import pathlib
import sys
from collections.abc import Sequence

import jax
import numpy as np

from embeddinggemma import checkpoint, saved
from embeddinggemma.data.tokenizer import Tokenizer
from embeddinggemma.model import decoder

LENGTH = 128  # of every row, so that one program serves all


def of_texts(
  workdir: str, texts: Sequence[str]
) -> tuple[np.ndarray, np.ndarray]:
  """(ids, logits), after BOS and a text without EOS."""
  place = checkpoint.find(workdir)
  files = checkpoint.read_files(place)
  config = saved.model_of(place, files)
  tokenizer = Tokenizer(files["tokenizer.model"])
  rows = [tokenizer.encode(text)[:-1] for text in texts]
  ids = np.full((len(rows), LENGTH), -1, np.int32)
  for row, found in zip(ids, rows):
    row[: len(found)] = found
  params = jax.device_put(checkpoint.read_params(place))
  run = jax.jit(decoder.causal_group(config))
  found = []
  for row in ids:
    # What follows a text does not count: no position sees later ones.
    given = np.maximum(row, 0)[None]
    hidden, table = run(params, given, np.ones_like(given))
    last = np.count_nonzero(row >= 0) - 1
    found.append(np.asarray(table @ hidden[0, last]))
  return ids, np.stack(found)


def main(workdir: str, ask: str, reply: str) -> None:
  """Answers a request."""
  ids, logits = of_texts(workdir, json.loads(pathlib.Path(ask).read_text()))
  np.savez(reply, ids=ids, logits=logits)


if __name__ == "__main__":
  main(*sys.argv[1:])
