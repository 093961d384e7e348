"""Merge a PEFT adapter (LoRA, arXiv 2106.09685) into the model that it changes.

PEFT writes adapter_config.json and adapter_model.safetensors. transformers, and
sentence-transformers with it, apply such files whenever they lie in a
Transformer's folder, beside its weights or without. Here they are merged as
PEFT's `merge_and_unload` does, one tensor at a time, in float32. A setting that
is not understood is refused by name.
"""

import dataclasses
import math
import pathlib
import re
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import numpy as np

from embeddinggemma.checkpoint import Lazy, Name
from embeddinggemma.convert import folder as folders
from embeddinggemma.convert import names, safetensors_io
from embeddinggemma.convert.safetensors_io import Tensor
from embeddinggemma.convert.tensors import Imported
from embeddinggemma.types import BadInput

CONFIG = "adapter_config.json"
WEIGHTS = "adapter_model.safetensors"
_PICKLE = "adapter_model.bin"
_METHOD = "LORA"
# Ways to begin a training that leave the base as it is. Others, such as pissa
# and olora, change it, and the file does not say how.
_BEGINNINGS = (True, False, "gaussian", "eva", "orthogonal")
# Settings that are read below, or that change nothing once training is over.
_KNOWN = {
  "peft_type",
  "r",
  "lora_alpha",
  "target_modules",
  "exclude_modules",
  "use_rslora",
  "use_dora",
  "rank_pattern",
  "alpha_pattern",
  "layers_to_transform",
  "layers_pattern",
  "modules_to_save",
  "init_lora_weights",
  "base_model_name_or_path",
  "task_type",
  "auto_mapping",
  "peft_version",
  "revision",
  "inference_mode",
  "lora_dropout",
  "bias",  # of the base, which has none; any in the file is refused
  "fan_in_fan_out",  # PEFT itself ignores it for linear maps
  "megatron_core",
  "qalora_group_size",
  "runtime_config",
  "ensure_weight_tying",
  "loftq_config",
  "eva_config",
  "unsloth_fixed",
}
_NAMES: Callable[[Any], bool] = lambda value: (
  isinstance(value, list) and all(isinstance(one, str) for one in value)
)
_TEXTS: Callable[[Any], bool] = lambda value: (
  isinstance(value, str) or _NAMES(value)
)
_OBJECT: Callable[[Any], bool] = lambda value: isinstance(value, Mapping)
_NUMBERS: Callable[[Any], bool] = lambda value: all(
  type(one) is int for one in (value if isinstance(value, list) else [value])
)
# Setting -> whether a value is of its type, and what that is.
_TYPES = {
  "rank_pattern": (_OBJECT, "an object"),
  "alpha_pattern": (_OBJECT, "an object"),
  "target_modules": (_TEXTS, "a list of names"),
  "exclude_modules": (_TEXTS, "a list of names"),
  "layers_pattern": (_TEXTS, "a list of names"),
  "modules_to_save": (_NAMES, "a list of names"),
  "layers_to_transform": (_NUMBERS, "a list of whole numbers"),
}
# Fields by which a weight is found in the file: module, part of the adapter.
_PART = re.compile(
  r"(?:base_model\.model\.)?(?P<module>.+?)\."
  r"(?P<part>lora_A|lora_B|lora_embedding_A|lora_embedding_B"
  r"|lora_magnitude_vector)(?:\.default)?(?:\.weight)?"
)
_WHOLE = re.compile(
  r"(?:base_model\.model\.)?(?P<module>.+?)"
  r"(?:\.modules_to_save)?(?:\.default)?(?:\.base_layer)?\.weight"
)
# What may stand before a module's name, by the class that was trained.
_PREFIXES = ("", "model.", "model.language_model.", "language_model.model.")
_EMBEDDING = "embed_tokens"

Change = Callable[[np.ndarray], np.ndarray]


class _Part(NamedTuple):
  """All that the file holds of one module of the base."""

  module: str  # as the file calls it: model.layers.0.self_attn.q_proj
  tensors: dict[str, Tensor]  # part of the adapter, or "weight" -> tensor


def is_adapter(folder: pathlib.Path) -> bool:
  """Whether a folder holds an adapter's settings."""
  return (folder / CONFIG).is_file()


def is_alone(folder: pathlib.Path) -> bool:
  """Whether a folder holds an adapter, and neither weights nor their config."""
  return (
    is_adapter(folder)
    and not folders.has(folder, "config.json")
    and not folders.has(folder, safetensors_io.WEIGHTS)
    and not folders.has(folder, safetensors_io.INDEX)
  )


