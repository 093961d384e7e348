"""Read folders of transformers: Gemma 3 decoders, T5Gemma and T5Gemma 2."""

import dataclasses
import pathlib
import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

from embeddinggemma.checkpoint import Name
from embeddinggemma.convert import folder as folders
from embeddinggemma.convert import names, safetensors_io, tensors
from embeddinggemma.convert.read import (
  adapters,
  hugging_face,
  tokenizer_files,
)
from embeddinggemma.convert.read.hugging_face import Family
from embeddinggemma.convert.safetensors_io import Tensor
from embeddinggemma.convert.tensors import Imported, Shapes, Source
from embeddinggemma.data.prompts import PROMPTS
from embeddinggemma.model import decoder as decoder_lib
from embeddinggemma.model.config import (
  MERGED,
  SEPARATE,
  EncoderDecoderConfig,
  ModelConfig,
)
from embeddinggemma.types import BadInput

ENCODER, DECODER, BOTH = "encoder", "decoder", "both"
# Prefixes of tensors of other modalities, which a text model does not have.
_OTHER = re.compile(
  r"(^|\.)(vision_tower|vision_model|multi_modal_projector)\.|eoi_embedding$"
)
# The table a second time, where a version of theirs wrote it so.
_HEADS = re.compile(r"(^|\.)lm_head(\.out_proj)?\.weight$")
_TABLE = "embed_tokens.weight"
_IMAGES = ("preprocessor_config.json", "processor_config.json")
# Prefixes of tensors' names in different versions; the first that fits is used.
_CAUSAL_PREFIXES = (
  "model.language_model.",
  "language_model.model.",
  "model.",
  "language_model.",
  "",
)
_ENCODER_PREFIXES = (
  "model.encoder.",
  "model.encoder.text_model.",
  "encoder.",
  "encoder.text_model.",
)
_DECODER_PREFIXES = ("model.decoder.", "decoder.")


class Sides(NamedTuple):
  """A family of encoder-decoders."""

  family: Family
  encoder: Sequence[str]  # keys that lead to it in config.json
  tied: bool
  cross_attention: str


ENCODER_DECODERS = {
  "t5gemma": Sides(hugging_face.T5GEMMA, ("encoder",), False, SEPARATE),
  "t5gemma2": Sides(
    hugging_face.T5GEMMA2, ("encoder", "text_config"), True, MERGED
  ),
}


def model_type(folder: pathlib.Path) -> str:
  """The model_type of a folder's config.json; "" without one."""
  if not folders.has(folder, "config.json"):
    return ""
  return str(folders.read_json(folder, "config.json").get("model_type"))


def read_gemma3(folder: pathlib.Path, part: str) -> Imported:
  """Read a Gemma 3 text decoder, a causal language model without parts."""
  del part
  where = folder / "config.json"
  tree = folders.read_json(folder, "config.json")
  kind = tree["model_type"]
  if kind == "gemma3":
    tree = _part_of(tree, ("text_config",), where)
  if tree.get("use_bidirectional_attention"):
    raise BadInput(
      f"{where}: use_bidirectional_attention is true, so this is the encoder of"
      " an EmbeddingGemma; give the folder with modules.json and both Dense:"
      " without them cosines would be about 0"
    )
  config = hugging_face.model_config(tree, hugging_face.GEMMA3, where)
  weights = safetensors_io.open_folder(folder)
  prefix = names.prefix(weights, _CAUSAL_PREFIXES, "model.")
  shapes = tensors.shapes_of(decoder_lib.init_causal(config))
  sources = names.sources(shapes, names.GEMMA3, {"decoder": prefix})
  model = _imported(folder, kind, config, weights, shapes, sources)
  adapted = adapters.is_adapter(folder)
  return adapters.merged(model, folder) if adapted else model


