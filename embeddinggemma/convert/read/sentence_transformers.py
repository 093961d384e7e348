"""Read EmbeddingGemma from a sentence-transformers folder (paper section 2.1).

Its modules are Transformer, mean Pooling, two Dense without bias or activation,
and Normalize. The names of versions 5 and 6 are read; a module or a setting
that this project would not reproduce is refused by name.
"""

import dataclasses
import json
import pathlib
from collections.abc import Mapping, Sequence
from typing import Any

from embeddinggemma.checkpoint import Lazy, Name
from embeddinggemma.convert import folder as folders
from embeddinggemma.convert import names, safetensors_io, tensors
from embeddinggemma.convert.read import (
  hugging_face,
  tokenizer_ends,
  tokenizer_files,
)
from embeddinggemma.convert.tensors import Imported, Source
from embeddinggemma.data.prompts import PROMPTS
from embeddinggemma.model import embedder
from embeddinggemma.model import pooling as pooling_lib
from embeddinggemma.model.config import ModelConfig
from embeddinggemma.types import BadInput

FAMILY = "embeddinggemma"
FORMAT = "sentence-transformers"  # what model/pooling.py calls it
MODULES = "modules.json"
POOLING, UP, DOWN = "1_Pooling", "2_Dense", "3_Dense"
IDENTITY = "torch.nn.modules.linear.Identity"
SETTINGS = "config_sentence_transformers.json"
LENGTH = "sentence_bert_config.json"
KINDS = ("Transformer", "Pooling", "Dense", "Dense", "Normalize")
DENSE_WEIGHT = "linear.weight"
_POOLED = "sentence_embedding"
_PREFIXES = ("", "model.")  # of the encoder's tensors


def is_folder(path: pathlib.Path) -> bool:
  """Whether a path is a sentence-transformers folder."""
  return (path / MODULES).is_file()


def read(folder: pathlib.Path) -> Imported:
  """Read the model of a folder: everything is checked, tensors stay on disk.

  Raises:
    BadInput: a file or tensor is missing, unexpected or wrong, or the model is
      not built as EmbeddingGemma is.
  """
  transformer, pooling, up, down, _ = _modules(folder)
  tree = folders.read_json(transformer, "config.json")
  where = transformer / "config.json"
  _check_encoder(tree, where)
  config = hugging_face.model_config(tree, hugging_face.GEMMA3, where)
  pooled = _pooling(folders.read_json(pooling, "config.json"), config, pooling)
  widths = _dense_widths(up, down, config)
  config = dataclasses.replace(
    config,
    pooling=pooled,
    up_width=widths[0],
    embed_dim=widths[1],
    max_length=_max_length(transformer, config),
  )
  tokenizer = tokenizer_files.read(transformer, config.vocab_size)
  return Imported(
    config,
    _tensors(transformer, up, down, config),
    tokenizer.model,
    _prompts(folder),
    FAMILY,
    notes=tokenizer.notes,
    aside=tokenizer.aside,
    source={"tokenizer": tokenizer.source},
  )


def transformer_of(folder: pathlib.Path) -> pathlib.Path:
  """The folder of the first module, which has the tokenizer."""
  return _paths(folder)[1][0]


def check_ends(folder: pathlib.Path) -> None:
  """Raise BadInput if an EmbeddingGemma is read without its BOS or EOS.

  Folders of other models, which may be made otherwise, pass.
  """
  place = transformer_of(folder)
  if not folders.has(place, "config.json"):
    return
  tree = folders.read_json(place, "config.json")
  if tree.get("model_type") == "gemma3_text":
    if tree.get("use_bidirectional_attention") is True:
      tokenizer_ends.check(place)


