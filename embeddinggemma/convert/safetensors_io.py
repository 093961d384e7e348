"""Read and write safetensors files with one tensor in memory at a time.

A file is 8 bytes of length, a JSON header, and the tensors' bytes. The header
is checked against the size of the file before any tensor is read. Tensors are
read from the file and not through a memory map, whose pages would count as
memory of the process.
"""

import json
import math
import os
import pathlib
from collections.abc import Iterator, Mapping
from types import TracebackType
from typing import Any, BinaryIO, NamedTuple

import ml_dtypes
import numpy as np

from embeddinggemma.convert import folder as folders
from embeddinggemma.types import BadInput

WEIGHTS = "model.safetensors"
INDEX = "model.safetensors.index.json"
DTYPES = {
  "F32": np.dtype("<f4"),
  "F16": np.dtype("<f2"),
  "BF16": np.dtype(ml_dtypes.bfloat16),
}
NAMES = {"float32": "F32", "bfloat16": "BF16"}  # that are written
_PICKLES = (".bin", ".pt", ".pth", ".ckpt", ".pkl", ".pickle")
_LONGEST_HEADER = 100_000_000  # of the format's own reader
_BLOCK = 2**22  # elements that are converted at once
_ALIGNMENT = 64  # bytes


class Tensor(NamedTuple):
  """The place and type of a tensor in a file."""

  path: pathlib.Path
  dtype: np.dtype
  shape: tuple[int, ...]
  start: int  # byte in the file


def open_folder(folder: pathlib.Path) -> dict[str, Tensor]:
  """Every tensor of a folder by name, in one file or in shards.

  Raises:
    BadInput: there are only pickles, which could run any code; a file is
      truncated or corrupt; a shard is missing, lies outside the folder, or
      lacks a tensor that the index names.
  """
  if folders.has(folder, WEIGHTS):
    return open_file(folders.inside(folder, WEIGHTS))
  if folders.has(folder, INDEX):
    return _open_shards(folder)
  pickles = [p.name for p in sorted(folder.iterdir()) if is_pickle(p)]
  if pickles:
    raise refusal(folder / pickles[0])
  raise BadInput(f"{folder} holds neither {WEIGHTS} nor {INDEX}")


def is_pickle(path: pathlib.Path) -> bool:
  """Whether a file of weights, by its name, could only be unpickled."""
  return path.suffix in _PICKLES and path.is_file()


def refusal(path: pathlib.Path) -> BadInput:
  """The error for a folder whose weights are a pickle."""
  return BadInput(
    f"{path} is a pickle, which can run any code when it is opened; it is"
    " refused: give weights as safetensors (save_pretrained writes them)"
  )


def _open_shards(folder: pathlib.Path) -> dict[str, Tensor]:
  place = folder / INDEX
  shards = folders.read_json(folder, INDEX).get("weight_map")
  if not isinstance(shards, dict) or not all(
    isinstance(name, str) for name in shards.values()
  ):
    raise BadInput(f"{place} has no weight_map of tensors to files")
  found: dict[str, Tensor] = {}
  for name in sorted(set(shards.values())):
    path = folders.inside(folder, name)
    if is_pickle(path):
      raise refusal(path)
    if not path.is_file():
      raise BadInput(
        f"shard {path} is missing; {INDEX} names it: download it again"
      )
    tensors = open_file(path)
    for tensor in (t for t, shard in shards.items() if shard == name):
      if tensor not in tensors:
        raise BadInput(
          f"shard {path} lacks the tensor {tensor!r} that {INDEX} names;"
          " download it again"
        )
    found |= tensors
  return found


def open_file(path: pathlib.Path) -> dict[str, Tensor]:
  """The tensors of one file, after a check of its whole header."""
  size = path.stat().st_size
  with path.open("rb") as file:
    start = file.read(8)
    length = int.from_bytes(start, "little")
    if start == b"version ":
      raise BadInput(f"{path} is a Git LFS pointer; fetch the file itself")
    if len(start) < 8 or length > _LONGEST_HEADER:
      raise BadInput(f"{path} is not a safetensors file")
    if 8 + length > size:
      raise _truncated(path, size, 8 + length)
    try:
      header = json.loads(file.read(length))
      entries = {k: v for k, v in header.items() if k != "__metadata__"}
      found = {k: _entry(path, 8 + length, v) for k, v in entries.items()}
    except (ValueError, KeyError, TypeError, AttributeError) as error:
      raise BadInput(
        f"{path} has a corrupt header ({error}); download it again"
      ) from None
  _check_places(path, found, 8 + length, size)
  return found


def _entry(path: pathlib.Path, data: int, entry: Any) -> Tensor:
  begin, end = entry["data_offsets"]
  kind, shape = entry["dtype"], tuple(entry["shape"])
  if kind not in DTYPES:
    raise BadInput(
      f"{path}: a tensor is of type {kind}; {', '.join(DTYPES)} can be read:"
      " save the weights in one of them"
    )
  if any(type(n) is not int or n < 0 for n in (*shape, begin, end)):
    raise ValueError("a shape or an offset that is no whole number")
  if end - begin != math.prod(shape) * DTYPES[kind].itemsize:
    raise ValueError(f"{end - begin} bytes for {kind} of shape {shape}")
  return Tensor(path, DTYPES[kind], shape, data + begin)