def read_encoder_decoder(folder: pathlib.Path, part: str) -> Imported:
  """Read both sides, the encoder, or the decoder as a causal language model."""
  where = folder / "config.json"
  tree = folders.read_json(folder, "config.json")
  kind = tree["model_type"]
  sides = ENCODER_DECODERS[kind]
  if adapters.is_adapter(folder):
    raise BadInput(
      f"{folder / adapters.CONFIG}: an adapter of an encoder-decoder is not"
      " supported; merge it with PEFT's merge_and_unload"
    )
  read_side = lambda keys: hugging_face.model_config(
    _part_of(tree, keys, where), sides.family, f"{where}: {'.'.join(keys)}"
  )
  encoder, decoder = read_side(sides.encoder), read_side(("decoder",))
  both = EncoderDecoderConfig(
    encoder, decoder, sides.tied, sides.cross_attention
  )
  weights = safetensors_io.open_folder(folder)
  prefixes = {
    ENCODER: names.prefix(weights, _ENCODER_PREFIXES, "model.encoder."),
    DECODER: names.prefix(weights, _DECODER_PREFIXES, "model.decoder."),
  }
  if part == DECODER:
    shapes = tensors.shapes_of(decoder_lib.init_causal(decoder))
  else:
    shapes = tensors.shapes_of(decoder_lib.init_encoder_decoder(both))
  keep = lambda name: part in (BOTH, name[0])
  shapes = {name: shape for name, shape in shapes.items() if keep(name)}
  sources = names.sources(shapes, names.T5GEMMA, prefixes)
  if part == DECODER and sides.tied:
    table = (DECODER, "embedding")
    name = prefixes[ENCODER] + _TABLE
    sources[table] = sources[table]._replace(name=name)
  more = dataclasses.asdict(both) if part == BOTH else {}
  more.pop("encoder", None)
  config = decoder if part == DECODER else encoder
  return _imported(
    folder, kind, config, weights, shapes, sources, _others(part), more
  )


def _others(part: str) -> Callable[[str], bool]:
  """A function: whether a tensor belongs to what `part` leaves out.

  A decoder alone leaves out its cross-attention as well.
  """
  if part == BOTH:
    return lambda name: False
  if part == ENCODER:
    pattern = re.compile(r"(^|\.)decoder\.|lm_head\.")
  else:
    pattern = re.compile(r"(^|\.)encoder\.|\.(pre_|post_)?cross_attn")
  return lambda name: pattern.search(name) is not None


def _imported(
  folder: pathlib.Path,
  kind: str,
  config: ModelConfig,
  weights: Mapping[str, Tensor],
  shapes: Shapes,
  sources: dict[Name, Source],
  others: Callable[[str], bool] = lambda name: False,
  more: Mapping[str, Any] = {},
) -> Imported:
  """The model, after the checks of its tensors."""
  sides = (
    side for side in (DECODER, ENCODER) if (side, "embedding") in sources
  )
  table = sources[next(sides), "embedding"].name  # the one of the output
  copies = [
    name
    for name in weights
    if name != table
    and (_HEADS.search(name) or name.endswith(f"decoder.{_TABLE}"))
  ]
  found = {name: tensor.shape for name, tensor in weights.items()}
  left_out = tensors.check(
    sources.values(),
    found,
    folder,
    lambda n: n in copies or bool(_OTHER.search(n)) or others(n),
  )
  copies = [name for name in copies if not others(name)]
  for name in copies:
    if not safetensors_io.same(weights[name], weights[table]):
      raise BadInput(
        f"{folder}: tensor {name!r} differs from the table; only models with"
        " tied embeddings are supported"
      )
  tokenizer = tokenizer_files.read(folder, config.vocab_size, ends=False)
  return Imported(
    config,
    tensors.lazy(
      sources, shapes, lambda name: safetensors_io.read(weights[name])
    ),
    tokenizer.model,
    PROMPTS,
    kind,
    more,
    left_out - len(copies),
    aside=tokenizer.aside,
    source={"tokenizer": tokenizer.source},
    read=_rows(folder, kind, weights, tokenizer.source),
    warned=tokenizer.warned,
  )


def _rows(
  folder: pathlib.Path,
  kind: str,
  weights: Mapping[str, Tensor],
  tokenizer: str,
) -> dict[str, str]:
  """File -> what was read from it."""
  by_file = safetensors_io.files(weights)
  rows = {name: safetensors_io.said(found) for name, found in by_file.items()}
  if safetensors_io.WEIGHTS not in by_file:
    rows[safetensors_io.INDEX] = f"which of {len(by_file)} files"
  rows |= {"config.json": kind, **tokenizer_files.roles(tokenizer)}
  rows |= dict.fromkeys(_IMAGES, "nothing: images are left out")
  return {
    name: what for name, what in rows.items() if (folder / name).is_file()
  }


def _part_of(
  tree: Mapping[str, Any], keys: Sequence[str], where: pathlib.Path
) -> Mapping[str, Any]:
  """A nested part of config.json."""
  for n, key in enumerate(keys, 1):
    tree = tree.get(key)  # type: ignore
    if not isinstance(tree, Mapping):
      raise BadInput(f"{where} has no {'.'.join(keys[:n])}")
  return tree
