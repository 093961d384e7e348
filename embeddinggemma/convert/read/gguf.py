"""Read Gemma 3 decoders and EmbeddingGemma from GGUF files.

llama.cpp's architectures are `gemma3`, a causal language model, and
`gemma-embedding`, whose head is dense_2 and dense_3. Ollama writes an embedder
as `gemma3` with a pooling_type, and its head as dense.0 and dense.1. Norms are
stored as 1 + w. A setting that this project would not follow is refused by
name; so is an unknown key of the architecture, since it may change what is
computed.
"""

import collections
import json
import pathlib
import re
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import gguf
import numpy as np

from embeddinggemma import checkpoint
from embeddinggemma.checkpoint import Name
from embeddinggemma.convert import names as names_lib
from embeddinggemma.convert import origin, tensors
from embeddinggemma.convert.read import gguf_file, gguf_tokenizer, hugging_face
from embeddinggemma.convert.read.gguf_file import File, Type
from embeddinggemma.convert.tensors import Imported, Shapes, Source
from embeddinggemma.data import prompts
from embeddinggemma.model import decoder as decoder_lib
from embeddinggemma.model import embedder, pooling
from embeddinggemma.model.config import GLOBAL, LOCAL, ModelConfig
from embeddinggemma.types import BadInput

EMBEDDER, DECODER = "gemma-embedding", "gemma3"
_ARCHITECTURES = {
  EMBEDDER: gguf.MODEL_ARCH.GEMMA_EMBEDDING,
  DECODER: gguf.MODEL_ARCH.GEMMA3,
}
# The names of both Dense, by who wrote the file: llama.cpp, Ollama.
_DENSE = (
  ("dense_2.weight", "dense_3.weight"),
  ("dense.0.weight", "dense.1.weight"),
)
_TABLE, _OUTPUT = "token_embd.weight", "output.weight"
_BLOCK = re.compile(r"blk\.(\d+)\.")
_OTHER = re.compile(r"(v|mm)\.")  # Ollama puts the image tower beside the text
_PATTERN = "attention.sliding_window_pattern"
_PERIOD = 6  # the last of so many layers is global, where nothing is said
_LARGEST = 62  # layers of Gemma 3 27B, whose queries are scaled otherwise
_LOCAL_BASE = 1e4  # of rotary positions of local layers, where nothing is said
_FLOATS = (Type.F32, Type.F16, Type.BF16)
# Ollama's spelling of a key -> llama.cpp's.
_SPELLINGS = {
  "rope.local.freq_base": "rope.freq_base_swa",
  "rope.global.freq_base": "rope.freq_base",
}
# Keys that do not matter here, or whose values are checked elsewhere.
_SILENT = re.compile(
  r"vocab_size|tensor_data_layout|rope\.scaling\.original_context_length"
  r"|rope\.scaling\.finetuned|vision\..*|mm\..*"
)
# Key -> the only value that means the model of this project.
_FIXED: Mapping[str, Any] = {
  "final_logit_softcapping": 0.0,
  "attn_logit_softcapping": 0.0,
  "rope.freq_scale": 1.0,
  "expert_count": 0,
  "expert_used_count": 0,
}
# Metadata that say what the model is and from which one it descends.
_GENERAL = (
  "name",
  "organization",
  "author",
  "repo_url",
  "base_model.0.name",
  "base_model.0.organization",
  "base_model.0.repo_url",
)


