"""Read EmbeddingGemma from a sentence-transformers folder (paper section 2.1).

Its modules are Transformer, mean Pooling, two Dense without bias or activation,
and Normalize. The names of versions 5 and 6 are read; a module or a setting
that this project would not reproduce is refused by name.
"""

import contextlib
import dataclasses
import json
import pathlib
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from embeddinggemma import checkpoint
from embeddinggemma.checkpoint import Lazy, Name
from embeddinggemma.convert import folder as folders
from embeddinggemma.convert import names, origin, safetensors_io, tensors
from embeddinggemma.convert.read import (
  adapters,
  hugging_face,
  lengths,
  tokenizer_ends,
  tokenizer_files,
  transformer_settings,
)
from embeddinggemma.convert.safetensors_io import Tensor
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
POSITIONS = "positions"  # key of what an import keeps of its source
SETTINGS = "config_sentence_transformers.json"
LENGTH = transformer_settings.FILE
KINDS = ("Transformer", "Pooling", "Dense", "Dense", "Normalize")
DENSE_WEIGHT = "linear.weight"
_POOLED = "sentence_embedding"
_IDENTITIES = (IDENTITY, "torch.nn.Identity", "torch.nn.modules.Identity")
# What may stand before the encoder's tensors. The first two are those that
# transformers looks for; the others are of torch.compile, PEFT and larger models.
_USUAL = ("", "model.")
_PREFIXES = (
  *_USUAL,
  "_orig_mod.",
  "_orig_mod.model.",
  "base_model.model.",
  "base_model.model.model.",
  "language_model.",
  "model.language_model.",
)
_HEAD = "lm_head.weight"  # of a language model; an embedder has no use for it
_WIDTHS = ("embedding_dimension", "word_embedding_dimension")


def is_folder(path: pathlib.Path) -> bool:
  """Whether a path is a sentence-transformers folder."""
  return (path / MODULES).is_file()


def is_embeddinggemma(folder: pathlib.Path) -> bool:
  """Whether a folder is meant to be an EmbeddingGemma, whole or not.

  That is a Gemma 3 with attention in both directions, or with its modules; one
  whose encoder is an adapter counts too. BadInput if modules.json is damaged.
  """
  kinds, places, _ = _paths(folder)
  if adapters.is_alone(places[0]):
    return True
  if not folders.has(places[0], "config.json"):
    return False
  tree = folders.read_json(places[0], "config.json")
  if tree.get("model_type") != "gemma3_text":
    return False
  both = tree.get("use_bidirectional_attention") is True
  return both or tuple(kind.split(".")[-1] for kind in kinds) == KINDS


class Module(NamedTuple):
  """A module of a folder: its class, and where its files are."""

  kind: str
  place: pathlib.Path


def modules(folder: pathlib.Path) -> list[Module]:
  """All modules that a folder names; BadInput if modules.json is damaged."""
  found = _paths(folder)
  return list(map(Module, found.kinds, found.places))


