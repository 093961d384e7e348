"""What a workdir and its checkpoints say of themselves."""

import contextlib
import dataclasses
import importlib.metadata
import json
import pathlib
import shutil
import sys
from typing import Any

from embeddinggemma import cache, checkpoint
from embeddinggemma import config as config_lib
from embeddinggemma.checkpoint import TOKENIZER_FILE
from embeddinggemma.data import prompts
from embeddinggemma.model.config import ModelConfig
from embeddinggemma.training import inputs, stages
from embeddinggemma.training.config import AdaptConfig, TrainConfig
from embeddinggemma.training.inputs import Inputs
from embeddinggemma.types import BadInput

CONFIG_FILE = "config.json"
# What may differ when a workdir's training goes on: the same weights come out.
# Parents count by their weights, which `inputs.dependencies` holds.
_FREE = (
  "mesh",
  "groups_per_device",
  "every_checkpoint",
  "every_minutes",
  "keep_checkpoints",
  "guard",
  "separate_gradients",
  "compiler_options",
  "init_from",
  "decoder_from",
  "teacher",
)
_LICENSE = (
  "These weights derive from the data and parents that recipe.json names;\n"
  "their licences apply. embeddinggemma, which made them, is Apache-2.0.\n"
)


def source(config: TrainConfig, made: Inputs) -> pathlib.Path | None:
  """The checkpoint that training starts from, if there is one."""
  if config.init_from:
    return checkpoint.find(config.init_from)
  return checkpoint.find(made.table) if config.init == "lsa" else None


def relevant(config: TrainConfig) -> dict[str, Any]:
  """The part of a config that decides the weights, as JSON."""
  tree = resolved(config)
  return {key: tree[key] for key in tree if key not in _free(config)}


def _free(config: TrainConfig) -> set[str]:
  # Where checkpoints are averaged, it matters which there are.
  averaged = isinstance(config, AdaptConfig) and config.average > 1
  return set(_FREE) - ({"every_checkpoint"} if averaged else set())


def check_workdir(config: TrainConfig, workdir: pathlib.Path) -> None:
  """Refuses a workdir that holds a run of another config, key by key."""
  path = workdir / CONFIG_FILE
  if not path.is_file():
    return
  try:
    saved, now = json.loads(path.read_bytes()), resolved(config)
  except ValueError as error:
    raise BadInput(f"{path}: {error}; use another workdir") from None
  with contextlib.suppress(BadInput):  # what cannot be built, differs
    saved = resolved(stages.build(saved))
  changed = [
    f"{key}={_get(saved, key)!r} there, {_get(now, key)!r} now"
    for key in sorted(_flat(saved) | _flat(now))
    if key.split(".")[0] not in _free(config)
    and _get(saved, key) != _get(now, key)
  ]
  if changed:
    raise BadInput(
      f"{workdir} was trained with another config ({'; '.join(changed)});"
      " use another --workdir or the same config"
    )


def flat(config: TrainConfig) -> dict[str, Any]:
  """The whole config, 'optimizer.lr' and such to its value."""
  tree = resolved(config)
  return {key: _get(tree, key) for key in _flat(tree)}


def resolved(config: TrainConfig) -> dict[str, Any]:
  """The whole config, as JSON."""
  return json.loads(json.dumps(dataclasses.asdict(config)))


def _flat(tree: Any, prefix: str = "") -> set[str]:
  if not isinstance(tree, dict) or not tree:
    return {prefix[:-1]}
  return {k for key, v in tree.items() for k in _flat(v, f"{prefix}{key}.")}


def _get(tree: Any, path: str) -> Any:
  for key in path.split("."):
    tree = tree.get(key) if isinstance(tree, dict) else None
  return tree


def files(config: TrainConfig, made: Inputs) -> dict[str, bytes]:
  """The small files of a checkpoint: all that any verb needs.

  A parent's are kept where they say the same as ours, so that it can be
  averaged with what it became; and so are its terms.
  """
  start = source(config, made)
  given = checkpoint.read_files(start) if start else {}
  parents = {}
  if start is not None:
    parents["init"] = inputs.hash_of(start)
  if isinstance(config, AdaptConfig) and config.decoder_from:
    parents["decoder"] = inputs.parent(config.decoder_from)
  recipe = {
    "stage": config.stage,
    "parents": parents,
    "data": inputs.about(config, made),
    "config": dataclasses.asdict(config),
    "view": stages.view_of(config),
    **checkpoint.AS_WRITTEN,
    "versions": versions(),
    "command": sys.argv,
  }
  return {
    "model.json": cache.to_json(dataclasses.asdict(config.model.portable)),
    "prompts.json": cache.to_json(dict(prompts.PROMPTS)),
    "recipe.json": cache.to_json(recipe),
    TOKENIZER_FILE: made.tokenizer().model,
    "LICENSE": _LICENSE.encode(),
    **_inherited(config, given),
  }


def _inherited(
  config: TrainConfig, given: checkpoint.Files
) -> dict[str, bytes]:
  """What of a parent's files is as good as ours, byte for byte."""
  kept = {name: given[name] for name in given if checkpoint.is_terms(name)}
  known = inputs.prompts_of(given)
  if known and not inputs.other_prompts(known):
    kept["prompts.json"] = given["prompts.json"]
  with contextlib.suppress(BadInput, KeyError):
    # One that an earlier version wrote may lack what has a default.
    tree = json.loads(given["model.json"])
    if config_lib.build(ModelConfig, tree) == config.model.portable:
      kept["model.json"] = given["model.json"]
  return kept


def versions() -> dict[str, str]:
  """Versions of what decides the numbers."""
  names = (
    "embeddinggemma",
    "jax",
    "flax",
    "optax",
    "orbax-checkpoint",
    "numpy",
  )
  found = {name: importlib.metadata.version(name) for name in names}
  return {"python": sys.version.split()[0], **found}


SCORES_FILE = "scores.json"


def go_on(candidate: pathlib.Path, workdir: pathlib.Path) -> None:
  """Puts a candidate's training into a workdir that has none.

  The checkpoints come last and at once: what a kill leaves is begun anew.
  """
  if checkpoint.steps(workdir) or not checkpoint.steps(candidate):
    return
  partial = workdir / f"{checkpoint.CHECKPOINTS}.partial"
  shutil.rmtree(partial, ignore_errors=True)
  shutil.rmtree(workdir / checkpoint.CHECKPOINTS, ignore_errors=True)
  shutil.copytree(candidate / checkpoint.CHECKPOINTS, partial)
  for path in candidate.iterdir():
    if path.name not in (checkpoint.CHECKPOINTS, SCORES_FILE):
      copy = shutil.copytree if path.is_dir() else shutil.copy2
      target = workdir / path.name
      shutil.rmtree(target, ignore_errors=True)
      copy(path, target)
  partial.rename(workdir / checkpoint.CHECKPOINTS)
