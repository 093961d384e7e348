"""The stages through which a model went, as recipe.json and exports keep them.

A stage is an object: "stage", and as far as they are known "steps",
"batch_size", "max_length", "data" (see DATA), "command", "versions". It holds
names and counts, no text of anybody and no path.
"""

from collections.abc import Iterable, Mapping
from typing import Any

from embeddinggemma.lineage import public

TRAINED = "trained"  # their key in recipe.json, and in what an export says
IMPORT = "import"  # the stage of weights that were only brought in
# Of the config of a training.
_SIZES = ("steps", "batch_size", "max_length")
# Of what a training says of its data: {"hash", "tasks": {task: pairs}, "texts":
# single ones, "sources": [{"name", "licence", "languages", ...}], "languages":
# {language: pairs}, "held_out": {...}, hashes of what was "mined" and of the
# "teacher"'s vectors}.
DATA = (
  "hash",
  "tasks",
  "texts",
  "sources",
  "languages",
  "held_out",
  "mined",
  "teacher",
)
_VERSIONS = ("embeddinggemma", "jax")

Stage = Mapping[str, Any]


def of(recipe: Mapping[str, Any]) -> list[dict[str, Any]]:
  """All stages of a model by its recipe.json, the last one last; [] if none.

  What is damaged is left out: stages decide nothing.
  """
  before = read(recipe.get(TRAINED))
  return [*before, _own(recipe)] if recipe.get("stage") else before


def read(value: Any) -> list[dict[str, Any]]:
  """The stages in what a file says; what is none is left out."""
  found = value if isinstance(value, list) else []
  return [
    dict(stage)
    for stage in found
    if isinstance(stage, Mapping) and isinstance(stage.get("stage"), str)
  ]


def joined(*several: Iterable[Stage]) -> list[dict[str, Any]]:
  """The stages of several models, in order, each once."""
  found: list[dict[str, Any]] = []
  for stage in (dict(stage) for stages in several for stage in stages):
    if stage not in found:
      found.append(stage)
  return found


def entry(*several: Iterable[Stage]) -> dict[str, Any]:
  """The entry of recipe.json for the stages of several parents; {} for none."""
  found = joined(*several)
  return {TRAINED: found} if found else {}


def of_training(stages: Iterable[Stage]) -> list[dict[str, Any]]:
  """The stages that changed weights: all but imports."""
  return [dict(stage) for stage in stages if stage["stage"] != IMPORT]


def data(stage: Stage) -> Mapping[str, Any]:
  """What a stage says of its data; {} if it says nothing."""
  found = stage.get("data")
  return found if isinstance(found, Mapping) else {}


def sources(stage: Stage) -> list[Mapping[str, Any]]:
  """The sources of a stage's data, each with a "name"."""
  found = data(stage).get("sources")
  found = found if isinstance(found, list) else []
  return [one for one in found if isinstance(one, Mapping) and one.get("name")]


def counts(stage: Stage, key: str) -> dict[str, int]:
  """The numbers of a stage's data: by "tasks" or "languages"."""
  found = data(stage).get(key)
  found = found if isinstance(found, Mapping) else {}
  return {str(k): n for k, n in found.items() if type(n) is int}


def is_whole(recipe: Mapping[str, Any]) -> bool:
  """Whether it is known through which stages a model went.

  Versions that did not keep those of parents left the parents' hashes alone.
  """
  if recipe.get(TRAINED) or not recipe.get("parents"):
    return True
  config = recipe.get("config") or {}
  # The table of latent semantic vectors is a parent made of the same data.
  return config.get("init") == "lsa" and not config.get("init_from")


def _own(recipe: Mapping[str, Any]) -> dict[str, Any]:
  """The last stage of a recipe.json."""
  config = recipe.get("config")
  config = config if isinstance(config, Mapping) else {}
  sizes = {
    key: config[key]
    for key in _SIZES
    if isinstance(config.get(key), int) and config[key]
  }
  versions = recipe.get("versions")
  versions = versions if isinstance(versions, Mapping) else {}
  found = {
    "stage": str(recipe["stage"]),
    **sizes,
    "data": _data(recipe.get("data")),
    "command": public.command(recipe.get("command")),
    "versions": {k: str(versions[k]) for k in _VERSIONS if versions.get(k)},
  }
  return {key: value for key, value in found.items() if value}


def _data(about: Any) -> dict[str, Any]:
  """What a stage says of its data, without texts and paths.

  Running text has a list of tasks with their sizes.
  """
  about = about if isinstance(about, Mapping) else {}
  found = {key: about[key] for key in DATA if about.get(key)}
  tasks = found.get("tasks")
  if isinstance(tasks, list):
    found["tasks"] = {
      str(task.get("name", "")): task.get("texts", 0)
      for task in tasks
      if isinstance(task, Mapping)
    }
    found["tokens"] = sum(
      task.get("tokens", 0) for task in tasks if isinstance(task, Mapping)
    )
  return found