def read(folder: pathlib.Path, base: Imported | None = None) -> Imported:
  """Read the model of a folder: everything is checked, tensors stay on disk.

  Args:
    folder: of sentence-transformers.
    base: the encoder of a folder that has an adapter instead of its own.

  Raises:
    BadInput: a file or tensor is missing, unexpected or wrong, or the model is
      not built as EmbeddingGemma is.
  """
  transformer, pooling, up, down, normalize = _modules(folder)
  adapted = adapters.is_adapter(transformer)
  if adapters.is_alone(transformer) and base is None:
    raise adapters.needs_base(transformer)
  config, positions = _encoder(transformer, base)
  pooled = _pooling(folders.read_json(pooling, "config.json"), config, pooling)
  widths = _dense_widths(up, down, config)
  _check_normalize(normalize)
  settings, file = transformer_settings.read(transformer)
  length = lengths.of_folder(transformer, settings, file, positions)
  config = dataclasses.replace(
    config,
    pooling=pooled,
    up_width=widths[0],
    embed_dim=widths[1],
    max_length=length.tokens,
  )
  found, weights = _tensors(transformer, up, down, config, base)
  tokenizer = _tokenizer(transformer, config, base)
  model = Imported(
    config,
    found,
    tokenizer.model,
    _prompts(folder),
    FAMILY,
    left_out=int(any(name.endswith(_HEAD) for name in weights)),
    aside=tokenizer.aside,
    source={
      POSITIONS: positions,
      "tokenizer": tokenizer.source,
      **_cuts(folder),
    },
    warned=(
      *(base.warned if base else ()),
      *_prefix_notes(weights),
      *transformer_settings.dtype_notes(transformer, settings, weights),
      *length.warned,
      *tokenizer.warned,
    ),
  )
  if adapted:
    model = adapters.merged(model, transformer)
  rows = {file: "how texts are read", length.file: length.what}
  return model._replace(
    read=_rows(folder, (transformer, pooling, up, down, normalize), model, rows)
  )


def _cuts(folder: pathlib.Path) -> dict[str, Any]:
  """What an export of ours says was cut out of a larger model."""
  said = None
  with contextlib.suppress(BadInput):  # a damaged mark decides nothing
    said = folders.mark(folder).get(checkpoint.CUTS)
  found = origin.read_cuts(said)
  return {checkpoint.CUTS: found} if found else {}


def _encoder(
  transformer: pathlib.Path, base: Imported | None
) -> tuple[ModelConfig, int]:
  """The encoder's config, and the number of positions it was made for."""
  if base is not None:
    if not adapters.is_alone(transformer):
      alone = "holds no adapter"
      if adapters.is_adapter(transformer):
        alone = "has weights of its own beside its adapter"
      raise BadInput(
        f"{transformer} {alone}; --base is for an adapter without weights: leave"
        " it out"
      )
    if not any(name[0] == "encoder" for name in base.tensors):
      raise BadInput(
        f"--base is {base.family}, which has no encoder to be adapted; give an"
        " EmbeddingGemma"
      )
    return base.config, base.source.get(POSITIONS, base.config.max_length)
  tree = folders.read_json(transformer, "config.json")
  where = transformer / "config.json"
  _check_encoder(tree, where)
  config = hugging_face.model_config(tree, hugging_face.GEMMA3, where)
  return config, config.max_length


