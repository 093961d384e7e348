"""Read a GGUF file's keys, and its tensors with one in memory at a time.

The format (github.com/ggml-org/ggml, docs/gguf.md): magic, version, counts;
keys with typed values; for each tensor its name, dimensions (innermost first),
type and offset; the tensors' bytes. What the header claims is checked against
the size of the file before anything of that size is read. The gguf package's
own reader maps the file, whose pages would count as memory of the process, and
keeps an object for each part of each token.
"""

import math
import pathlib
import re
from collections.abc import Callable, Iterator, Mapping
from typing import Any, BinaryIO, NamedTuple

import gguf
import numpy as np

from embeddinggemma.types import BadInput

Type = gguf.GGMLQuantizationType
MAGIC = b"GGUF"
# Keys of ours, which llama.cpp ignores.
PROMPTS = "embeddinggemma.prompts"
CUTS = "embeddinggemma.cuts"
_VERSIONS = (2, 3)
_ALIGNMENT = "general.alignment"
_SPLIT = re.compile(r"-\d{5}-of-(\d{5})\.gguf$")
_MOST_DIMS = 4  # of ggml
_AT_ONCE = 2**22  # elements that are unpacked together
_NUMBERS = {  # by gguf_metadata_value_type
  0: "<u1",
  1: "<i1",
  2: "<u2",
  3: "<i2",
  4: "<u4",
  5: "<i4",
  6: "<f4",
  7: "?",
  10: "<u8",
  11: "<i8",
  12: "<f8",
}
_STRING, _ARRAY = 8, 9
# The least bytes of an entry: lengths, types and counts around empty names.
_LEAST_KEY, _LEAST_TENSOR = 13, 24


class Tensor(NamedTuple):
  """The place and type of a tensor in a file."""

  path: pathlib.Path
  type: Type
  shape: tuple[int, ...]  # outermost dimension first, as in NumPy
  start: int  # byte in the file

  @property
  def nbytes(self) -> int:
    """Its size in the file, in bytes."""
    block, size = gguf.GGML_QUANT_SIZES[self.type]
    return math.prod(self.shape) // block * size


class File(NamedTuple):
  """The header of a file."""

  path: pathlib.Path
  keys: Mapping[str, Any]  # text, numbers, lists of text, arrays of numbers
  tensors: Mapping[str, Tensor]


def is_file(path: pathlib.Path) -> bool:
  """Whether a path is a GGUF file, by its suffix or its first bytes.

  Ollama's files have a digest as their name.
  """
  if not path.is_file():
    return False
  if path.suffix == ".gguf":
    return True
  with path.open("rb") as file:
    return file.read(len(MAGIC)) == MAGIC


def read_header(path: pathlib.Path) -> File:
  """Read all but the tensors' bytes, checked against the size of the file.

  Raises:
    BadInput: it is no GGUF file, of another version or byte order, one part of
      a split file, truncated or corrupt.
  """
  with path.open("rb") as file:
    size = path.stat().st_size
    head = _Head(path, file, size)
    tensors, keys = _counts(head)
    said = dict(_distinct(head, keys, _key, "key"))
    placed = dict(_distinct(head, tensors, _tensor, "tensor"))
    data = _aligned(file.tell(), _alignment(path, said))
  _check_whole(path, said)
  found = {n: t._replace(start=data + t.start) for n, t in placed.items()}
  _check_places(path, found, data, size)
  return File(path, said, found)


