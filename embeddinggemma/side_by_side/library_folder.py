"""Folders that the package sentence-transformers runs: found, and looked at.

It would run what a folder brings along: code of its own, in versions before 6,
and pickles. And it would make another model of what is none of its embedders.
"""

import pathlib
import re
from typing import Any

from embeddinggemma.convert import folder as folders
from embeddinggemma.convert import safetensors_io
from embeddinggemma.convert.read import sentence_transformers as reading
from embeddinggemma.types import BadInput

_OWN = "sentence_transformers."  # begins the package's own modules
_KIND = "SentenceTransformer"  # what its embedders call themselves
_COSINE = "cosine"
# What transformers 5 and 4 print of tensors that no file has.
_MISSING = re.compile(r"^(\S+)\s*\|\s*(?:\x1b\[[\d;]*m)?MISSING", re.MULTILINE)
_DRAWN = re.compile(r"newly initialized: \[(.*?)\]", re.DOTALL)
# Where a model may say which shorter dimensions it was trained for.
_DIMS = ("matryoshka_dims", "matryoshka_dimensions")
# Pickles of weights that are loaded, whatever else there is -> what is loaded
# in their place if it is there.
_PICKLED = {
  "pytorch_model.bin": (safetensors_io.WEIGHTS, safetensors_io.INDEX),
  "adapter_model.bin": ("adapter_model.safetensors",),
}


def find(name: str) -> pathlib.Path:
  """The folder that a path means, or a name in the cache of the Hub.

  BadInput if there is none, or if it does not say of which modules it is.
  """
  folder = pathlib.Path(name)
  if not folder.exists():
    found = _cached(name)
    if found is None:
      raise BadInput(
        f"{name} does not exist, and the cache of the Hugging Face Hub has no"
        f" such model; fetch it first: hf download {name}"
      )
    return found
  if not reading.is_folder(folder):
    raise BadInput(
      f"{folder} has no {reading.MODULES}, so its pooling would be a guess; give"
      " a folder that sentence-transformers saved"
    )
  return folder


def _cached(name: str) -> pathlib.Path | None:
  try:
    import huggingface_hub

    found = huggingface_hub.try_to_load_from_cache(name, reading.MODULES)
  except (ImportError, ValueError):  # not installed; or no name of the Hub
    return None
  return pathlib.Path(found).parent if isinstance(found, str) else None


def check(folder: pathlib.Path) -> None:
  """Raise BadInput for what the package would run that is no plain embedder."""
  for module in reading.modules(folder):
    if not module.kind.startswith(_OWN):
      raise BadInput(
        f"{folder / reading.MODULES} names {module.kind}, code of the model's"
        " own or of another package, which is not run; serve the model"
        " elsewhere, and name its address"
      )
    _require_safe(module.place)
  kind = _settings(folder).get("model_type", _KIND)
  if kind != _KIND:
    raise BadInput(
      f"{folder / reading.SETTINGS}: model_type={kind!r}, and only {_KIND!r}"
      " gives a vector for a text"
    )


def _require_safe(place: pathlib.Path) -> None:
  """Raise BadInput if a module's weights would be unpickled."""
  if not place.is_dir():
    return
  for name, instead in _PICKLED.items():
    if folders.has(place, name) and not any(
      folders.has(place, other) for other in instead
    ):
      raise safetensors_io.refusal(place / name)
  if not any(place.glob("*.safetensors")):
    for path in sorted(place.iterdir()):
      if safetensors_io.is_pickle(path):
        raise safetensors_io.refusal(path)


def missing(said: str) -> list[str]:
  """The tensors that a model lacks, by what transformers prints as it loads.

  It draws them at random, and no more is heard of it. A pooler, which many files
  lack, is read by no embedder.
  """
  lists = _DRAWN.findall(said)
  found = [*_MISSING.findall(said), *re.findall(r"'([^']+)'", " ".join(lists))]
  return [name for name in found if "pooler" not in name.split(".")]


def dims(folder: pathlib.Path) -> tuple[int, ...]:
  """The dimensions that a model says it was trained for; () if it says none."""
  first = reading.modules(folder)[0].place
  said = [
    tree.get(key)
    for tree in (_settings(folder), _json(first, "config.json"))
    for key in _DIMS
  ]
  lists = (value for value in said if isinstance(value, list))
  return tuple(dim for dims in lists for dim in dims if type(dim) is int)


def default_prompt(folder: pathlib.Path) -> str:
  """The name of the prompt that a model has where none is named; or ""."""
  return str(_settings(folder).get("default_prompt_name") or "")


def similarity(folder: pathlib.Path) -> str:
  """What a model compares vectors by, if that may differ from cosines; or ""."""
  last = reading.modules(folder)[-1].kind.rpartition(".")[2]
  named = _settings(folder).get("similarity_fn_name") or _COSINE
  return "" if last == "Normalize" or named == _COSINE else str(named)


def _settings(folder: pathlib.Path) -> dict[str, Any]:
  return _json(folder, reading.SETTINGS)


def _json(folder: pathlib.Path, name: str) -> dict[str, Any]:
  return folders.read_json(folder, name) if folders.has(folder, name) else {}