class _Said(NamedTuple):
  """The keys of a file's architecture, and accessors that check them."""

  path: pathlib.Path
  architecture: str
  keys: Mapping[str, Any]  # without the architecture

  @property
  def embeds(self) -> bool:
    """Whether the model is an embedder, not a language model."""
    return self.architecture == EMBEDDER or bool(self.keys.get("pooling_type"))

  def fault(self, key: str, why: str) -> BadInput:
    """The error for a key."""
    return BadInput(f"{self.path}: {self.architecture}.{key}{why}")

  def need(self, key: str) -> Any:
    """The value of a key; BadInput if it is missing."""
    if key not in self.keys:
      raise self.fault(
        key, " is missing; convert the model anew with a current llama.cpp"
      )
    return self.keys[key]

  def whole(self, key: str) -> int:
    """The value of a key as an integer above 0."""
    value = self.need(key)
    if type(value) is not int or value < 1:
      raise self.fault(key, f"={value!r} is not a whole number above 0")
    return value

  def number(self, key: str, default: float | None = None) -> float:
    """The value of a key as a float, rounded to the digits of a float32."""
    value = self.keys.get(key, default)
    value = self.need(key) if value is None else value
    if isinstance(value, bool) or not isinstance(value, int | float):
      raise self.fault(key, f"={value!r} is not a number")
    return float(str(np.float32(value)))


def chosen(path: pathlib.Path) -> pathlib.Path | None:
  """The GGUF file that a path means; None if it means none.

  A folder means its only GGUF file, unless it has weights in another format.
  Raises BadInput if there are several.
  """
  if gguf_file.is_file(path):
    return path
  if not path.is_dir():
    return None
  found = sorted(path.glob("*.gguf"))
  if not found or any(path.rglob("*.safetensors")):
    return None
  if len(found) > 1:
    raise BadInput(
      f"{path} holds {', '.join(p.name for p in found)}; give one of them"
    )
  return found[0]


def read(path: pathlib.Path) -> Imported:
  """Read the model of a file: everything is checked, tensors stay on disk.

  Raises:
    BadInput: it is no GGUF file, is truncated or corrupt, or of another
      architecture; a key or a tensor is missing, unexpected or wrong; or a
      tensor's type cannot be unpacked.
  """
  file = gguf_file.read_header(path)
  said = _said(file)
  dense = _dense(file) if said.embeds else ()
  config = _config(said, file, dense)
  init = embedder.init if said.embeds else decoder_lib.init_causal
  shapes = tensors.shapes_of(init(config))
  sources = _sources(said.architecture, config, shapes, dense)
  left_out = _check_tensors(file, sources)
  return Imported(
    config,
    tensors.lazy(
      sources, shapes, lambda name: gguf_file.read(file.tensors[name])
    ),
    gguf_tokenizer.model_of(file),
    _prompts(file) if said.embeds else prompts.PROMPTS,
    f"{said.architecture} of a GGUF file",
    left_out=left_out,
    notes=_notes(file, sources, said.embeds),
    read={path.name: "weights, settings and tokenizer"},
    source=_source(file, sources),
    licence=_licence(file),
  )


def _said(file: File) -> _Said:
  """The architecture's keys; BadInput for one that is unknown."""
  name = str(file.keys.get("general.architecture", "none"))
  kind = str(file.keys.get("general.type", "model"))
  if name not in _ARCHITECTURES or kind != "model":
    what = f"architecture {name!r}" + (f", {kind!r}" if kind != "model" else "")
    raise BadInput(
      f"{file.path} is of the {what}; what can be imported:"
      f" {DECODER} (Gemma 3 text decoders) and {EMBEDDER} (EmbeddingGemma)"
    )
  prefix = f"{name}."
  own = {
    key.removeprefix(prefix): value
    for key, value in file.keys.items()
    if key.startswith(prefix)
  }
  for theirs, ours in _SPELLINGS.items():
    if theirs in own:
      own[ours] = own.pop(theirs)
  found = _Said(file.path, name, own)
  lists = [k for k, v in own.items() if isinstance(v, list | np.ndarray)]
  for key in lists:
    if key != _PATTERN and not _SILENT.fullmatch(key):
      own[key] = _alike(found, key)
  return found


def _alike(said: _Said, key: str) -> Any:
  """A key's value, where a list must have the same one for each layer."""
  values = set(list(said.keys[key]))
  if len(values) != 1:
    raise said.fault(key, " differs by layer, which is not supported")
  value = values.pop()
  return value.item() if isinstance(value, np.generic) else value


