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
from embeddinggemma.convert.read import adapter_settings
from embeddinggemma.convert.safetensors_io import Tensor
from embeddinggemma.convert.tensors import Imported
from embeddinggemma.types import BadInput

CONFIG = "adapter_config.json"
WEIGHTS = "adapter_model.safetensors"
_PICKLE = "adapter_model.bin"
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

Change = Callable[[np.ndarray], np.ndarray]


class _Part(NamedTuple):
  """All that the file holds of one module of the base."""

  module: str  # as the file calls it: model.layers.0.self_attn.q_proj
  tensors: dict[str, Tensor]  # part of the adapter, or "weight" -> tensor


def is_adapter(folder: pathlib.Path) -> bool:
  """Whether a folder holds an adapter's settings."""
  return (folder / CONFIG).is_file()


def is_alone(folder: pathlib.Path) -> bool:
  """Whether a folder holds an adapter and no weights that it changes."""
  weights = (safetensors_io.WEIGHTS, safetensors_io.INDEX, "pytorch_model.bin")
  return is_adapter(folder) and not any(
    folders.has(folder, name) for name in weights
  )


def trained_on(folder: pathlib.Path) -> str:
  """The name or path of an adapter's base, as it says itself; "" if it does not.

  Other weights of the same shapes cannot be told from it.
  """
  config = folders.read_json(folder, CONFIG)
  return str(config.get("base_model_name_or_path") or "")


def needs_base(folder: pathlib.Path) -> BadInput:
  """The error for an adapter whose base was not given."""
  base = trained_on(folder)
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
  adapter_settings.check(config, where)
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
    source={
      **model.source,
      "adapter": str(folder),
      "adapted": count,
      "trained_on": trained_on(folder),
    },
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
    wanted = adapter_settings.selected(config, module, where) and _adaptable(
      bare[name]
    )
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
  return name[-1] != "scale"


class _Low(NamedTuple):
  """A product of low rank: what is added to a matrix, over a scale."""

  a: Tensor
  b: Tensor
  is_table: bool  # whose product is transposed
  size: Tensor | None  # DoRA's: the norms of the rows after it

  def product(self) -> np.ndarray:
    """In torch's layout."""
    found = safetensors_io.read(self.b) @ safetensors_io.read(self.a)
    return found.T if self.is_table else found


def _change(
  config: Mapping[str, Any], part: _Part, base: Lazy, where: pathlib.Path
) -> Change:
  """What becomes of a tensor in torch's layout."""
  if set(part.tensors) == {"weight"}:
    return _replacement(config, part, base, where)
  rank = adapter_settings.number(
    config, "r", "rank_pattern", part.module, where
  )
  alpha = adapter_settings.number(
    config, "lora_alpha", "alpha_pattern", part.module, where
  )
  low = _low(config, part, where)
  _check_shapes(low, part, int(rank), base, where)
  keep: Change = lambda weight: weight
  if "weight" in part.tensors:
    keep = _replacement(config, part, base, where)
  scale = alpha / (math.sqrt(rank) if config.get("use_rslora") else rank)

  def change(weight: np.ndarray) -> np.ndarray:
    moved = keep(weight) + low.product() * np.float32(scale)
    if low.size is None:
      return moved
    norms = np.linalg.norm(moved, axis=1)
    factor = safetensors_io.read(low.size).reshape(-1) / norms
    return factor[:, None] * moved

  return change


def _low(config: Mapping[str, Any], part: _Part, where: pathlib.Path) -> _Low:
  """The tensors of one module; BadInput if they are not those of its method."""
  found = part.tensors
  table = "lora_embedding_A" in found
  a, b = (f"lora_{'embedding_' if table else ''}{side}" for side in "AB")
  wanted = {a, b}
  if config.get("use_dora"):
    wanted |= {"lora_magnitude_vector"}
  may = {"weight"} if table else set()  # PEFT saves the table beside them
  if found.keys() - may != wanted or (table and len(wanted) > 2):
    raise BadInput(
      f"{where.parent / WEIGHTS}: {part.module} has {', '.join(sorted(found))};"
      f" not what use_dora={config.get('use_dora')!r} and LoRA ask for"
    )
  return _Low(found[a], found[b], table, found.get("lora_magnitude_vector"))


def _check_shapes(
  low: _Low, part: _Part, rank: int, base: Lazy, where: pathlib.Path
) -> None:
  if low.is_table:
    rows, columns = base.shape
    wanted = (rank, rows), (columns, rank)
  else:
    rows, columns = _torch_shape(base.shape, part.module)
    wanted = (rank, columns), (rows, rank)
  fits = low.size is None or math.prod(low.size.shape) == rows
  if (low.a.shape, low.b.shape) != wanted or not fits:
    raise BadInput(
      f"{where.parent / WEIGHTS}: the adapter of {part.module} has the shapes"
      f" {low.a.shape} and {low.b.shape}, rank {rank} of this model asks for"
      f" {wanted[0]} and {wanted[1]}"
    )


def _torch_shape(shape: tuple[int, ...], module: str) -> tuple[int, int]:
  """(outputs, inputs) of one of our linear maps, by its name in torch."""
  inputs = 2 if module.endswith("o_proj") else 1
  return math.prod(shape[inputs:]), math.prod(shape[:inputs])


def _replacement(
  config: Mapping[str, Any], part: _Part, base: Lazy, where: pathlib.Path
) -> Change:
  """What becomes of a tensor that the adapter holds whole."""
  tensor = part.tensors["weight"]
  table = part.module.endswith(adapter_settings.TABLE)
  whole = table or len(base.shape) == 1
  shape = base.shape if whole else _torch_shape(base.shape, part.module)
  if tensor.shape != shape:
    raise BadInput(
      f"{where.parent / WEIGHTS}: {part.module} has shape {tensor.shape}, this"
      f" model's is {shape}"
    )
  if adapter_settings.is_saved(config, part.module):
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


def _changed(name: Name, lazy: Lazy, change: Change) -> Lazy:
  """One of our tensors, changed in the layout of torch when it is read."""
  back = names.sources({name: lazy.shape}, names.GEMMA3, {name[0]: ""})[name]

  def read() -> np.ndarray:
    theirs = change(names.export(name, lazy.read()))
    return np.ascontiguousarray(back.take(theirs.astype(np.float32)))

  return dataclasses.replace(lazy, read=read)
