"""How a GGUF file stores a model's tensors: names, types, bytes.

Matrices are (out, in), as in transformers. Integers of a grid are packed as
they are, 4 or 8 bits each, with a float16 scale per 32 (ggml's Q4_0: scale and
16 bytes, of which byte i holds weights i and i + 16, each plus 8; Q8_0: scale
and 32 bytes). A channel's single scale is repeated in its blocks.
"""

import dataclasses
import math
from typing import NamedTuple

import gguf
import ml_dtypes
import numpy as np
from jaxtyping import Float16, Int8, UInt8

from embeddinggemma import quantize
from embeddinggemma.checkpoint import Name
from embeddinggemma.convert import names
from embeddinggemma.convert.tensors import Shape
from embeddinggemma.convert.write.exporting import BFLOAT16, Job
from embeddinggemma.grids import BLOCK
from embeddinggemma.model import identity
from embeddinggemma.model.arithmetic import EXACT, Arithmetic
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
_LAYER = "layer_{}".format


class Stored(NamedTuple):
  """A tensor's name, shape and type in the file."""

  name: str
  shape: Shape
  type: Type

  @property
  def nbytes(self) -> int:
    """Its size in the file, in bytes."""
    block, size = gguf.GGML_QUANT_SIZES[self.type]
    return math.prod(self.shape) // block * size


def layer_kinds(config: ModelConfig) -> list[str]:
  """LOCAL or GLOBAL for every layer of the file.

  llama.cpp makes a mask for each kind, and aborts when no layer uses one of
  them. So a model with one kind gets a layer of the other kind that adds
  nothing: all its tensors are zero, and so are the outputs of its last norms.
  """
  kinds = identity.layer_kinds(config)
  return kinds + [kind for kind in (LOCAL, GLOBAL) if kind not in kinds]


def in_file(config: ModelConfig) -> ModelConfig:
  """The config of the file's model, which may have a layer that adds nothing."""
  kinds = tuple(layer_kinds(config))
  return dataclasses.replace(config, num_layers=len(kinds), pattern=kinds)


def stored(job: Job) -> dict[Name, Stored]:
  """The file's tensors by our names, in the order in which they are written.

  Raises BadInput if an input dimension is no multiple of the block.
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
  if job.packs and name not in job.unpacked:
    found = quantize.place("/".join(name), shape, job.precision)
    return _INTEGERS[found[1].bits] if found else Type.F32
  return Type.BF16 if job.dtype == BFLOAT16 else Type.F32


# A matrix's type -> the type to which llama.cpp rounds its inputs.
_INPUTS = {Type.Q4_0: "q8_0", Type.Q8_0: "q8_0", Type.BF16: "bfloat16"}


def arithmetic(job: Job) -> Arithmetic:
  """How llama.cpp, on a CPU, rounds while it computes with these tensors."""
  inputs = tuple(
    ("/".join(name), _INPUTS[tensor.type])
    for name, tensor in stored(job).items()
    if tensor.type in _INPUTS
  )
  return Arithmetic(inputs, half_gelu=True) if inputs else EXACT


def is_silent(job: Job, name: Name) -> bool:
  """Whether a tensor belongs to the layer that adds nothing."""
  return name[1:2] == (_LAYER(job.config.num_layers),)


def data(job: Job, name: Name, array: np.ndarray) -> np.ndarray:
  """A tensor in the file's form: values, or the bytes of blocks.

  Norms are stored as 1 + w.
  """
  if len(array.shape) == 1:
    return array.astype(np.float32) + np.float32(1)
  if job.packs and name not in job.unpacked:
    found = quantize.packed("/".join(name), array, job.precision)
    assert found is not None, name  # what has no grid has no packed type
    return _blocks(found.q, _half(job, found), found.grid.bits)
  seen = quantize.seen(name, array, job.precision)
  dtype = ml_dtypes.bfloat16 if job.dtype == BFLOAT16 else np.float32
  return np.ascontiguousarray(names.export(name, seen), dtype)


def _half(job: Job, found: quantize.Packed) -> Float16[np.ndarray, "out _"]:
  """The scale of each block in float16.

  Raises BadInput for one that float16 cannot hold: of our grids it holds all
  small scales, but not the largest of bfloat16's range.
  """
  with np.errstate(over="ignore"):
    half = found.scale.astype(np.float16)
  if not np.array_equal(half, found.scale):
    off = found.scale[half != found.scale]
    raise BadInput(
      f"{job.directory}: parameter {found.path!r} has a scale of {off[0]:g},"
      " which float16 does not hold; use --dtype=float32"
    )
  return np.repeat(half, found.q.shape[1] // BLOCK // half.shape[1], axis=1)


def _blocks(
  q: Int8[np.ndarray, "out in"],
  scale: Float16[np.ndarray, "out blocks"],
  bits: int,
) -> UInt8[np.ndarray, "out bytes"]:
  """A matrix of integers as ggml's blocks."""
  blocks = q.reshape(*scale.shape, BLOCK)
  if bits == 4:
    high = (blocks + np.int8(8)).astype(np.uint8)
    blocks = high[..., : BLOCK // 2] | high[..., BLOCK // 2 :] << np.uint8(4)
  found = [scale[..., None].view(np.uint8), blocks.view(np.uint8)]
  return np.concatenate(found, axis=-1).reshape(len(q), -1)