def _dense(file: File) -> tuple[str, str]:
  """The names of both Dense layers of the head."""
  for pair in _DENSE:
    if all(name in file.tensors for name in pair):
      for name in pair:
        if len(file.tensors[name].shape) != 2:
          raise BadInput(f"{file.path}: tensor {name!r} is no matrix")
      return pair
  raise BadInput(
    f"{file.path} lacks {' and '.join(_DENSE[0])}, without which cosines to the"
    " model's vectors would be about 0; convert the model anew with"
    " convert_hf_to_gguf.py --sentence-transformers-dense-modules, or take the"
    " folder that has 2_Dense and 3_Dense"
  )


def _config(said: _Said, file: File, dense: Sequence[str]) -> ModelConfig:
  """The ModelConfig; BadInput for what this project would compute otherwise."""
  layers, width = _layers(said, file), said.whole("embedding_length")
  head = _head_dim(said, width)
  _check_known(said, head)
  table = file.tensors.get(_TABLE)
  if table is None:
    raise BadInput(f"{file.path}: tensor {_TABLE!r} is missing")
  up, out = (
    (file.tensors[name].shape[0] for name in dense)
    if dense
    else (4 * width, width)
  )
  window = said.whole("attention.sliding_window")
  more: dict[str, Any] = {}
  if dense:
    more["pooling"] = _pooling(said)
    _check_embedder(said, file, (width, up, out))
    place = "config.json, and convert it anew"
    hugging_face.check_whole_window(window, file.path, place)
  return ModelConfig(
    vocab_size=table.shape[0],
    num_layers=layers,
    width=width,
    mlp_width=said.whole("feed_forward_length"),
    num_heads=said.whole("attention.head_count"),
    num_kv_heads=said.whole("attention.head_count_kv"),
    head_dim=head,
    up_width=up,
    embed_dim=out,
    window=window,
    max_length=said.whole("context_length"),
    pattern=_pattern(said, layers),
    local_rope_base=said.number("rope.freq_base_swa", _LOCAL_BASE),
    global_rope_base=said.number("rope.freq_base"),
    global_rope_factor=_factor(said),
    norm_eps=said.number("attention.layer_norm_rms_epsilon"),
    **more,
  )


def _layers(said: _Said, file: File) -> int:
  """The number of layers in the file, which must agree with its key."""
  count = said.whole("block_count")
  found = {int(m[1]) for name in file.tensors if (m := _BLOCK.match(name))}
  if count != len(found):
    raise said.fault(
      "block_count", f"={count}, where tensors of {len(found)} layers are there"
    )
  if count == _LARGEST and said.architecture == DECODER:
    raise said.fault(
      "block_count",
      f"={count} is Gemma 3 27B, whose queries are not scaled by the size of"
      " heads; it is not supported",
    )
  return count


def _head_dim(said: _Said, width: int) -> int:
  """The size of an attention head, the same for keys and values."""
  keys, values = "attention.key_length", "attention.value_length"
  if keys not in said.keys:
    return width // said.whole("attention.head_count")
  head = said.whole(keys)
  if said.keys.get(values, head) != head:
    raise said.fault(
      values, f"={said.keys[values]} is not that of keys, {head}"
    )
  return head


# Keys that `_config` and what it calls read.
_READ = {
  "block_count",
  "context_length",
  "embedding_length",
  "feed_forward_length",
  "attention.head_count",
  "attention.head_count_kv",
  "attention.key_length",
  "attention.value_length",
  "attention.layer_norm_rms_epsilon",
  "attention.sliding_window",
  _PATTERN,
  "attention.causal",
  "rope.freq_base",
  "rope.freq_base_swa",
  "rope.dimension_count",
  "rope.scaling.type",
  "rope.scaling.factor",
  "pooling_type",
  *(f"dense_{n}_feat_{side}" for n in (2, 3) for side in ("in", "out")),
}


