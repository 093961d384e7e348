"""Which model a folder holds, and how its tensors become ours."""

import dataclasses
import pathlib
import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

from embeddinggemma.checkpoint import Name
from embeddinggemma.convert import folder as folders
from embeddinggemma.convert import names, safetensors_io, tensors
from embeddinggemma.convert.read import (
  gemma_orbax,
  gguf,
  hugging_face,
  sentence_transformers,
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
PARTS = (BOTH, ENCODER, DECODER)
# Of other modalities: they have no place in a text model.
_OTHER = re.compile(
  r"(^|\.)(vision_tower|vision_model|multi_modal_projector)\.|eoi_embedding$"
)
# The table a second time, where a version of theirs wrote it so.
_HEADS = re.compile(r"(^|\.)lm_head(\.out_proj)?\.weight$")
_TABLE = "embed_tokens.weight"
# What stands before their names, by version: the first that fits.
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
  encoder: Sequence[str]  # where config.json describes it
  tied: bool
  cross_attention: str


ENCODER_DECODERS = {
  "t5gemma": Sides(hugging_face.T5GEMMA, ("encoder",), False, SEPARATE),
  "t5gemma2": Sides(
    hugging_face.T5GEMMA2, ("encoder", "text_config"), True, MERGED
  ),
}
_NOT_YET = {
  "embedding_gemma2": "EmbeddingGemma 2, whose layers have per-layer"
  " embeddings, norms of values and two sizes of heads",
}


def read(folder: pathlib.Path, part: str = BOTH) -> Imported:
  """The model of a folder, checked whole, its tensors still on disk.

  Args:
    folder: of sentence-transformers, of transformers, or of Orbax in the
      layout of google-deepmind/gemma; or a GGUF file, or a folder that holds
      one.
    part: of an encoder-decoder: encoder, decoder or both.

  Raises:
    BadInput: the folder is of no kind that is known; a file or tensor is
      missing, unexpected or wrong; a setting is of another model than ours.
  """
  if part not in PARTS:
    raise BadInput(f"--part={part} is unknown; use one of {', '.join(PARTS)}")
  kind, reader = _reader(folder)
  if part != BOTH and kind not in ENCODER_DECODERS:
    raise BadInput(
      f"--part={part} is for {' and '.join(ENCODER_DECODERS)}; {folder} is"
      f" {kind}"
    )
  return reader(folder, part)


def is_public(path: pathlib.Path) -> bool:
  """Whether a path holds an embedder as others write one."""
  return sentence_transformers.is_folder(path) or gguf.chosen(path) is not None


def _reader(
  folder: pathlib.Path,
) -> tuple[str, Callable[[pathlib.Path, str], Imported]]:
  """What a folder is called in messages, and what reads it."""
  if file := gguf.chosen(folder):
    return "a GGUF file", lambda *_: gguf.read(file)
  if gemma_orbax.is_folder(folder):
    return gemma_orbax.FAMILY, lambda path, _: gemma_orbax.read(path)
  kind = ""
  if folders.has(folder, "config.json"):
    kind = str(folders.read_json(folder, "config.json").get("model_type"))
  for name, what in _NOT_YET.items():
    if kind.startswith(name):
      raise BadInput(f"{folder} is {what}; this version does not have it")
  if sentence_transformers.is_folder(folder):
    family = sentence_transformers.FAMILY
    return family, lambda path, _: sentence_transformers.read(path)
  if kind in _READERS:
    return kind, _READERS[kind]
  pickles = [p for p in sorted(folder.iterdir()) if safetensors_io.is_pickle(p)]
  if pickles and not kind:
    raise safetensors_io.refusal(pickles[0])
  found = f"model_type {kind!r}" if kind else "no config.json or modules.json"
  raise BadInput(
    f"{folder} has {found}; what can be imported: {', '.join(_READERS)}, an"
    " EmbeddingGemma folder of sentence-transformers, Orbax in the layout of"
    " google-deepmind/gemma, a GGUF file"
  )


def _gemma3(folder: pathlib.Path, part: str) -> Imported:
  """The text decoder: a causal language model."""
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
  return _imported(folder, kind, config, weights, shapes, sources)


def _encoder_decoder(folder: pathlib.Path, part: str) -> Imported:
  """Both sides, or an encoder, or a decoder as a causal language model."""
  where = folder / "config.json"
  tree = folders.read_json(folder, "config.json")
  kind = tree["model_type"]
  sides = ENCODER_DECODERS[kind]
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
  """Which tensors belong to what `part` leaves out.

  A decoder alone has nothing to attend across to.
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
  """The model after the checks of its tensors."""
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
  return Imported(
    config,
    tensors.lazy(
      sources, shapes, lambda name: safetensors_io.read(weights[name])
    ),
    folders.tokenizer_model(folder),
    PROMPTS,
    kind,
    more,
    left_out - len(copies),
  )


def _part_of(
  tree: Mapping[str, Any], keys: Sequence[str], where: pathlib.Path
) -> Mapping[str, Any]:
  """A part of config.json."""
  for n, key in enumerate(keys, 1):
    tree = tree.get(key)  # type: ignore
    if not isinstance(tree, Mapping):
      raise BadInput(f"{where} has no {'.'.join(keys[:n])}")
  return tree


_READERS: Mapping[str, Callable[[pathlib.Path, str], Imported]] = {
  "gemma3_text": _gemma3,
  "gemma3": _gemma3,
  **dict.fromkeys(ENCODER_DECODERS, _encoder_decoder),
}
