"""A model's tensors as a GGUF file stores them: names, types, bytes.

Matrices are (out, in), as in transformers. Integers of a grid are packed as
they are, four or eight bits of each with a float16 scale every 32 (ggml's
Q4_0: scale and 16 bytes, of which byte i holds weights i and i + 16, each plus
8; Q8_0: scale and 32 bytes); a channel's one scale is repeated in its blocks.
"""

import math
from collections.abc import Iterator
from typing import NamedTuple

import gguf
import ml_dtypes
import numpy as np

from embeddinggemma import quantize
from embeddinggemma.checkpoint import Name
from embeddinggemma.convert import hugging_face, names
from embeddinggemma.convert.exporting import BFLOAT16, Job
from embeddinggemma.convert.tensors import Shape
from embeddinggemma.grids import BLOCK
from embeddinggemma.model.config import GLOBAL, LOCAL, ModelConfig
from embeddinggemma.types import BadInput

Type = gguf.GGMLQuantizationType
ARCHITECTURE = gguf.MODEL_ARCH.GEMMA_EMBEDDING
UP, DOWN = "dense_2", "dense_3"
_DENSE: dict[Name, str] = {
  ("up",): f"{UP}.weight",
  ("down",): f"{DOWN}.weight",
}
_INTEGERS = {4: Type.Q4_0, 8: Type.Q8_0}  # by bits of a grid
_PIECE = 2**22  # elements of a table that are packed at once
_LAYER = "layer_{}".format


class Stored(NamedTuple):
  """How the file has a tensor."""

  name: str
  shape: Shape
  type: Type

  @property
  def nbytes(self) -> int:
    """Bytes of its data."""
    block, size = gguf.GGML_QUANT_SIZES[self.type]
    return math.prod(self.shape) // block * size


class Rounded(NamedTuple):
  """Scales that float16 does not hold, since they are too small."""

  scales: int = 0
  most: float = 0.0  # by how much a weight differs for it

  def plus(self, other: "Rounded") -> "Rounded":
    """Both together."""
    return Rounded(self.scales + other.scales, max(self.most, other.most))


def layer_kinds(config: ModelConfig) -> list[str]:
  """LOCAL or GLOBAL of every layer of the file.

  llama.cpp makes a mask for each kind, and aborts when no layer reads one of
  them. So a model of one kind gets a layer of the other, which adds nothing:
  all its tensors are zero, and with them what its last norms give.
  """
  kinds = hugging_face.layer_kinds(config)
  return kinds + [kind for kind in (LOCAL, GLOBAL) if kind not in kinds]


def stored(job: Job) -> dict[Name, Stored]:
  """The file's tensors by our names, in the order in which they are written.

  Raises BadInput where blocks do not divide an input.
  """
  config, kinds = job.config, layer_kinds(job.config)
  theirs = gguf.get_tensor_name_map(ARCHITECTURE, len(kinds))
  found = {
    name: _stored(job, theirs, name, shape.shape)
    for name, shape in job.shapes.items()
  }
  for name in list(found) if len(kinds) > config.num_layers else ():
    if name[1:2] == (_LAYER(0),):
      more = (name[0], _LAYER(config.num_layers), *name[2:])
      found[more] = _stored(job, theirs, more, job.shapes[name].shape)
  return found


def _stored(
  job: Job, theirs: gguf.TensorNameMap, name: Name, shape: Shape
) -> Stored:
  size = names.exported_shape(name, shape)
  if job.packs and len(size) > 1 and size[-1] % BLOCK:
    raise BadInput(
      f"{job.directory}: parameter {'/'.join(name)!r} of shape {shape} has an"
      f" input of {size[-1]}, which the blocks of {BLOCK} of --dtype={job.dtype}"
      " do not divide; use --dtype=float32 or other sizes"
    )
  label = _DENSE.get(name) or theirs.get_name(
    f"model.{names.theirs(name[1:], names.GEMMA3)}", (".weight",)
  )
  if label is None:
    raise BadInput(f"{job.directory}: GGUF has no place for {'/'.join(name)!r}")
  return Stored(label, size, _type(job, name, shape))