def _check_known(said: _Said, head: int) -> None:
  """Raise BadInput for keys that mean another model, or are unknown."""
  fixed = {"rope.dimension_count": head, **_FIXED}
  for key, value in said.keys.items():
    if key in fixed:
      if value != fixed[key]:
        raise said.fault(key, f"={value} is not supported; only {fixed[key]:g}")
    elif key not in _READ and not _SILENT.fullmatch(key):
      raise said.fault(
        key, f"={value!r} is not known to this version; it may decide vectors"
      )
  if said.keys.get("attention.causal", not said.embeds) is said.embeds:
    raise said.fault(
      "attention.causal",
      f"={said.keys['attention.causal']} is not supported; an EmbeddingGemma"
      " attends to both sides, a decoder to what precedes",
    )


def _pooling(said: _Said) -> str:
  """Our name of an embedder's pooling; BadInput if there is none."""
  known = {
    int(gguf.PoolingType[theirs]): ours
    for theirs, ours in pooling.held_by("gguf").items()
  }
  value = said.need("pooling_type")
  if isinstance(value, list) or value not in known:
    named = " or ".join(f"{n}, the {ours}" for n, ours in known.items())
    raise said.fault("pooling_type", f"={value} is not supported; only {named}")
  return known[value]


def _check_embedder(
  said: _Said, file: File, widths: tuple[int, int, int]
) -> None:
  """Check the sizes of the head, and that BOS and EOS surround a text."""
  width, up, out = widths
  sizes = {
    "dense_2_feat_in": width,
    "dense_2_feat_out": up,
    "dense_3_feat_in": up,
    "dense_3_feat_out": out,
  }
  for key, size in sizes.items():
    if said.keys.get(key, size) != size:
      raise said.fault(
        key, f"={said.keys[key]}, where the tensors' shapes say {size}"
      )
  for name in ("add_bos_token", "add_eos_token"):
    key = gguf_tokenizer.PREFIX + name
    if file.keys.get(key, True) is not True:
      raise BadInput(
        f"{file.path}: {key}={file.keys[key]!r} is not supported;"
        " EmbeddingGemma's texts have both"
      )


def _pattern(said: _Said, layers: int) -> tuple[str, ...]:
  """The shortest sequence of kinds that repeats over the layers."""
  value = said.keys.get(_PATTERN, _PERIOD)
  if isinstance(value, np.ndarray):
    if len(value) != layers:
      raise said.fault(
        _PATTERN, f" has {len(value)} values for {layers} layers"
      )
    local = value.astype(bool).tolist()
  elif type(value) is int and value >= 0:
    # As llama.cpp reads it: with 0, no layer is global.
    local = [not value or (n + 1) % value != 0 for n in range(layers)]
  else:
    raise said.fault(_PATTERN, f"={value!r} is neither a period nor a list")
  return hugging_face.repeating([LOCAL if is_ else GLOBAL for is_ in local])


def _factor(said: _Said) -> float:
  """What positions are divided by in global layers (RoPE scaling)."""
  kind = said.keys.get("rope.scaling.type", "none")
  if kind not in ("none", "linear"):
    raise said.fault(
      "rope.scaling.type",
      f"={kind!r} is not supported; only 'linear' and 'none'",
    )
  factor = said.number("rope.scaling.factor", 1.0) if kind == "linear" else 1.0
  if factor <= 0:
    raise said.fault("rope.scaling.factor", f"={factor:g} must be above 0")
  return factor


def _sources(
  architecture: str,
  config: ModelConfig,
  shapes: Shapes,
  dense: Sequence[str],
) -> dict[Name, Source]:
  """Where each of our tensors comes from."""
  theirs = gguf.get_tensor_name_map(
    _ARCHITECTURES[architecture], config.num_layers
  )
  own = {name: shape for name, shape in shapes.items() if len(name) > 1}
  prefixes = dict.fromkeys((name[0] for name in own), "model.")
  found = {}
  for name, source in names_lib.sources(
    own, names_lib.GEMMA3, prefixes
  ).items():
    label = theirs.get_name(source.name, (".weight",))
    assert label is not None, source.name
    take = _without_one if name[-1] == "scale" else source.take
    found[name] = source._replace(name=label, take=take)
  for side, label in zip(("up", "down"), dense):
    found[side,] = tensors.matrix(label, shapes[side,])
  return found


