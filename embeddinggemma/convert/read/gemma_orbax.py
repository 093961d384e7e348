"""Read Orbax checkpoints in the layout of google-deepmind/gemma.

Tensors have names such as transformer/layer_0/attn/q_einsum. With two Dense
kernels beside the transformer it is an EmbeddingGemma, otherwise a decoder. The
layout has no config: sizes follow from shapes, and all else is Gemma 3's.
"""

import pathlib
import re
from collections.abc import Callable, Mapping
from typing import NamedTuple

import numpy as np

from embeddinggemma import checkpoint
from embeddinggemma.checkpoint import Name
from embeddinggemma.convert import folder as folders
from embeddinggemma.convert import tensors
from embeddinggemma.convert.tensors import WHOLE_FOLDER, Imported, Shape, Source
from embeddinggemma.data.prompts import PROMPTS
from embeddinggemma.model import decoder as decoder_lib
from embeddinggemma.model import embedder
from embeddinggemma.model.config import ModelConfig
from embeddinggemma.types import BadInput

FAMILY = "gemma's Orbax layout"
_TABLE = "embedder/input_embedding"
_WINDOW = 512  # of Gemma 3 at 270M and 1B, and of EmbeddingGemma
# 4B, 12B and 27B divide positions of global layers by 8, which ours does not.
_SCALED_WIDTHS = (2560, 3840, 5376)
_LENGTHS = {"embedder": 2048, "decoder": 32_768}
_OTHER = re.compile(r"SigLiP|vision|/mm_")


class Part(NamedTuple):
  """The source of a tensor of a layer: its name, shape and conversion."""

  name: str  # in their layout, without the /w that some have at the end
  shape: Callable[[ModelConfig], Shape]
  take: Callable[[np.ndarray], np.ndarray]


def _norm(name: str, width: Callable[[ModelConfig], int]) -> Part:
  return Part(f"{name}/scale", lambda c: (width(c),), lambda x: x)


_heads_first = lambda x: x.transpose(1, 0, 2)  # (N, D, H) -> (D, N, H)
_kv = lambda c: (2, c.num_kv_heads, c.width, c.head_dim)
_gating = lambda c: (2, c.mlp_width, c.width)
_LAYER: Mapping[Name, Part] = {
  ("attention", "q"): Part(
    "attn/q_einsum",
    lambda c: (c.num_heads, c.width, c.head_dim),
    _heads_first,
  ),
  ("attention", "k"): Part("attn/kv_einsum", _kv, lambda x: _heads_first(x[0])),
  ("attention", "v"): Part("attn/kv_einsum", _kv, lambda x: _heads_first(x[1])),
  ("attention", "o"): Part(
    "attn/attn_vec_einsum",
    lambda c: (c.num_heads, c.head_dim, c.width),
    lambda x: x,
  ),
  ("attention", "q_norm", "scale"): _norm(
    "attn/_query_norm", lambda c: c.head_dim
  ),
  ("attention", "k_norm", "scale"): _norm(
    "attn/_key_norm", lambda c: c.head_dim
  ),
  ("mlp", "gate"): Part("mlp/gating_einsum", _gating, lambda x: x[0].T),
  ("mlp", "up"): Part("mlp/gating_einsum", _gating, lambda x: x[1].T),
  ("mlp", "down"): Part(
    "mlp/linear", lambda c: (c.mlp_width, c.width), lambda x: x
  ),
  **{
    (ours, "scale"): _norm(theirs, lambda c: c.width)
    for ours, theirs in {
      "pre_attention_norm": "pre_attention_norm",
      "post_attention_norm": "post_attention_norm",
      "pre_mlp_norm": "pre_ffw_norm",
      "post_mlp_norm": "post_ffw_norm",
    }.items()
  },
}


def is_folder(path: pathlib.Path) -> bool:
  """Whether a path is an Orbax checkpoint of a tree of tensors."""
  return checkpoint.is_foreign(path)