def _check_places(
  path: pathlib.Path, found: Mapping[str, Tensor], data: int, size: int
) -> None:
  """Raise BadInput unless tensors follow each other without gap to the end."""
  for name, tensor in sorted(found.items(), key=lambda item: item[1].start):
    if tensor.start != data:
      raise BadInput(
        f"{path} has a corrupt header (tensor {name!r} begins at byte"
        f" {tensor.start}, not {data}); download it again"
      )
    data += nbytes(tensor)
  if data > size:
    raise _truncated(path, size, data)
  if data < size:
    raise BadInput(
      f"{path} has {size - data} bytes that no tensor takes; it is corrupt:"
      " download it again"
    )


def _truncated(path: pathlib.Path, size: int, wanted: int) -> BadInput:
  return BadInput(
    f"{path} is truncated: it has {size} of {wanted} bytes; download it again"
  )


def said(found: Mapping[str, Tensor]) -> str:
  """How many tensors of which type, for people: "314 tensors in bfloat16"."""
  count = len(found)
  return f"{count} tensor{'s'[: count != 1]} in {types(found)}"


def types(found: Mapping[str, Tensor]) -> str:
  """The types of tensors, for people: "bfloat16", "float16 and float32"."""
  return " and ".join(sorted({str(t.dtype) for t in found.values()}))


def files(found: Mapping[str, Tensor]) -> dict[str, dict[str, Tensor]]:
  """The tensors by the name of the file that holds them."""
  by_file: dict[str, dict[str, Tensor]] = {}
  for name, tensor in found.items():
    by_file.setdefault(tensor.path.name, {})[name] = tensor
  return by_file


def nbytes(tensor: Tensor) -> int:
  """The size of a tensor in the file, in bytes."""
  return math.prod(tensor.shape) * tensor.dtype.itemsize


def read(tensor: Tensor) -> np.ndarray:
  """The tensor in float32, which holds every value of the types read here."""
  flat, done = _aligned(math.prod(tensor.shape)), 0
  for block in _blocks(tensor):
    flat[done : done + block.size] = block
    done += block.size
  return flat.reshape(tensor.shape)


def _aligned(size: int) -> np.ndarray:
  """Uninitialised memory, aligned so that JAX uses it without a copy.

  On CPUs, JAX shares NumPy's memory if its start is aligned.
  """
  space = np.empty(4 * size + _ALIGNMENT, np.uint8)
  start = -space.ctypes.data % _ALIGNMENT
  return space[start : start + 4 * size].view(np.float32)


def same(a: Tensor, b: Tensor) -> bool:
  """Whether two tensors hold the same values."""
  return a.shape == b.shape and all(
    np.array_equal(x, y) for x, y in zip(_blocks(a), _blocks(b), strict=True)
  )


def _blocks(tensor: Tensor) -> Iterator[np.ndarray]:
  """A tensor's values in order, in blocks, in the file's type."""
  left = math.prod(tensor.shape)
  with tensor.path.open("rb") as file:
    file.seek(tensor.start)
    while left:
      count = min(left, _BLOCK)
      block = np.fromfile(file, tensor.dtype, count)
      if block.size < count:
        raise BadInput(f"{tensor.path} became shorter while it was read")
      left -= count
      yield block


class Writer:
  """Writes a file tensor by tensor; only a complete file gets its name.

  It is a context manager. Every tensor of `shapes` is added once, in order.
  """

  def __init__(
    self,
    path: pathlib.Path,
    shapes: Mapping[str, tuple[int, ...]],
    dtype: str,
  ) -> None:
    """`dtype` is float32, or bfloat16, to which values are rounded."""
    self._path, self._left = path, list(shapes)
    self._dtype = DTYPES[NAMES[dtype]]
    self._header = _header(shapes, NAMES[dtype])
    self._shapes = shapes
    self._partial = path.with_name(f"{path.name}.partial")

  def __enter__(self) -> "Writer":
    # Opened plainly, so that its mode is what the umask says.
    self._file: BinaryIO = self._partial.open("wb")
    self._file.write(self._header)
    return self

  def add(self, name: str, array: np.ndarray) -> None:
    """Write the next tensor, which must be the one of this name."""
    assert name == self._left.pop(0) and array.shape == self._shapes[name]
    flat = array.reshape(-1)
    for start in range(0, flat.size, _BLOCK):
      block = flat[start : start + _BLOCK].astype(self._dtype)
      self._file.write(block.view(np.uint8).data)

  def __exit__(
    self,
    kind: type[BaseException] | None,
    error: BaseException | None,
    trace: TracebackType | None,
  ) -> None:
    with self._file:
      if kind is None:
        self._file.flush()
        os.fsync(self._file.fileno())
    if kind is not None:
      self._partial.unlink()
      return
    assert not self._left, f"not written: {self._left}"
    self._partial.replace(self._path)


def _header(shapes: Mapping[str, tuple[int, ...]], kind: str) -> bytes:
  """The JSON header, padded to 8 bytes so that the tensors are aligned."""
  tree: dict[str, Any] = {"__metadata__": {"format": "pt"}}
  end = 0
  for name, shape in shapes.items():
    begin, end = end, end + math.prod(shape) * DTYPES[kind].itemsize
    tree[name] = {
      "dtype": kind,
      "shape": list(shape),
      "data_offsets": [begin, end],
    }
  text = json.dumps(tree, separators=(",", ":")).encode()
  text += b" " * (-len(text) % 8)
  return len(text).to_bytes(8, "little") + text
