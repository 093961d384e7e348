"""The settings of a PEFT adapter: adapter_config.json, read as PEFT reads it.

A setting that is not understood is refused by name.
"""

import pathlib
import re
from collections.abc import Callable, Mapping
from typing import Any

from embeddinggemma.types import BadInput

TABLE = "embed_tokens"  # the module of the embedding table
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


def check(config: Mapping[str, Any], where: pathlib.Path) -> None:
  """Raise BadInput for a method or a setting that is not understood."""
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


def selected(
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
    return not module.endswith(TABLE)
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


def is_saved(config: Mapping[str, Any], module: str) -> bool:
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


def number(
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
