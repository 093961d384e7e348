"""Rows of token ids of many lengths, on disk and not in memory.

The ids lie one after the other in an unnamed temporary file (in TMPDIR), which
is mapped: the operating system keeps in memory what is read often.
"""

import array
import tempfile
from collections.abc import Iterable, Sequence
from typing import SupportsIndex

import numpy as np
from jaxtyping import Int


# A bare Sequence: type checkers at run time read an item of Sequence[Array].
class Ragged(Sequence):
  """Rows of ids; a row is a view of the file."""

  def __init__(
    self, ids: Int[np.ndarray, "_"], ends: Int[np.ndarray, "_"]
  ) -> None:
    self._ids, self._ends = ids, ends

  def __len__(self) -> int:
    return len(self._ends) - 1

  def __getitem__(self, row: SupportsIndex) -> Int[np.ndarray, "_"]:  # type: ignore
    place = range(len(self))[row]
    return self._ids[self._ends[place] : self._ends[place + 1]]

  @property
  def sizes(self) -> Int[np.ndarray, "_"]:
    """The number of ids of each row."""
    return np.diff(self._ends)


# Bare for the same reason.
class Grouped(Sequence):
  """Rows of ids, so many together."""

  def __init__(self, rows: Ragged, size: int) -> None:
    self._rows, self._size = rows, size

  def __len__(self) -> int:
    return len(self._rows) // self._size

  def __getitem__(self, group: SupportsIndex) -> list[Int[np.ndarray, "_"]]:  # type: ignore
    first = range(len(self))[group] * self._size
    return [self._rows[row] for row in range(first, first + self._size)]

  @property
  def sizes(self) -> Int[np.ndarray, "groups size"]:
    """The number of ids of each row of each group."""
    return self._rows.sizes.reshape(-1, self._size)


class Writer:
  """Writes rows of ids one after the other."""

  def __init__(self) -> None:
    self._file = tempfile.TemporaryFile()
    self._ends = array.array("q", [0])

  def extend(self, rows: Iterable[Int[np.ndarray, "_"]]) -> None:
    """Append rows."""
    for row in rows:
      self._file.write(row.astype(np.int32).tobytes())
      self._ends.append(self._ends[-1] + len(row))

  def rows(self) -> Ragged:
    """What was written; nothing can be appended then."""
    self._file.flush()
    ends = np.array(self._ends, np.int64)
    if not ends[-1]:  # nothing can be mapped of an empty file
      return Ragged(np.zeros(0, np.int32), ends)
    mapped = np.memmap(self._file, np.int32, "r", shape=(int(ends[-1]),))
    return Ragged(np.asarray(mapped), ends)