def _without_one(array: np.ndarray) -> np.ndarray:
  return array - np.float32(1)


def _check_tensors(file: File, sources: Mapping[Name, Source]) -> int:
  """How many tensors are left out.

  Raises BadInput for a tensor that is missing, unexpected or wrong.
  """
  shapes = {name: tensor.shape for name, tensor in file.tensors.items()}
  left_out = tensors.check(
    sources.values(),
    shapes,
    file.path,
    lambda name: name == _OUTPUT or _OTHER.match(name) is not None,
  )
  for source in sources.values():
    gguf_file.require_unpackable(source.name, file.tensors[source.name])
  if _OUTPUT not in file.tensors:
    return left_out
  if not gguf_file.same(file.tensors[_OUTPUT], file.tensors[_TABLE]):
    raise BadInput(
      f"{file.path}: tensor {_OUTPUT!r} differs from {_TABLE!r}; only models"
      " with tied embeddings are supported"
    )
  return left_out - 1


def _prompts(file: File) -> Mapping[str, str]:
  """The prompts that our export writes into a file; else the published ones."""
  if gguf_file.PROMPTS not in file.keys:
    return prompts.PROMPTS
  try:
    found = json.loads(file.keys[gguf_file.PROMPTS])
  except (TypeError, ValueError):
    found = None
  if not isinstance(found, dict) or not all(
    isinstance(prompt, str) for prompt in found.values()
  ):
    raise BadInput(
      f"{file.path}: {gguf_file.PROMPTS} holds no prompts, a text by name"
    )
  for name in ("query", "document"):
    if name not in found:
      raise BadInput(f"{file.path}: {gguf_file.PROMPTS} lacks {name!r}")
  return found


def _types(file: File, sources: Mapping[Name, Source]) -> dict[str, int]:
  """Type -> number of tensors of it, the commonest first."""
  kinds = (file.tensors[source.name].type for source in sources.values())
  found = collections.Counter(kind.name for kind in kinds)
  return dict(found.most_common())


def _notes(
  file: File, sources: Mapping[Name, Source], embeds: bool
) -> tuple[str, ...]:
  """Notes for the user on what was read."""
  types = _types(file, sources)
  floats = {kind.name for kind in _FLOATS}
  rounded = [kind for kind in types if kind not in floats]
  notes = []
  if rounded:
    count = sum(types[kind] for kind in rounded)
    notes.append(
      f"weights were rounded to {', '.join(rounded)} ({count} of"
      f" {len(sources)} tensors)"
    )
  if embeds and gguf_file.PROMPTS not in file.keys:
    notes.append(
      "the file has no prompts; EmbeddingGemma's published are taken"
    )
  return tuple(notes)


def _source(file: File, sources: Mapping[Name, Source]) -> dict[str, Any]:
  """Where the weights are from, for the checkpoint."""
  found: dict[str, Any] = {"tensor_types": _types(file, sources)}
  number = file.keys.get("general.file_type")
  if number is not None:
    known = {int(kind): kind.name for kind in gguf.LlamaFileType}
    found["file_type"] = known.get(number, number)
  general = {key: file.keys.get(f"general.{key}") for key in _GENERAL}
  said = {k: v for k, v in general.items() if v and isinstance(v, str)}
  return {**found, **({"general": said} if said else {}), **_cuts(file)}


def _cuts(file: File) -> dict[str, Any]:
  """What our export says was cut out of a larger model."""
  try:
    said = json.loads(file.keys.get(gguf_file.CUTS, "null"))
  except (TypeError, ValueError):
    return {}
  found = origin.read_cuts(said)
  return {checkpoint.CUTS: found} if found else {}


def _licence(file: File) -> str:
  """The metadata that name the model's licence, one per line."""
  keys = ("license", "license.name", "license.link")
  said = {key: file.keys.get(f"general.{key}") for key in keys}
  return "\n".join(
    f"{key.replace('.', '_')}: {value}" for key, value in said.items() if value
  )
