"""What `evaluate --model` names: one model or several, each perhaps by a file.

A file is a JSON object {"model": NAME, ...} with the fields of `Asked`.
"""

import collections
import dataclasses
import json
import pathlib
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from embeddinggemma import config as config_lib
from embeddinggemma.mining.services.config import ServiceConfig
from embeddinggemma.mining.teachers import endpoint
from embeddinggemma.types import BadInput

ENDING = ".json"  # of a file that describes a model
_NONE = ServiceConfig().prompts


@dataclasses.dataclass(frozen=True)
class Asked:
  """A model that is to be scored, and what it does not say of itself."""

  model: str  # its name, as --model has it
  label: str = ""  # for tables; "": made of its name
  # Words before texts: "none"; "embeddinggemma", for our own; a JSON file; or an
  # object {"query": ..., "document": ...} itself. "": those of the model.
  prompts: Any = ""
  dims: tuple[int, ...] = ()  # shorter ones that it was trained for
  precision: str = ""  # to which weights of ours are rounded; "": --precision
  ids: str = ""  # of FILE.npy: a file of its texts; "": the one beside it
  threads: int = 0  # of llama.cpp; 0: one a core
  # A model behind an API: how it is asked.
  service: ServiceConfig = dataclasses.field(default=ServiceConfig())

  @property
  def own_words(self) -> Mapping[str, str] | None:
    """The prompts that were given, by name; None: the model's own count.

    Raises BadInput for what is none.
    """
    asked = self.prompts
    if asked == "":
      asked = self.service.prompts
      if asked == _NONE:  # which is what it is if nobody says anything
        return None
    if isinstance(asked, str):
      return endpoint.prompts_of(asked)
    texts = isinstance(asked, Mapping) and all(
      isinstance(words, str) for words in asked.values()
    )
    if not texts:
      raise BadInput(
        f"prompts of {self.model} are a text by name, as"
        ' {"query": "query: ", "document": "passage: "}'
      )
    return asked


def read(text: str, service: ServiceConfig) -> list[Asked]:
  """The models that a value of --model names, in order.

  Args:
    text: names with commas between them.
    service: how a model behind an API is asked, where its file says nothing.

  Raises BadInput for a name without a model, a file of another content, and a
  label that two models have.
  """
  found = [_asked(name, service) for name in split(text)]
  labels = collections.Counter(one.label for one in found if one.label)
  if twice := [label for label, count in labels.items() if count > 1]:
    raise BadInput(f"two models are labelled {twice[0]!r}; rename one")
  return found


def split(text: str) -> list[str]:
  """Names with commas between them; a comma of a path that is there stays.

  BadInput for an empty one.
  """
  names = list(_joined(text.split(",")))
  if not all(name.strip() for name in names):
    raise BadInput(f"--model={text} names nothing between two commas")
  return names


def _joined(parts: Sequence[str]) -> Iterator[str]:
  """Parts of paths put together again; of several that are there the longest."""
  start = 0
  while start < len(parts):
    ends = range(len(parts), start + 1, -1)
    there = (e for e in ends if _exists(",".join(parts[start:e])))
    end = next(there, start + 1)
    yield ",".join(parts[start:end])
    start = end


def _exists(name: str) -> bool:
  try:
    return pathlib.Path(name).exists()
  except (OSError, ValueError):  # too long for a path, or no path at all
    return False


def _asked(name: str, service: ServiceConfig) -> Asked:
  path = pathlib.Path(name)
  if path.suffix != ENDING or path.is_dir():
    return Asked(name, service=service)
  try:
    tree = json.loads(path.read_text("utf-8"))
  except FileNotFoundError:
    raise BadInput(
      f'{path} does not exist; a .json describes a model: {{"model": NAME}}'
    ) from None
  except (OSError, ValueError) as error:
    raise BadInput(f"{path} is no JSON ({error})") from None
  if not isinstance(tree, Mapping) or "model" not in tree:
    raise BadInput(
      f'{path} describes no model: expected {{"model": NAME, ...}}'
    )
  own = tree.get("service", {})
  if not isinstance(own, Mapping):
    raise BadInput(f"{path}: 'service' is no object of settings")
  asked = {**tree, "service": {"yes": service.yes, **own}}
  try:
    found = config_lib.build(Asked, asked)
    _ = found.own_words
  except BadInput as error:
    raise BadInput(f"{path}: {error}") from None
  if not found.model.strip() or found.model.endswith(ENDING):
    raise BadInput(f"{path}: model={found.model!r} names no model")
  return found
