"""Checks of a sentence-transformers folder as other programs read it.

Each fault here is one that they do not report: what a key that is missing or
different makes them do. No weights are read.
"""

import json
import pathlib
from collections.abc import Iterator
from typing import Any

from embeddinggemma.doctor import parts
from embeddinggemma.doctor.opened import Finding

MODULES = "modules.json"
_ORDER = ["Transformer", "Pooling", "Dense", "Dense", "Normalize"]
_SIDES = ("query", "document")
# (file, key, value, what another value or none does)
_KEYS = (
  (
    "config.json",
    "use_bidirectional_attention",
    True,
    "transformers makes attention causal without it",
  ),
  (
    "tokenizer_config.json",
    "add_bos_token",
    True,
    "some versions of transformers leave BOS out",
  ),
  (
    "tokenizer_config.json",
    "add_eos_token",
    True,
    "some versions of transformers leave EOS out",
  ),
)
# By module: (key, value, whether it must be there, what another one does)
_MODULE_KEYS: dict[str, tuple[tuple[str, Any, bool, str], ...]] = {
  "Pooling": (
    ("pooling_mode_mean_tokens", True, False, "vectors are no means of tokens"),
    ("include_prompt", True, False, "the prompt is not pooled"),
  ),
  "Dense": (
    ("bias", False, False, "a bias that was not trained is added"),
    (
      "activation_function",
      "torch.nn.modules.linear.Identity",
      True,
      "sentence-transformers 6 then applies Tanh",
    ),
  ),
}


def is_folder(path: pathlib.Path) -> bool:
  """Whether a path looks like a sentence-transformers folder."""
  return (path / MODULES).is_file()


def check_folder(path: pathlib.Path) -> Finding:
  """Its JSON files say all that other programs would else guess wrongly."""
  try:
    for reason, fix in _faults(path):
      return Finding("folder", False, reason, fix)
  except _Unreadable as error:
    return Finding("folder", False, str(error), "export the folder again")
  return Finding("folder", True, f"{', '.join(_ORDER)}; keys as they must be")


class _Unreadable(Exception):
  """A file that is missing, not JSON, or outside the folder."""


def _read(folder: pathlib.Path, name: str) -> Any:
  path = (folder / name).resolve()
  if not path.is_relative_to(folder.resolve()):
    raise _Unreadable(f"{name} lies outside the folder")
  try:
    return json.loads(path.read_text(encoding="utf-8"))
  except OSError:
    raise _Unreadable(f"{name} is missing or cannot be read") from None
  except ValueError:
    raise _Unreadable(f"{name} is not JSON") from None


def _tree(folder: pathlib.Path, name: str) -> dict[str, Any]:
  tree = _read(folder, name)
  if not isinstance(tree, dict):
    raise _Unreadable(f"{name} is not a JSON object")
  return tree


def _faults(folder: pathlib.Path) -> Iterator[tuple[str, str]]:
  """(reason, fix), one a fault."""
  modules = [
    (str(item.get("type", "")).rpartition(".")[2], str(item.get("path", "")))
    for item in _read(folder, MODULES)
    if isinstance(item, dict)
  ]
  kinds = [kind for kind, _ in modules]
  if kinds != _ORDER:
    yield (
      f"{MODULES} lists {', '.join(kinds) or 'nothing'}",
      f"list {', '.join(_ORDER)}, with their folders beside it",
    )
  for name, key, value, else_ in _KEYS:
    if (found := _tree(folder, name).get(key)) != value:
      yield _fault(name, key, found, value, else_)
  window = _tree(folder, "config.json").get("sliding_window")
  if isinstance(window, int) and parts.above_a_power(window):
    yield (
      f"config.json: sliding_window is {window}, halved by a save of"
      " transformers 4; a reader halves it again",
      "write the full width: 512 in EmbeddingGemma",
    )
  for kind, place in modules:
    rules = _MODULE_KEYS.get(kind, ())
    tree = _tree(folder, f"{place}/config.json") if rules else {}
    for key, value, needed, else_ in rules:
      found = tree.get(key, None if needed else value)
      if found != value:
        yield _fault(f"{place}/config.json", key, found, value, else_)
  stored = _tree(folder, "config_sentence_transformers.json").get("prompts")
  for name in _SIDES:
    if not (isinstance(stored, dict) and stored.get(name)):
      yield (
        f"config_sentence_transformers.json has no prompt {name!r}",
        "copy its prompts as published; retrieval loses most without them",
      )


def _fault(
  file: str, key: str, found: Any, value: Any, else_: str
) -> tuple[str, str]:
  said = "is missing" if found is None else f"is {json.dumps(found)}"
  return f"{file}: {key} {said}; {else_}", f"set {key} to {json.dumps(value)}"
