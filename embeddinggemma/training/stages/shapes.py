"""Shapes of batches, for programs that are compiled without data.

They are ShapeDtypeStructs and not arrays, so annotations are Any.
"""

from typing import Any

import jax
import numpy as np

from embeddinggemma.types import Text


def array(shape: tuple[int, ...], dtype: Any) -> Any:
  """The shape and type of an array."""
  return jax.ShapeDtypeStruct(shape, dtype)


def texts(groups: int, count: int, length: int) -> Any:
  """The shape of a Text: in each group `count` rows with one text each."""
  ids = array((groups, count, length), np.int32)
  return Text(ids, ids, array((groups, count), np.bool_))