def needs_base(folder: pathlib.Path) -> BadInput:
  """The error for an adapter whose base was not given."""
  base = folders.read_json(folder, CONFIG).get("base_model_name_or_path")
  named = f" (it was trained on {base!r})" if base else ""
  return BadInput(
    f"{folder} is an adapter alone, which needs its base: --base=DIR of"
    f" `import`, the folder or checkpoint of that model{named}"
  )


def merged(model: Imported, folder: pathlib.Path) -> Imported:
  """The model with the adapter of a folder merged into its weights.

  Raises:
    BadInput: the adapter is of another method than LoRA; a setting or a tensor
      is not understood, or does not fit the model; or a file is missing.
  """
  where = folder / CONFIG
  config = folders.read_json(folder, CONFIG)
  _check_settings(config, where)
  path = _weights(folder)
  bare = {module_of(name): name for name in model.tensors if _is_matrix(name)}
  parts = _parts(safetensors_io.open_file(path), bare, path)
  _check_selection(config, parts, bare, where)
  changes = {
    bare[name]: _change(config, part, model.tensors[bare[name]], where)
    for name, part in parts.items()
  }
  found = {
    name: _changed(name, lazy, changes[name]) if name in changes else lazy
    for name, lazy in model.tensors.items()
  }
  count = len(changes)
  return model._replace(
    tensors=found,
    source={**model.source, "adapter": str(folder), "adapted": count},
    read={
      **model.read,
      CONFIG: "how the adapter is applied",
      WEIGHTS: f"LoRA, merged into {count} of the tensors, in float32",
    },
  )


def _is_matrix(name: Name) -> bool:
  """Whether PEFT can adapt or replace it: not the head, which is beside it."""
  return len(name) > 1


def module_of(name: Name) -> str:
  """Their name of a tensor's module: layers.3.self_attn.q_proj."""
  return names.theirs(name[1:], names.GEMMA3).removesuffix(".weight")


def _check_settings(config: Mapping[str, Any], where: pathlib.Path) -> None:
  method = config.get("peft_type")
  if method != _METHOD:
    raise BadInput(
      f"{where}: peft_type={method!r} is not supported, only {_METHOD!r}; merge"
      " it with PEFT's merge_and_unload and give what that saves"
    )
  beginning = config.get("init_lora_weights", True)
  if beginning not in _BEGINNINGS:
    raise BadInput(
      f"{where}: init_lora_weights={beginning!r} changes the base, and the"
      " adapter does not say how; save it with"
      " path_initial_model_for_weight_conversion, which makes it a plain LoRA"
    )
  for key, value in config.items():
    if key not in _KNOWN and value:
      raise BadInput(
        f"{where}: {key}={value!r} is not understood; merge it with PEFT's"
        " merge_and_unload and give what that saves"
      )
  for key, (fits, what) in _TYPES.items():
    if config.get(key) and not fits(config[key]):
      raise BadInput(f"{where}: {key}={config[key]!r} is not {what}")


def _weights(folder: pathlib.Path) -> pathlib.Path:
  if folders.has(folder, WEIGHTS):
    return folders.inside(folder, WEIGHTS)
  if folders.has(folder, _PICKLE):
    raise safetensors_io.refusal(folder / _PICKLE)
  raise BadInput(
    f"{folder} has {CONFIG} but no {WEIGHTS}; copy it there, or take {CONFIG}"
    " away if the weights are merged already"
  )


def _parts(
  found: Mapping[str, Tensor], bare: Mapping[str, Name], path: pathlib.Path
) -> dict[str, _Part]:
  """Our module's bare name -> what the file holds of it."""
  parts: dict[str, _Part] = {}
  for key, tensor in found.items():
    match = _PART.fullmatch(key) or _WHOLE.fullmatch(key)
    module = match["module"] if match else ""
    known = [
      module.removeprefix(prefix)
      for prefix in _PREFIXES
      if module.startswith(prefix) and module.removeprefix(prefix) in bare
    ]
    if match is None or not known:
      raise BadInput(
        f"{path}: tensor {key!r} belongs to no matrix of the model that LoRA"
        " changes here; merge it with PEFT's merge_and_unload and give what"
        " that saves"
      )
    part = parts.setdefault(known[0], _Part(module, {}))
    kind = match.groupdict().get("part") or "weight"
    if part.module != module or kind in part.tensors:
      raise BadInput(f"{path}: tensor {key!r} is there under two names")
    part.tensors[kind] = tensor
  if not parts:
    raise BadInput(f"{path} holds no tensor; the adapter is not whole")
  return parts