class _Head:
  """Reads a header sequentially; raises BadInput where it ends too early."""

  def __init__(self, path: pathlib.Path, file: BinaryIO, size: int) -> None:
    self.path, self._file, self.size = path, file, size

  @property
  def left(self) -> int:
    """The number of bytes up to the end of the file."""
    return self.size - self._file.tell()

  def bytes(self, count: int) -> bytes:
    """The next `count` bytes."""
    if count > self.left:
      least = self._file.tell() + count
      raise self.corrupt(
        f"it has {self.size} bytes, and its header asks for {least} at the least"
      )
    return self._file.read(count)

  def number(self, kind: int) -> Any:
    """The next number, of a type of the format."""
    return self.numbers(kind, 1)[0].item()

  def numbers(self, kind: int, count: int) -> np.ndarray:
    """The next `count` numbers of a type."""
    dtype = np.dtype(_NUMBERS[kind])
    return np.frombuffer(self.bytes(count * dtype.itemsize), dtype)

  def whole(self, bits: int = 64) -> int:
    """The next unsigned integer."""
    return self.number(10 if bits == 64 else 4)

  def text(self) -> str:
    """The next string, whose length precedes it."""
    raw = self.bytes(self.whole())
    try:
      return raw.decode()
    except UnicodeDecodeError:
      raise self.corrupt(f"text that is not UTF-8, {raw[:20]!r}") from None

  def corrupt(self, what: str) -> BadInput:
    """The error for a header that cannot be right."""
    return _corrupt(self.path, what)


def _corrupt(path: pathlib.Path, what: str) -> BadInput:
  return BadInput(f"{path} is cut short or corrupt: {what}; download it again")


def _counts(head: _Head) -> tuple[int, int]:
  """The numbers of tensors and of keys."""
  magic = head.bytes(len(MAGIC)) if head.left >= len(MAGIC) else b""
  if magic == b"vers" and head.bytes(4) == b"ion ":
    raise BadInput(f"{head.path} is a Git LFS pointer; fetch the file itself")
  if magic != MAGIC:
    raise BadInput(
      f"{head.path} is not a GGUF file: it begins with {magic!r}, not {MAGIC!r}"
    )
  version = head.whole(32)
  if version not in _VERSIONS:
    known = " and ".join(map(str, _VERSIONS))
    if not version & 0xFFFF:  # small numbers, the other way round
      raise BadInput(
        f"{head.path} is big-endian; only little-endian files can be read:"
        " convert it with gguf_convert_endian.py of llama.cpp"
      )
    raise BadInput(
      f"{head.path} is GGUF version {version}; {known} can be read: convert the"
      " model anew with a current llama.cpp"
    )
  tensors, keys = head.whole(), head.whole()
  for count, least, what in (
    (keys, _LEAST_KEY, "keys"),
    (tensors, _LEAST_TENSOR, "tensors"),
  ):
    if count * least > head.left:
      raise head.corrupt(f"{count} {what} in a file of {head.size} bytes")
  return tensors, keys


def _distinct(
  head: _Head,
  count: int,
  read: Callable[[_Head], tuple[str, Any]],
  what: str,
) -> Iterator[tuple[str, Any]]:
  """`count` named things, in order.

  Raises BadInput for a name that occurs twice or has control characters.
  """
  known: set[str] = set()
  for _ in range(count):
    name, value = read(head)
    if name in known or not name.isprintable():
      more = "twice" if name in known else "with control characters"
      raise head.corrupt(f"the {what} {name!r} {more}")
    known.add(name)
    yield name, value


def _key(head: _Head) -> tuple[str, Any]:
  name = head.text()
  return name, _value(head, name, head.whole(32))


def _value(head: _Head, name: str, kind: int) -> Any:
  if kind == _STRING:
    return head.text()
  if kind in _NUMBERS:
    return head.number(kind)
  if kind != _ARRAY:
    raise head.corrupt(f"the key {name!r} is of type {kind}")
  kind, count = head.whole(32), head.whole()
  if kind in _NUMBERS:
    return head.numbers(kind, count)
  if kind != _STRING:
    raise head.corrupt(f"the key {name!r} is a list of type {kind}")
  if 8 * count > head.left:
    raise head.corrupt(f"the key {name!r} is a list of {count} texts")
  return [head.text() for _ in range(count)]


