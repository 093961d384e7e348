"""The bytes of a file, unpacked; and pyarrow, where it is needed for that."""

import bz2
import gzip
import io
import lzma
import shlex
import zlib
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from embeddinggemma.types import BadInput

PACKED = (".gz", ".zst", ".bz2", ".xz")
_MAGIC = {  # how files begin
  b"\x1f\x8b": ".gz",
  b"BZh": ".bz2",
  b"\xfd7zXZ": ".xz",
  b"\x28\xb5\x2f\xfd": ".zst",
}
_OTHER = {
  b"\xff\xfe": "UTF-16",
  b"\xfe\xff": "UTF-16",
  b"PK\x03\x04": "a zip archive or a table of Excel",
  b"PAR1": "Parquet",
}


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

  Raises BadInput if it cannot be read, or begins as what its name denies.
  """
  openers = {
    ".gz": gzip.open,
    ".bz2": bz2.open,
    ".xz": lzma.open,
    ".zst": _zstd,
  }
  try:
    with path.open("rb") as file:
      _check_beginning(path, file.read(8))
    return openers.get(path.suffix.lower(), Path.open)(path, "rb")  # type: ignore
  except OSError as error:
    raise BadInput(f"cannot read {path}: {error.strerror or error}") from None


def _check_beginning(path: Path, begin: bytes) -> None:
  """BadInput, with what to do, for bytes that are not what the name says."""
  known = {**_MAGIC, **_OTHER}
  found = next((known[m] for m in known if begin.startswith(m)), "")
  packed = path.suffix.lower() if is_packed(path) else ""
  if found == packed:
    return
  if found == "UTF-16":
    raise BadInput(
      f"{path}: is UTF-16; make it UTF-8, as in iconv -f UTF-16 -t UTF-8"
      f" {shlex.quote(str(path))} > pairs{path.suffix}"
    )
  if found in PACKED:
    bare = path.with_suffix("") if packed else path
    raise BadInput(f"{path}: is packed; rename it to {bare.name}{found}")
  if found or (packed and begin.isascii() and begin):
    is_text = f"is not packed; rename it to {path.with_suffix('').name}"
    raise BadInput(f"{path}: {f'is {found}' if found else is_text}")


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