def transformer_of(folder: pathlib.Path) -> pathlib.Path:
  """The folder of the first module, which has the tokenizer."""
  return _paths(folder).places[0]


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
  kinds, paths, keys = _paths(folder)
  for kind in kinds:
    known = kind.startswith("sentence_transformers.")
    if not known or kind.split(".")[-1] not in KINDS:
      raise BadInput(
        f"{place} holds the module {kind}, which is not supported; an"
        f" EmbeddingGemma is {', '.join(KINDS)}"
      )
  twice = [key for key in keys if keys.count(key) > 1]
  if twice:
    raise BadInput(
      f"{place} names two modules {twice[0]!r}, of which sentence-transformers"
      " keeps one; give each a name of its own"
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


class _Paths(NamedTuple):
  """The rows of modules.json, whichever modules they are."""

  kinds: Sequence[str]
  places: Sequence[pathlib.Path]
  names: Sequence[str]


def _paths(folder: pathlib.Path) -> _Paths:
  """The modules that a folder names, not checked yet."""
  place = folder / MODULES
  try:
    rows = json.loads(folders.inside(folder, MODULES).read_bytes())
    kinds = [str(row["type"]) for row in rows]
    paths = [str(row["path"]) for row in rows]
    keys = [str(row["name"]) for row in rows]
  except (OSError, ValueError, KeyError, TypeError) as error:
    raise BadInput(f"{place} cannot be read: {error}") from None
  if not rows:
    raise BadInput(f"{place} has no modules; download the folder again")
  places = [folders.inside(folder, path) if path else folder for path in paths]
  return _Paths(kinds, places, keys)


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
  for key in _WIDTHS:
    if tree.get(key, config.width) != config.width:
      raise BadInput(
        f"{where}: it pools vectors of {tree[key]!r} numbers ({key}), the"
        f" encoder's have {config.width} (hidden_size of config.json)"
      )
  if not set(tree) & set(_WIDTHS):
    raise BadInput(
      f"{where}: config.json lacks {_WIDTHS[0]}; the encoder's is {config.width}"
    )
  return known[named[0]]


def _dense_widths(
  up: pathlib.Path, down: pathlib.Path, config: ModelConfig
) -> tuple[int, int]:
  """The widths (U, M) of the two projections, whose settings are checked."""
  width, before, found = config.width, "hidden_size of config.json", []
  for place in (up, down):
    tree = folders.read_json(place, "config.json")
    if tree.get("bias") is not False:
      raise BadInput(
        f"{place}: bias={tree.get('bias')!r} is not supported; an"
        " EmbeddingGemma's Dense has none: write false if the weights have no"
        " linear.bias"
      )
    if tree.get("activation_function") not in _IDENTITIES:
      raise BadInput(
        f"{place}: activation_function={tree.get('activation_function')!r} is"
        f" not supported; only {IDENTITY}"
      )
    _check_names(tree, place)
    if tree.get("use_residual"):
      raise BadInput(
        f"{place}: use_residual={tree['use_residual']!r} is not supported; only"
        " false"
      )
    if tree.get("in_features") != width:
      raise BadInput(
        f"{place}: in_features={tree.get('in_features')!r}, but what comes"
        f" before gives {width} numbers ({before})"
      )
    before = f"out_features of {place.name}"
    width = tree.get("out_features")
    if type(width) is not int or width < 1:
      raise BadInput(f"{place}: out_features={width!r} is not a whole number")
    found.append(width)
  return found[0], found[1]


def _check_names(tree: Mapping[str, Any], place: pathlib.Path) -> None:
  """Raise BadInput unless a module reads and writes the text's vector."""
  for key in ("module_input_name", "module_output_name"):
    if tree.get(key) not in (None, _POOLED):
      raise BadInput(
        f"{place}: {key}={tree[key]!r} is not supported; only {_POOLED!r}"
      )


def _check_normalize(place: pathlib.Path) -> None:
  if folders.has(place, "config.json"):
    _check_names(folders.read_json(place, "config.json"), place)


def _prefix_notes(weights: Mapping[str, Tensor]) -> tuple[str, ...]:
  """A warning if transformers would not find the tensors by their names."""
  prefix = names.prefix(weights, _PREFIXES, _PREFIXES[0])
  if prefix in _USUAL:
    return ()
  return (
    f"the names of the tensors begin with {prefix!r}, by which transformers"
    " finds none of them; they are read here",
  )


def _tensors(
  transformer: pathlib.Path,
  up: pathlib.Path,
  down: pathlib.Path,
  config: ModelConfig,
  base: Imported | None,
) -> tuple[dict[Name, Lazy], Mapping[str, Tensor]]:
  """Our tensors, and those of the encoder's file, if it has one."""
  shapes = tensors.shapes_of(embedder.init(config))
  own = {name: shape for name, shape in shapes.items() if len(name) > 1}
  weights: Mapping[str, Tensor] = {}
  if base is not None:
    found = {name: base.tensors[name] for name in own}
  else:
    weights = safetensors_io.open_folder(transformer)
    prefix = names.prefix(weights, _PREFIXES, _PREFIXES[0])
    sources = names.sources(own, names.GEMMA3, {"encoder": prefix})
    tensors.check(
      sources.values(),
      {name: tensor.shape for name, tensor in weights.items()},
      transformer,
      lambda name: name.endswith(_HEAD),
      "config.json",
    )
    read = lambda name: safetensors_io.read(weights[name])
    found = tensors.lazy(sources, shapes, read)
  for side, place in (("up", up), ("down", down)):
    found |= _dense(place, (side,), shapes[side,])
  return found, weights


def _dense(
  place: pathlib.Path, name: Name, shape: tensors.Shape
) -> dict[Name, Lazy]:
  weights = safetensors_io.open_folder(place)
  source: Source = tensors.matrix(DENSE_WEIGHT, shape)
  shapes = {k: t.shape for k, t in weights.items()}
  tensors.check([source], shapes, place, config="out_features of config.json")
  read = lambda key: safetensors_io.read(weights[key])
  return tensors.lazy({name: source}, {name: shape}, read)


def _tokenizer(
  transformer: pathlib.Path, config: ModelConfig, base: Imported | None
) -> tokenizer_files.Read:
  """The folder's own tokenizer, or the base's where an adapter has none."""
  if base and not any(folders.has(transformer, x) for x in folders.TOKENIZERS):
    return tokenizer_files.Read(base.tokenizer, "")
  return tokenizer_files.read(transformer, config.vocab_size)


def _rows(
  folder: pathlib.Path,
  places: Sequence[pathlib.Path],
  model: Imported,
  texts: Mapping[str, str],
) -> dict[str, str]:
  """File, relative to the folder, -> what was read from it.

  `texts` is what the Transformer's files say of how texts are read.
  """
  transformer, pooling, up, down, normalize = places
  config = model.config
  found: dict[pathlib.Path, str] = {
    folder / MODULES: "Transformer, Pooling, two Dense, Normalize",
    folder / SETTINGS: f"{len(model.prompts)} prompts",
  }
  said = {
    "config.json": f"{config.num_layers} layers of width {config.width}",
    **model.read,
    **tokenizer_files.roles(model.source["tokenizer"]),
  }
  for name, what in texts.items():
    said[name] = f"{said[name]}; {what}" if name in said else what
  found |= {transformer / name: what for name, what in said.items()}
  found[pooling / "config.json"] = f"pooling: {config.pooling}"
  found[normalize / "config.json"] = "unit length"
  for place in (up, down):
    found[place / "config.json"] = "a linear map without bias"
  for place in (transformer, up, down):
    found |= _weight_rows(place)
  return {
    path.relative_to(folder).as_posix(): what
    for path, what in found.items()
    if path.is_file()
  }


def _weight_rows(place: pathlib.Path) -> dict[pathlib.Path, str]:
  """Files of weights -> how many tensors of which type they hold."""
  if not any(
    folders.has(place, name)
    for name in (safetensors_io.WEIGHTS, safetensors_io.INDEX)
  ):
    return {}
  by_file = safetensors_io.files(safetensors_io.open_folder(place))
  rows = {
    place / name: safetensors_io.said(found) for name, found in by_file.items()
  }
  if safetensors_io.WEIGHTS not in by_file:
    rows[place / safetensors_io.INDEX] = f"which of {len(by_file)} files"
  return rows


def _there(prompts: Mapping[str, str]) -> str:
  """The names of the prompts that there are, for a message."""
  return f"there are {', '.join(map(repr, prompts))}; " if prompts else ""


def _prompts(folder: pathlib.Path) -> dict[str, str]:
  tree = folders.read_json(folder, SETTINGS)
  where = folder / SETTINGS
  if tree.get("default_prompt_name") is not None:
    raise BadInput(
      f"{where}: default_prompt_name={tree['default_prompt_name']!r} is not"
      " supported; write null, and name the prompt when you encode"
    )
  if tree.get("model_type", "SentenceTransformer") != "SentenceTransformer":
    raise BadInput(
      f"{where}: model_type={tree['model_type']!r} is not supported; only"
      " 'SentenceTransformer'"
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
        f" silently; {_there(found)}add it: EmbeddingGemma's is"
        f" {PROMPTS[name]!r}"
      )
  return dict(found)