def _tensor(head: _Head) -> tuple[str, Tensor]:
  """A tensor's name and place, relative to the start of the tensors' bytes."""
  name, count = head.text(), head.whole(32)
  if not 0 < count <= _MOST_DIMS:
    raise head.corrupt(f"tensor {name!r} has {count} dimensions")
  dims = [int(n) for n in head.numbers(10, count)]
  number, start = head.whole(32), head.whole()
  try:
    kind = Type(number)
  except ValueError:
    raise BadInput(
      f"{head.path}: tensor {name!r} is of type number {number}, which the"
      f" installed gguf package does not know; known: {', '.join(_unpackable())}"
    ) from None
  found = Tensor(head.path, kind, tuple(reversed(dims)), start)
  if dims[0] % gguf.GGML_QUANT_SIZES[kind][0]:
    raise head.corrupt(f"tensor {name!r}, {kind.name} of shape {found.shape}")
  return name, found


def _alignment(path: pathlib.Path, keys: Mapping[str, Any]) -> int:
  value = keys.get(_ALIGNMENT, gguf.GGUF_DEFAULT_ALIGNMENT)
  if type(value) is not int or value < 1 or value & (value - 1):
    raise BadInput(f"{path}: {_ALIGNMENT}={value!r} is not a power of two")
  return value


def _aligned(at: int, alignment: int) -> int:
  return -(-at // alignment) * alignment


def _check_whole(path: pathlib.Path, keys: Mapping[str, Any]) -> None:
  """Raise BadInput for one part of a split model."""
  named = _SPLIT.search(path.name)
  parts = keys.get("split.count") or (int(named[1]) if named else 0)
  if parts > 1:
    raise BadInput(
      f"{path} is one of {parts} parts of a model; join them with"
      " `llama-gguf-split --merge` and give the whole file"
    )


def _check_places(
  path: pathlib.Path, found: Mapping[str, Tensor], data: int, size: int
) -> None:
  """Raise BadInput if tensors overlap or reach beyond the file."""
  end = data
  for name, tensor in sorted(found.items(), key=lambda item: item[1].start):
    if tensor.start < end:
      raise _corrupt(path, f"tensor {name!r} lies over what is before it")
    end = tensor.start + tensor.nbytes
  if end > size:
    raise BadInput(
      f"{path} is cut short: it has {size} of {end} bytes; download it again"
    )


def unpacks(kind: Type) -> bool:
  """Whether the installed gguf package can dequantise a type."""
  block = np.zeros((1, gguf.GGML_QUANT_SIZES[kind][1]), np.uint8)
  try:
    gguf.dequantize(block, kind)
  except NotImplementedError:
    return False
  return True


def _unpackable() -> list[str]:
  return [kind.name for kind in Type if unpacks(kind)]


def require_unpackable(name: str, tensor: Tensor) -> None:
  """Raise BadInput for a tensor whose type cannot be dequantised."""
  if not unpacks(tensor.type):
    raise BadInput(
      f"{tensor.path}: tensor {name!r} is {tensor.type.name}, which cannot be"
      f" unpacked; what can: {', '.join(_unpackable())}"
    )


def same(a: Tensor, b: Tensor) -> bool:
  """Whether two tensors of one file have the same type and bytes."""
  if a[1:3] != b[1:3]:
    return False
  with a.path.open("rb") as file:
    for start in range(0, a.nbytes, _AT_ONCE):
      few, parts = min(_AT_ONCE, a.nbytes - start), []
      for tensor in (a, b):
        file.seek(tensor.start + start)
        parts.append(file.read(few))
      if parts[0] != parts[1]:
        return False
  return True


def read(tensor: Tensor) -> np.ndarray:
  """The tensor in float32, dequantised."""
  block, size = gguf.GGML_QUANT_SIZES[tensor.type]
  columns = tensor.shape[-1]
  rows = math.prod(tensor.shape[:-1])
  width = columns // block * size
  found = np.empty((rows, columns), np.float32)
  step = max(1, _AT_ONCE // columns)
  with tensor.path.open("rb") as file:
    file.seek(tensor.start)
    for start in range(0, rows, step):
      few = found[start : start + step]
      raw = np.fromfile(file, np.uint8, len(few) * width)
      if raw.size < len(few) * width:
        raise BadInput(f"{tensor.path} became shorter while it was read")
      few[:] = gguf.dequantize(raw.reshape(len(few), width), tensor.type)
  return found.reshape(tensor.shape)
