"""An encoder that keeps its results, so that no text is encoded twice."""

import hashlib
from collections.abc import Sequence

import numpy as np
from jaxtyping import Float

from embeddinggemma.data import truncation
from embeddinggemma.types import TextEncoder


class Remembered:
  """An encoder that keeps its results.

  Each call counts its texts that were cut, also one whose result was kept.
  """

  def __init__(self, encode: TextEncoder) -> None:
    self.encode = encode
    self._known: dict[bytes, tuple[np.ndarray, truncation.Counts]] = {}

  def __call__(
    self, texts: Sequence[str], prompt_name: str, titles: Sequence[str] = ()
  ) -> Float[np.ndarray, "n M"]:
    """The embeddings of texts, as `encode` gave them at the first call."""
    key = hashlib.blake2b(repr((prompt_name, texts, titles)).encode()).digest()
    if key not in self._known:
      with truncation.counted() as counts:
        self._known[key] = self.encode(texts, prompt_name, titles), counts
    vectors, counts = self._known[key]
    truncation.report(counts)
    return vectors


def forgetful(encode: TextEncoder) -> TextEncoder:
  """The encoder that keeps nothing, for texts that are too many to keep."""
  return encode.encode if isinstance(encode, Remembered) else encode
