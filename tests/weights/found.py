"""Which public weights a folder holds: `python found.py FOLDER` says it.

A folder of sentence-transformers with an EmbeddingGemma, and a GGUF file with
a Gemma 3 decoder; each in the folder itself or in one below it.
"""

import json
import pathlib
import struct
import sys
from collections.abc import Iterator
from typing import NamedTuple

VARIABLE = "EMBEDDINGGEMMA_WEIGHTS"
EMBEDDER = "an EmbeddingGemma folder of sentence-transformers"
DECODER = "a Gemma 3 decoder as GGUF"
_ARCHITECTURE = b"general.architecture"
_STRING = 8  # GGUF's number of the type
_HEAD = 4096  # bytes in which every writer has said the architecture


class Found(NamedTuple):
  """What of the weights is there."""

  embedder: pathlib.Path | None
  decoder: pathlib.Path | None


def weights(name: str) -> Found:
  """What a folder holds; ValueError says why it holds nothing of use."""
  folder = pathlib.Path(name)
  if not folder.is_dir():
    raise ValueError(f"{name}: no such folder; give the one of the weights")
  found = Found(
    next(filter(_is_embedder, _folders(folder)), None),
    next((p for p in sorted(folder.rglob("*.gguf")) if _is_decoder(p)), None),
  )
  if not any(found):
    raise ValueError(
      f"{name}: holds neither {EMBEDDER} nor {DECODER}; put one there"
    )
  return found


def _folders(folder: pathlib.Path) -> Iterator[pathlib.Path]:
  yield folder
  yield from (path for path in sorted(folder.rglob("*")) if path.is_dir())


def _is_embedder(folder: pathlib.Path) -> bool:
  files = [folder / name for name in ("modules.json", "config.json")]
  if not all(path.is_file() for path in files):
    return False
  try:
    tree = json.loads(files[1].read_text(encoding="utf-8"))
  except ValueError:
    return False
  return isinstance(tree, dict) and tree.get("model_type") == "gemma3_text"


def _is_decoder(path: pathlib.Path) -> bool:
  """Whether general.architecture is gemma3."""
  with path.open("rb") as file:
    head = file.read(_HEAD)
  place = head.find(_ARCHITECTURE)
  if not head.startswith(b"GGUF") or place < 0:
    return False
  start = place + len(_ARCHITECTURE)
  try:
    kind, size = struct.unpack_from("<IQ", head, start)
  except struct.error:
    return False
  start += struct.calcsize("<IQ")
  return kind == _STRING and head[start : start + size] == b"gemma3"


def main(name: str) -> None:
  """Prints what is there; a folder without any ends with code 2."""
  try:
    found = weights(name)
  except ValueError as error:
    print(f"error: {error}", file=sys.stderr)
    sys.exit(2)
  for what, path in zip((EMBEDDER, DECODER), found):
    print(f"{what}: {path or 'not there; its tests are skipped'}")


if __name__ == "__main__":
  main(*sys.argv[1:])
