"""An encoder whose vectors are kept: a few in memory, the others on disk."""

import hashlib
import tempfile
from collections.abc import Callable, Sequence

import numpy as np
from jaxtyping import Float

from embeddinggemma.data import truncation
from embeddinggemma.types import TextEncoder

IN_MEMORY = 64 * 2**20  # bytes of vectors that stay in memory

Reader = Callable[[], np.ndarray]  # -> the vectors of a call


def remember(encode: TextEncoder) -> TextEncoder:
  """An encoder that keeps its results, so that no text is encoded twice.

  Vectors beyond IN_MEMORY bytes stand in a temporary file, which goes with the
  encoder. Each call counts its texts that were cut, also one whose result was
  kept.
  """
  known: dict[bytes, tuple[Reader, truncation.Counts]] = {}
  store = _Store()

  def remembered(
    texts: Sequence[str], prompt_name: str, titles: Sequence[str] = ()
  ) -> Float[np.ndarray, "n M"]:
    key = hashlib.blake2b(repr((prompt_name, texts, titles)).encode()).digest()
    if key not in known:
      with truncation.counted() as counts:
        vectors = encode(texts, prompt_name, titles)
      known[key] = store.put(vectors), counts
    read, counts = known[key]
    truncation.report(counts)
    return read()

  return remembered


class _Store:
  """Arrays: the first ones in memory, the others in a temporary file."""

  def __init__(self) -> None:
    self._room = IN_MEMORY
    self._file = None

  def put(self, array: Float[np.ndarray, "n M"]) -> Reader:
    """Keep an array; OSError for a full disk."""
    if array.nbytes <= self._room:
      self._room -= array.nbytes
      return lambda: array
    if self._file is None:
      self._file = tempfile.TemporaryFile()
    file, shape, kind = self._file, array.shape, array.dtype
    file.seek(0, 2)
    start = file.tell()
    file.write(np.ascontiguousarray(array).data)
    file.flush()

    def read() -> Float[np.ndarray, "n M"]:
      found = np.empty(shape, kind)
      file.seek(start)
      file.readinto(found.data)
      return found

    return read
