"""Embedded texts on disk, block by block, until an index holds them.

An interrupted indexing continues from them.
"""

import shutil
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from jaxtyping import Float16

from embeddinggemma import cache

ID_BYTES = 16


class Pending:
  """Vectors embedded so far, stored in a folder for one `key`.

  The key is a hash of all that the vectors depend on besides the texts. Blocks
  of other keys are deleted.
  """

  def __init__(self, folder: Path, key: str):
    self._folder = folder / key
    self.vectors: dict[bytes, np.ndarray] = {}
    for path in folder.glob("*"):
      if path != self._folder:
        shutil.rmtree(path, ignore_errors=True)
    self._blocks = 0  # number of the next block
    for path in self._folder.glob("*.npy"):
      self._blocks = max(self._blocks, int(path.stem) + 1)
      try:
        self._hold(np.load(path))
      except (OSError, ValueError, EOFError, LookupError):
        path.unlink()  # cut short by a power loss, say: embedded again

  def add(
    self, ids: Sequence[bytes], vectors: Float16[np.ndarray, "n D"]
  ) -> None:
    """Write a block of vectors to disk, where a kill does not lose it."""
    dim = vectors.shape[1]
    row = np.dtype([("id", "u1", ID_BYTES), ("vector", "f2", dim)])
    block = np.zeros(len(ids), row)
    block["id"] = np.frombuffer(b"".join(ids), np.uint8).reshape(-1, ID_BYTES)
    block["vector"] = vectors
    self._folder.mkdir(parents=True, exist_ok=True)
    cache.write_array(self._folder / f"{self._blocks}.npy", block)
    self._blocks += 1
    self._hold(block)

  def _hold(self, block: np.ndarray) -> None:
    for name, vector in zip(block["id"], block["vector"], strict=True):
      self.vectors[name.tobytes()] = vector