def read(folder: pathlib.Path) -> Imported:
  """Read the model of a checkpoint; its tensors stay on disk.

  Raises:
    BadInput: it is not Gemma 3's, or a tensor is missing, unexpected or has a
      shape that does not fit the others.
  """
  found = checkpoint.foreign_shapes(folder)
  paths = {_joined(name): name for name in found}
  shapes = {path: tuple(found[name].shape) for path, name in paths.items()}
  table = next((path for path in shapes if path.endswith(_TABLE)), None)
  if table is None:
    raise BadInput(f"{folder}: tensor {_TABLE!r} is missing; it is no Gemma")
  prefix = table.removesuffix(_TABLE)
  kernels = [
    path
    for path in shapes  # sorted: the first projection comes first
    if path.endswith("/kernel") and not _OTHER.search(path)
  ]
  config = _config(shapes, prefix, kernels, folder)
  side = "encoder" if kernels else "decoder"
  init = embedder.init if kernels else decoder_lib.init_causal
  ours = tensors.shapes_of(init(config))
  sources = {
    name: _source(name, shape, config, prefix, kernels)
    for name, shape in ours.items()
  }
  left_out = tensors.check(
    sources.values(), shapes, folder, lambda n: bool(_OTHER.search(n))
  )

  def read_one(path: str) -> np.ndarray:
    name = paths[path]
    array = checkpoint.foreign_tensors(folder, [name])[name]
    return np.asarray(array, np.float32)

  return Imported(
    config,
    tensors.lazy(sources, ours, read_one),
    folders.tokenizer_model(folder).read_bytes(),
    PROMPTS,
    f"{FAMILY}, {side}",
    left_out=left_out,
    read={WHOLE_FOLDER: "a tree of Orbax"},
    notes=(
      f"the layout holds no config: a window of {_WINDOW}, five local layers to"
      " one global and rotary bases of 1e4 and 1e6 are assumed, as in Gemma 3"
      " up to 1B",
    ),
  )


def _joined(name: Name) -> str:
  """The path of a tensor as text.

  Their keys contain slashes, and some tensors have /w at the end.
  """
  return "/".join(name).removesuffix("/w")


def _config(
  shapes: Mapping[str, Shape],
  prefix: str,
  kernels: list[str],
  folder: pathlib.Path,
) -> ModelConfig:
  """The ModelConfig that follows from the shapes of the first layer."""

  def shape(name: str, rank: int) -> Shape:
    path = f"{prefix}{name}"
    if path not in shapes:
      raise BadInput(f"{folder}: tensor {path!r} is missing")
    if len(shapes[path]) != rank:
      raise BadInput(
        f"{folder}: tensor {path!r} has shape {shapes[path]}; one of {rank}"
        " axes is needed"
      )
    return shapes[path]

  vocab_size, width = shape(_TABLE, 2)
  if width in _SCALED_WIDTHS:
    raise BadInput(
      f"{folder} is a Gemma 3 of width {width}, whose scaled rotary positions"
      " are not supported; up to 1B can be imported"
    )
  heads, _, head_dim = shape("layer_0/attn/q_einsum", 3)
  if len(kernels) not in (0, 2):
    raise BadInput(
      f"{folder} has {len(kernels)} Dense kernels ({', '.join(kernels)});"
      " EmbeddingGemma has two, a decoder none"
    )
  layer = re.compile(re.escape(prefix) + r"layer_(\d+)/")
  numbers = [int(m[1]) for path in shapes if (m := layer.match(path))]
  up = shapes[kernels[0]] if kernels else (width, 4 * width)
  down = shapes[kernels[1]] if kernels else (4 * width, width)
  return ModelConfig(
    vocab_size=vocab_size,
    num_layers=max(numbers) + 1,
    width=width,
    mlp_width=shape("layer_0/mlp/linear", 2)[0],
    num_heads=heads,
    num_kv_heads=shape("layer_0/attn/kv_einsum", 4)[1],
    head_dim=head_dim,
    up_width=up[-1],
    embed_dim=down[-1],
    window=_WINDOW,
    max_length=_LENGTHS["embedder" if kernels else "decoder"],
  )


def _source(
  name: Name,
  shape: Shape,
  config: ModelConfig,
  prefix: str,
  kernels: list[str],
) -> Source:
  same = lambda x: x
  if name in (("up",), ("down",)):
    return Source(kernels[name == ("down",)], shape, same)
  _, *rest = name
  if rest == ["embedding"]:
    return Source(prefix + _TABLE, shape, same)
  if rest == ["final_norm", "scale"]:
    return Source(f"{prefix}final_norm/scale", shape, same)
  part = _LAYER[tuple(rest[1:])]
  return Source(f"{prefix}{rest[0]}/{part.name}", part.shape(config), part.take)
