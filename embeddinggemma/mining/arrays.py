"""Arrays in a folder that are filled row by row and survive a kill.

The arrays have other names until every row is written, and the JSON file that
describes them comes last: a folder that has it is complete.
"""

import hashlib
import os
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from embeddinggemma import cache

_PROGRESS = "progress.json"

Layout = Mapping[str, tuple[tuple[int, ...], Any]]  # name -> shape, dtype


def complete(
  directory: Path,
  about_name: str,
  inputs: Mapping[str, Any],
  names: Iterable[str],
) -> dict[str, Any]:
  """What the JSON file says of arrays of these inputs that are whole; else {}."""
  about = cache.read_json(directory / about_name)
  there = all((directory / f"{name}.npy").is_file() for name in names)
  if not there or about.get("key") not in cache.keys_of(inputs):
    return {}
  (directory / _PROGRESS).unlink(missing_ok=True)
  return about


class Filling:
  """NAME.npy files in a folder, and the JSON file `about_name` about them.

  Args of the constructor: `inputs` is all that the rows depend on, and arrays
  of other inputs are replaced; `layout` gives each array's shape and dtype.

  Attributes: `about` is the content of the JSON file if the arrays are
  complete, else {}; `done` is the number of rows written so far, which a kill
  does not lose; `key` is the hash of the inputs.
  """

  def __init__(
    self,
    directory: Path,
    about_name: str,
    inputs: Mapping[str, Any],
    layout: Layout,
  ):
    self._directory, self._about_name = directory, about_name
    self._inputs, self.key = inputs, cache.key_of(inputs)
    self.arrays: dict[str, np.ndarray] = {}
    self.done = 0
    self.about = complete(directory, about_name, inputs, layout)
    if self.about:
      return
    directory.mkdir(parents=True, exist_ok=True)
    started = self._started(layout)
    if not started:
      self._clear(layout)
    for name, (shape, dtype) in layout.items():
      place, mode = self._place(name), "r+" if started else "w+"
      self.arrays[name] = np.lib.format.open_memmap(place, mode, dtype, shape)
      _reserve(place)
    self._note()

  def add(self, rows: Mapping[str, np.ndarray]) -> None:
    """Write the next rows of each array that is given."""
    stop = self.done + len(next(iter(rows.values())))
    for name, values in rows.items():
      self.arrays[name][self.done : stop] = values
    self._flush()
    self.done = stop
    self._note()

  def finish(self, about: Mapping[str, Any]) -> dict[str, Any]:
    """Give the arrays their final names; returns what the JSON file holds.

    That is the inputs, their hash `key`, the `hash` of the content, and
    `about`.
    """
    names = sorted(self.arrays)
    self._flush()
    self.arrays = {}
    digest = hashlib.sha256()
    for name in names:
      final = self._directory / f"{name}.npy"
      self._place(name).replace(final)
      with final.open("rb") as file:
        while block := file.read(2**20):
          digest.update(block)
    self.about = {
      **self._inputs,
      "key": self.key,
      "hash": digest.hexdigest(),
      **about,
    }
    cache.write_json(self._directory / self._about_name, self.about)
    (self._directory / _PROGRESS).unlink(missing_ok=True)
    return self.about

  def _started(self, layout: Layout) -> bool:
    progress = cache.read_json(self._directory / _PROGRESS)
    if progress.get("key") != self.key:
      return False
    self.done = progress["done"]
    return all(self._place(name).is_file() for name in layout)

  def _clear(self, layout: Layout) -> None:
    """Delete the arrays, but first the files that say that they have rows.

    A kill in between then never leaves a claim without its rows.
    """
    self.done = 0
    (self._directory / self._about_name).unlink(missing_ok=True)
    (self._directory / _PROGRESS).unlink(missing_ok=True)
    for name in layout:
      (self._directory / f"{name}.npy").unlink(missing_ok=True)

  def _place(self, name: str) -> Path:
    """Where an array is: under its final name, or else its partial one.

    A kill during the last renames leaves some arrays with final names.
    """
    final = self._directory / f"{name}.npy"
    partial = self._directory / f"{name}.npy.partial"
    return final if final.is_file() else partial

  def _flush(self) -> None:
    for array in self.arrays.values():
      if isinstance(array, np.memmap):
        array.flush()

  def _note(self) -> None:
    progress = {"key": self.key, "done": self.done}
    cache.write_json(self._directory / _PROGRESS, progress)


def _reserve(path: Path) -> None:
  """Allocate a file's disk space now.

  Writing to a memory map when the disk is full would kill the process.
  """
  if hasattr(os, "posix_fallocate"):
    with path.open("r+b") as file:
      os.posix_fallocate(file.fileno(), 0, path.stat().st_size)