def _type(job: Job, name: Name, shape: Shape) -> Type:
  if len(shape) == 1:
    return Type.F32
  if job.packs:
    grid = quantize.grid_of("/".join(name), shape, job.precision)
    return _INTEGERS[grid.bits] if grid else Type.F32
  return Type.BF16 if job.dtype == BFLOAT16 else Type.F32


def is_silent(job: Job, name: Name) -> bool:
  """Whether a tensor belongs to the layer that adds nothing."""
  return name[1:2] == (_LAYER(job.config.num_layers),)


def data(job: Job, name: Name, array: np.ndarray) -> tuple[np.ndarray, Rounded]:
  """What the file has of a tensor of ours, and what is not exact of it.

  Of a packed one bytes, of another its values. Norms are w of (1 + w) for us,
  and their sum there.
  """
  if len(array.shape) == 1:
    return array.astype(np.float32) + np.float32(1), Rounded()
  if job.packs:
    return _packed(job, "/".join(name), array)
  found = names.export(name, array)
  if job.dtype == BFLOAT16:
    halves = np.empty(found.shape, np.uint16)
    for part in _parts(found):
      halves[part] = found[part].astype(ml_dtypes.bfloat16).view(np.uint16)
    return halves, Rounded()
  return np.ascontiguousarray(found, np.float32), Rounded()


def _parts(array: np.ndarray) -> Iterator[slice]:
  """Slices of rows, so that what is computed from them is not large."""
  step = max(1, _PIECE // math.prod(array.shape[1:]))
  return (slice(n, n + step) for n in range(0, len(array), step))


def _packed(
  job: Job, path: str, array: np.ndarray
) -> tuple[np.ndarray, Rounded]:
  """A weight's integers as blocks: rows of bytes."""
  part = quantize.part_of(path, array.shape)
  # Rows of the table are channels: it can be packed piece by piece.
  by_rows = part is not None and not part.inputs
  slices = list(_parts(array)) if by_rows else [slice(None)]
  rows, rounded = [], Rounded()
  for piece in slices:
    found = quantize.packed(path, array[piece], job.precision)
    assert found is not None, path  # only what has a grid has a packed type
    scale, lost = _half(job, found)
    rows.append(_blocks(found.q, scale, found.grid.bits))
    rounded = rounded.plus(lost)
  return np.concatenate(rows), rounded


def _half(job: Job, found: quantize.Packed) -> tuple[np.ndarray, Rounded]:
  """A scale for each block, in float16; BadInput for one that is too large.

  bfloat16 has fewer digits, but smaller numbers: below 2^-17 float16 may lack
  one. Its nearest number is taken then, and counted.
  """
  with np.errstate(over="ignore"):
    half = found.scale.astype(np.float16)
  if not np.isfinite(half).all():
    raise BadInput(
      f"{job.directory}: parameter {found.path!r} has a scale of"
      f" {np.abs(found.scale).max():g}, which float16 does not hold; use"
      " --dtype=float32"
    )
  off = np.abs(half.astype(np.float32) - found.scale)
  most = float(off.max()) * -found.grid.lowest
  blocks = found.q.shape[-1] // BLOCK
  times = blocks // half.shape[-1]
  return np.repeat(half, times, axis=-1), Rounded(
    int(np.count_nonzero(off)) * times, most
  )


def _blocks(q: np.ndarray, scale: np.ndarray, bits: int) -> np.ndarray:
  """Blocks of ggml: (out, bytes) of integers (out, in), scales (out, blocks)."""
  blocks = q.reshape(*scale.shape, BLOCK)
  if bits == 4:
    high = (blocks + np.int8(8)).astype(np.uint8)
    blocks = high[..., : BLOCK // 2] | high[..., BLOCK // 2 :] << np.uint8(4)
  found = [scale[..., None].view(np.uint8), blocks.view(np.uint8)]
  return np.concatenate(found, axis=-1).reshape(len(q), -1)