def _check_selection(
  config: Mapping[str, Any],
  parts: Mapping[str, _Part],
  bare: Mapping[str, Name],
  where: pathlib.Path,
) -> None:
  """Raise BadInput unless the settings mean the modules that the file holds.

  PEFT takes from the file what the settings name, and no more.
  """
  modules = next(iter(parts.values())).module
  first = next(iter(parts))
  prefix = modules.removesuffix(first)
  for name in bare:
    part = parts.get(name)
    module = part.module if part else prefix + name
    has = part is not None and bool(part.tensors.keys() - {"weight"})
    wanted = _selected(config, module, where) and _adaptable(bare[name])
    if has and not wanted:
      raise BadInput(
        f"{where}: target_modules, exclude_modules and layers_to_transform do"
        f" not name {module!r}, of which {WEIGHTS} holds an adapter; they are"
        " not of one training"
      )
    if wanted and not has:
      raise BadInput(
        f"{where}: target_modules names {module!r}, of which {WEIGHTS} holds no"
        " adapter; it is not whole"
      )


def _adaptable(name: Name) -> bool:
  """Whether LoRA adapts such a tensor: linear maps and the table."""
  return name[-1] not in ("scale",)


def _selected(
  config: Mapping[str, Any], module: str, where: pathlib.Path
) -> bool:
  """Whether the settings name a module: PEFT's check_target_module_exists."""
  ends = lambda wanted: any(
    module == one or module.endswith(f".{one}") for one in wanted
  )
  excluded = config.get("exclude_modules") or ()
  if isinstance(excluded, str):
    excluded_here = _matches(excluded, module, "exclude_modules", where)
  else:
    excluded_here = ends(excluded)
  if excluded_here or _is_excluded(config, module):
    return False
  targets = config.get("target_modules") or ()
  if targets == "all-linear":
    return not module.endswith(_EMBEDDING)
  if isinstance(targets, str):
    return _matches(targets, module, "target_modules", where)
  if module in targets:
    return True
  layers = config.get("layers_to_transform")
  if layers is None or layers == [] or not ends(targets):
    return ends(targets)
  index = re.search(rf"(?:^|\.){_layers_pattern(config)}\.(\d+)\.", module)
  layers = layers if isinstance(layers, list) else [layers]
  return index is not None and int(index[1]) in layers


def _layers_pattern(config: Mapping[str, Any]) -> str:
  """A pattern of what stands before a layer's number."""
  given = config.get("layers_pattern") or r"[^.]+"
  return given if isinstance(given, str) else f"(?:{'|'.join(given)})"


def _matches(pattern: str, module: str, key: str, where: pathlib.Path) -> bool:
  try:
    return re.fullmatch(pattern, module) is not None
  except re.error as error:
    raise BadInput(
      f"{where}: {key}={pattern!r} is no pattern: {error}"
    ) from None


def _is_excluded(config: Mapping[str, Any], module: str) -> bool:
  """Whether LoRA leaves a module out since it is trained whole."""
  return any(
    re.match(rf"(^|.*\.){re.escape(name)}($|\..*)", module)
    for name in _saved(config)
  )


def _is_saved(config: Mapping[str, Any], module: str) -> bool:
  """Whether a module, or one that holds it, is trained whole.

  PEFT compares the ends of names here, so that "norm" means "q_norm" as well.
  """
  parts = module.split(".")
  around = [".".join(parts[:n]) for n in range(1, len(parts) + 1)]
  return any(
    holder.endswith(name) for holder in around for name in _saved(config)
  )


def _saved(config: Mapping[str, Any]) -> list[str]:
  return config.get("modules_to_save") or []