def _modules(folder: pathlib.Path) -> Sequence[pathlib.Path]:
  """The folders of the five modules, in order."""
  place = folder / MODULES
  kinds, paths = _paths(folder)
  for kind in kinds:
    known = kind.startswith("sentence_transformers.")
    if not known or kind.split(".")[-1] not in KINDS:
      raise BadInput(
        f"{place} holds the module {kind}, which is not supported; an"
        f" EmbeddingGemma is {', '.join(KINDS)}"
      )
  short = [kind.split(".")[-1] for kind in kinds]
  if short.count("Dense") < 2:
    raise BadInput(
      f"{place} has {short.count('Dense')} Dense modules of 2: without them"
      " cosines to the model's vectors would be about 0; take the folder that"
      " has 2_Dense and 3_Dense"
    )
  if tuple(short) != KINDS:
    raise BadInput(
      f"{place} is {', '.join(short)}; an EmbeddingGemma is {', '.join(KINDS)}"
    )
  return paths


def _paths(
  folder: pathlib.Path,
) -> tuple[Sequence[str], Sequence[pathlib.Path]]:
  """(the classes, the folders) of the modules, whichever they are."""
  place = folder / MODULES
  try:
    rows = json.loads(folders.inside(folder, MODULES).read_bytes())
    kinds = [str(row["type"]) for row in rows]
    paths = [str(row["path"]) for row in rows]
  except (OSError, ValueError, KeyError, TypeError) as error:
    raise BadInput(f"{place} cannot be read: {error}") from None
  if not rows:
    raise BadInput(f"{place} has no modules; download the folder again")
  return kinds, [
    folders.inside(folder, path) if path else folder for path in paths
  ]


def _check_encoder(tree: Mapping[str, Any], where: pathlib.Path) -> None:
  kind = tree.get("model_type")
  if kind != "gemma3_text":
    raise BadInput(
      f"{where}: model_type={kind!r} is not supported; an EmbeddingGemma's is"
      " 'gemma3_text'"
    )
  if tree.get("use_bidirectional_attention") is not True:
    raise BadInput(
      f"{where}: use_bidirectional_attention is not true, so this is a causal"
      " model; if it was trained as an EmbeddingGemma, write true there"
    )


def _pooling(
  tree: Mapping[str, Any], config: ModelConfig, where: pathlib.Path
) -> str:
  """Our name of the folder's pooling; BadInput if there is none."""
  old = "pooling_mode_"
  modes = [key.removeprefix(old) for key in tree if key.startswith(old)]
  modes = [mode for mode in modes if tree[old + mode]]
  mode = tree.get("pooling_mode", modes)
  named = [mode] if isinstance(mode, str) else mode
  known = pooling_lib.held_by(FORMAT)
  one = named[0] if isinstance(named, list) and len(named) == 1 else None
  if not isinstance(one, str) or one not in known:
    raise BadInput(
      f"{where}: pooling {mode!r} is not supported; only the"
      f" {pooling_lib.all_held_by(FORMAT)}"
    )
  if tree.get("include_prompt", True) is not True:
    raise BadInput(
      f"{where}: include_prompt is not true; our mean takes the prompt in"
    )
  width = tree.get("word_embedding_dimension", tree.get("embedding_dimension"))
  if width != config.width:
    raise BadInput(
      f"{where}: it pools vectors of {width} numbers, the encoder's have"
      f" {config.width}"
    )
  return known[named[0]]


def _dense_widths(
  up: pathlib.Path, down: pathlib.Path, config: ModelConfig
) -> tuple[int, int]:
  """The widths (U, M) of the two projections, whose settings are checked."""
  width, found = config.width, []
  for place in (up, down):
    tree = folders.read_json(place, "config.json")
    if tree.get("bias") is not False:
      raise BadInput(f"{place}: bias={tree.get('bias')!r}; only false is known")
    if tree.get("activation_function") != IDENTITY:
      raise BadInput(
        f"{place}: activation_function={tree.get('activation_function')!r} is"
        f" not supported; only {IDENTITY}"
      )
    for key in ("module_input_name", "module_output_name"):
      if tree.get(key) not in (None, _POOLED):
        raise BadInput(f"{place}: {key}={tree[key]!r} is not supported")
    if tree.get("in_features") != width:
      raise BadInput(
        f"{place}: in_features={tree.get('in_features')!r}, but what comes"
        f" before gives {width} numbers"
      )
    width = tree.get("out_features")
    if type(width) is not int or width < 1:
      raise BadInput(f"{place}: out_features={width!r} is not a whole number")
    found.append(width)
  return found[0], found[1]


