"""An encoder that keeps its results, so that no text is encoded twice."""

import hashlib
import tempfile
from collections.abc import Callable, Sequence
from typing import IO

import numpy as np
from jaxtyping import Float

from embeddinggemma.data import truncation
from embeddinggemma.types import TextEncoder

IN_MEMORY = 64 * 2**20  # bytes of vectors that stay in memory

Reader = Callable[[], np.ndarray]  # -> the vectors of a call


class Remembered:
  """An encoder that keeps its results.

  Vectors beyond IN_MEMORY bytes stand in a temporary file, which goes with the
  encoder. Each call counts its texts that were cut, also one whose result was
  kept.
  """

  def __init__(self, encode: TextEncoder) -> None:
    self.encode = encode
    self._known: dict[bytes, tuple[Reader, truncation.Counts]] = {}
    self._room = IN_MEMORY
    self._file: IO[bytes] | None = None

  def __call__(
    self, texts: Sequence[str], prompt_name: str, titles: Sequence[str] = ()
  ) -> Float[np.ndarray, "n M"]:
    """The embeddings of texts, as `encode` gave them at the first call."""
    key = hashlib.blake2b(repr((prompt_name, texts, titles)).encode()).digest()
    if key not in self._known:
      with truncation.counted() as counts:
        vectors = self.encode(texts, prompt_name, titles)
      self._known[key] = self._keep(vectors), counts
    read, counts = self._known[key]
    truncation.report(counts)
    return read()

  def _keep(self, vectors: Float[np.ndarray, "n M"]) -> Reader:
    """Keep vectors; OSError for a full disk."""
    if vectors.nbytes <= self._room:
      self._room -= vectors.nbytes
      return lambda: vectors
    if self._file is None:
      self._file = tempfile.TemporaryFile()
    file, shape, kind = self._file, vectors.shape, vectors.dtype
    start = file.seek(0, 2)
    file.write(np.ascontiguousarray(vectors).data)
    file.flush()

    def read() -> Float[np.ndarray, "n M"]:
      file.seek(start)
      count = int(np.prod(shape))
      return np.fromfile(file, kind, count).reshape(shape)

    return read


def forgetful(encode: TextEncoder) -> TextEncoder:
  """The encoder that keeps nothing, for texts that are too many to keep."""
  return encode.encode if isinstance(encode, Remembered) else encode