def _change(
  config: Mapping[str, Any], part: _Part, base: Lazy, where: pathlib.Path
) -> Change:
  """What becomes of a tensor in torch's layout."""
  found = part.tensors
  if set(found) == {"weight"}:
    return _replacement(config, part, base, where)
  table = "lora_embedding_A" in found
  down, up = (
    found.get(f"lora_{'embedding_' if table else ''}{side}") for side in "AB"
  )
  size = found.get("lora_magnitude_vector")
  known = {"lora_A", "lora_B", "lora_embedding_A", "lora_embedding_B"}
  dora = bool(config.get("use_dora"))
  if (
    down is None
    or up is None
    or ("weight" in found and not table)
    or len(found.keys() & known) != 2
    or dora != (size is not None)
    or (table and dora)
  ):
    raise BadInput(
      f"{where.parent / WEIGHTS}: {part.module} has {', '.join(sorted(found))};"
      " not what use_dora and LoRA ask for"
    )
  rank = _setting(config, "r", "rank_pattern", part.module, where)
  ours = base.shape
  rows, columns = ours if table else _torch_shape(ours, part.module)
  wanted = (
    ((rank, rows), (columns, rank))
    if table
    else (
      (rank, columns),
      (rows, rank),
    )
  )
  if (down.shape, up.shape) != wanted or (
    size is not None and math.prod(size.shape) != rows
  ):
    raise BadInput(
      f"{where.parent / WEIGHTS}: the adapter of {part.module} has the shapes"
      f" {down.shape} and {up.shape}, rank {rank} of this model asks for"
      f" {wanted[0]} and {wanted[1]}"
    )
  kept = _replacement(config, part, base, where) if "weight" in found else None
  alpha = _setting(config, "lora_alpha", "alpha_pattern", part.module, where)
  scale = alpha / (math.sqrt(rank) if config.get("use_rslora") else rank)

  def change(weight: np.ndarray) -> np.ndarray:
    weight = kept(weight) if kept else weight
    product = safetensors_io.read(up) @ safetensors_io.read(down)
    moved = weight + (product.T if table else product) * np.float32(scale)
    if size is None:
      return moved
    norms = np.linalg.norm(moved, axis=1)
    factor = safetensors_io.read(size).reshape(-1) / norms
    return factor[:, None] * moved

  return change


def _torch_shape(shape: tuple[int, ...], module: str) -> tuple[int, int]:
  """(outputs, inputs) of one of our linear maps, by its name in torch."""
  inputs = 2 if module.endswith("o_proj") else 1
  return math.prod(shape[inputs:]), math.prod(shape[:inputs])


def _replacement(
  config: Mapping[str, Any], part: _Part, base: Lazy, where: pathlib.Path
) -> Change:
  """What becomes of a tensor that the adapter holds whole."""
  tensor = part.tensors["weight"]
  table = part.module.endswith(_EMBEDDING)
  whole = table or len(base.shape) == 1
  shape = base.shape if whole else _torch_shape(base.shape, part.module)
  if tensor.shape != shape:
    raise BadInput(
      f"{where.parent / WEIGHTS}: {part.module} has shape {tensor.shape}, this"
      f" model's is {shape}"
    )
  if _is_saved(config, part.module):
    return lambda weight: safetensors_io.read(tensor)

  def same(weight: np.ndarray) -> np.ndarray:
    # PEFT saves the table beside an adapter of it. Whether one that differs
    # counts depends on who reads the file.
    if not np.array_equal(weight, safetensors_io.read(tensor)):
      raise BadInput(
        f"{where.parent / WEIGHTS}: {part.module} is saved whole, differs from"
        f" the base's, and modules_to_save of {CONFIG} does not name it; add it"
        " there, or merge it with PEFT's merge_and_unload"
      )
    return weight

  return same


def _setting(
  config: Mapping[str, Any],
  key: str,
  pattern: str,
  module: str,
  where: pathlib.Path,
) -> int | float:
  """r or lora_alpha of a module, for which a pattern may say another."""
  value = config.get(key, 8)  # PEFT's own default of both
  for name, own in (config.get(pattern) or {}).items():
    if _matches(rf"(.*\.)?({name})", module, pattern, where):
      value = own
      break
  number = isinstance(value, int | float) and not isinstance(value, bool)
  if not number or value <= 0 or (key == "r" and value != int(value)):
    raise BadInput(f"{where}: {key}={value!r} is not a number above 0")
  return value


def _changed(name: Name, lazy: Lazy, change: Change) -> Lazy:
  """One of our tensors, changed in the layout of torch when it is read."""
  back = names.sources({name: lazy.shape}, names.GEMMA3, {name[0]: ""})[name]

  def read() -> np.ndarray:
    theirs = change(names.export(name, lazy.read()))
    return np.ascontiguousarray(back.take(theirs.astype(np.float32)))

  return dataclasses.replace(lazy, read=read)
