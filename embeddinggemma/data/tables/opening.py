"""The bytes of a file, unpacked; and pyarrow, where it is needed for that."""

import bz2
import gzip
import io
import lzma
import zlib
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from embeddinggemma.types import BadInput

PACKED = (".gz", ".zst", ".bz2", ".xz")


def is_packed(path: Path) -> bool:
  """Whether the end of a name says that the file is packed."""
  return path.suffix.lower() in PACKED


def bare_suffix(path: Path) -> str:
  """The end of a name that says the format, without that of a packing."""
  return (path.with_suffix("") if is_packed(path) else path).suffix.lower()


def library() -> Any:
  """pyarrow; BadInput with the line to run if it is not installed."""
  try:
    import pyarrow
  except ImportError:
    raise BadInput(
      "Parquet, Arrow and .zst need pyarrow; pip install pyarrow"
    ) from None
  return pyarrow


def opened(path: Path) -> io.BufferedIOBase:
  """The bytes of a file, unpacked if its name ends in .gz, .zst, .bz2, .xz.

  Raises BadInput if it cannot be read.
  """
  openers = {
    ".gz": gzip.open,
    ".bz2": bz2.open,
    ".xz": lzma.open,
    ".zst": _zstd,
  }
  try:
    return openers.get(path.suffix.lower(), Path.open)(path, "rb")  # type: ignore
  except OSError as error:
    raise BadInput(f"cannot read {path}: {error.strerror or error}") from None


def _zstd(path: Path, mode: str) -> io.BufferedIOBase:
  # pyarrow's reader sees a file that ends too early; zstandard's does not.
  del mode
  packed = library().OSFile(str(path))
  stream = library().CompressedInputStream(packed, "zstd")
  return io.BufferedReader(stream)  # type: ignore


def whole(path: Path, lines: Iterable[Any]) -> Iterator[Any]:
  """What `lines` yields; BadInput with its place if the file is damaged."""
  number = 0
  try:
    for line in lines:
      number += 1
      yield line
  except (EOFError, zlib.error, lzma.LZMAError, OSError) as error:
    reason = str(error).splitlines()[0].rstrip(".") if str(error) else "?"
    raise BadInput(
      f"{path}:{number + 1}: the file is damaged or cut off here ({reason});"
      " get it again"
    ) from None