def _max_length(folder: pathlib.Path, config: ModelConfig) -> int:
  """The longest text in tokens.

  It is what the folder says, else the number of positions.
  """
  tree: Mapping[str, Any] = {}
  if folders.has(folder, LENGTH):
    tree = folders.read_json(folder, LENGTH)
  if tree.get("do_lower_case"):
    raise BadInput(f"{folder / LENGTH}: do_lower_case is not supported")
  length = tree.get("max_seq_length")
  if length is None and folders.has(folder, "tokenizer_config.json"):
    settings = folders.read_json(folder, "tokenizer_config.json")
    length = settings.get("model_max_length")
  if not isinstance(length, int) or length > config.max_length:
    return config.max_length
  return length


def _tensors(
  transformer: pathlib.Path,
  up: pathlib.Path,
  down: pathlib.Path,
  config: ModelConfig,
) -> dict[Name, Lazy]:
  shapes = tensors.shapes_of(embedder.init(config))
  own = {name: shape for name, shape in shapes.items() if len(name) > 1}
  weights = safetensors_io.open_folder(transformer)
  prefix = names.prefix(weights, _PREFIXES, _PREFIXES[0])
  sources = names.sources(own, names.GEMMA3, {"encoder": prefix})
  tensors.check(
    sources.values(),
    {name: tensor.shape for name, tensor in weights.items()},
    transformer,
  )
  read = lambda name: safetensors_io.read(weights[name])
  found = tensors.lazy(sources, shapes, read)
  for side, place in (("up", up), ("down", down)):
    found |= _dense(place, (side,), shapes[side,])
  return found


def _dense(
  place: pathlib.Path, name: Name, shape: tensors.Shape
) -> dict[Name, Lazy]:
  weights = safetensors_io.open_folder(place)
  source: Source = tensors.matrix(DENSE_WEIGHT, shape)
  tensors.check([source], {k: t.shape for k, t in weights.items()}, place)
  read = lambda key: safetensors_io.read(weights[key])
  return tensors.lazy({name: source}, {name: shape}, read)


def _prompts(folder: pathlib.Path) -> dict[str, str]:
  tree = folders.read_json(folder, SETTINGS)
  where = folder / SETTINGS
  if tree.get("default_prompt_name") is not None:
    raise BadInput(
      f"{where}: default_prompt_name={tree['default_prompt_name']!r} is not"
      " supported; write null, and name the prompt when you encode"
    )
  similarity = tree.get("similarity_fn_name")
  if similarity not in (None, "cosine", "dot"):
    raise BadInput(
      f"{where}: similarity_fn_name={similarity!r} is not supported; only"
      " 'cosine', or 'dot' of unit vectors"
    )
  if tree.get("truncate_dim") is not None:
    raise BadInput(
      f"{where}: truncate_dim={tree['truncate_dim']!r} is not supported; write"
      " null, and give it when you encode"
    )
  found = tree.get("prompts")
  if not isinstance(found, Mapping) or not all(
    isinstance(prompt, str) for prompt in found.values()
  ):
    raise BadInput(f"{where} holds no prompts, a text by name")
  for name in ("query", "document"):
    if name not in found:
      raise BadInput(
        f"{where}: the prompt {name!r} is missing, without which scores drop"
        f" silently; EmbeddingGemma's is {PROMPTS[name]!r}"
      )
  return dict(found)
