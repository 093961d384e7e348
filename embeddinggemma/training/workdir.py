"""What a workdir and its checkpoints record about themselves."""

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
from embeddinggemma.convert import origin
from embeddinggemma.data import prompts
from embeddinggemma.lineage import stages as lineage
from embeddinggemma.model import identity
from embeddinggemma.model.config import ModelConfig
from embeddinggemma.training import inputs, stages
from embeddinggemma.training.config import TrainConfig
from embeddinggemma.training.inputs import Inputs
from embeddinggemma.types import IDENTITY, BadInput

CONFIG_FILE = "config.json"
SCORES_FILE = "scores.json"  # of what was trained here
# Config keys that may change when training continues in a workdir, since the
# weights do not depend on them. Parents are compared by their weights, in
# `prepare.dependencies`.
_FREE = (
  "mesh",
  "groups_per_device",
  "every_checkpoint",
  "every_minutes",
  "keep_checkpoints",
  "guard",
  "compiler_options",
)
# Keys that came later: where they have their default, what was trained before
# they were keys holds.
_LATER = {
  "data": ("fields", "texts_weight"),
  "loss": (
    "false_negatives_by",
    "contrastive",
    "distill_dims",
    "score_matching",
    "score_temperature",
  ),
}


def source(config: TrainConfig, made: Inputs) -> pathlib.Path | None:
  """The checkpoint that training starts from; None if it starts from random."""
  if config.init_from:
    return checkpoint.find(config.init_from)
  return checkpoint.find(made.table) if config.init == "lsa" else None


def relevant(config: TrainConfig) -> dict[str, Any]:
  """The part of a config on which the weights depend, as JSON."""
  tree = resolved(config)
  for part, names in _LATER.items():
    own = getattr(config, part, None)
    for field in dataclasses.fields(own) if own else ():
      if field.name in names and getattr(own, field.name) == field.default:
        del tree[part][field.name]
  return {key: tree[key] for key in tree if key not in free(config)}


def free(config: TrainConfig) -> set[str]:
  """The first parts of keys that may change while training goes on."""
  kind = stages.kind_of(config)
  return {*_FREE, *kind.folders, *kind.same} - kind.decides(config)


def flat(config: TrainConfig) -> dict[str, Any]:
  """The whole config as {"optimizer.lr": value, ...}."""
  return config_lib.flat(resolved(config))


def resolved(config: TrainConfig) -> dict[str, Any]:
  """The whole config as nested JSON."""
  return json.loads(json.dumps(dataclasses.asdict(config)))


def files(config: TrainConfig, made: Inputs) -> dict[str, bytes]:
  """The small files of a checkpoint, with all that any verb needs.

  Where a parent's file has the same content as ours its bytes are kept, so that
  the two checkpoints can be averaged; files with terms of use are kept too.
  """
  start = source(config, made)
  given = checkpoint.read_files(start) if start else {}
  parents = {}
  if start is not None:
    parents["init"] = checkpoint.hash_of(start)
  kind = stages.kind_of(config)
  others = {n: path for n, path in kind.parents(config).items() if path}
  for name, path in others.items():
    parents[name] = inputs.parent(path)
  recipe = {
    "stage": config.stage,
    "parents": parents,
    "data": kind.about(config, made),
    "config": dataclasses.asdict(config),
    "view": kind.view(config),
    **checkpoint.descent(given),
    **lineage.entry(*map(_stages, (given, *map(_files_at, others.values())))),
    **checkpoint.with_teachers(
      kind.teachers(config), checkpoint.teachers_of(given)
    ),
    **checkpoint.AS_WRITTEN,
    "versions": versions(),
    "command": sys.argv,
  }
  tokenizer = made.tokenizer()
  content = {
    "model.json": cache.to_json(dataclasses.asdict(config.model.portable)),
    "prompts.json": cache.to_json(dict(prompts.PROMPTS)),
    TOKENIZER_FILE: tokenizer.model,
    "LICENSE": origin.OWN_TERMS.encode(),
    **_inherited(config, given),
  }
  recipe[IDENTITY] = identity.parts(
    config.model, tokenizer.identity, inputs.prompts_of(content)
  )
  return {**content, "recipe.json": cache.to_json(recipe)}


def _files_at(path: str) -> checkpoint.Files:
  return checkpoint.read_files(checkpoint.find(path))


def _stages(files: checkpoint.Files) -> list[dict[str, Any]]:
  """The stages through which a parent went."""
  return lineage.of(checkpoint.recipe_of(files))


def _inherited(
  config: TrainConfig, given: checkpoint.Files
) -> dict[str, bytes]:
  """Files of a parent that are kept byte for byte."""
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
  """Versions of the packages that decide numerical results."""
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


def go_on(candidate: pathlib.Path, workdir: pathlib.Path) -> None:
  """Copy a candidate's training into a workdir that has none, to continue it.

  The checkpoints get their name last and at once, so a copy that is killed is
  begun again.
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
