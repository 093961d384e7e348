"""Ablation of finetuning: the recipe again, without one part at a time.

The paper compares its soup with the ingredients (table 4) and gives no figure
for distillation or hard negatives alone. Every arm trains with several seeds
over one decoder, one teacher, one set of mined negatives and the mixtures that
were picked; arms of a seed see the same pairs in the same order.
"""

import dataclasses
import pathlib
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from rich.console import Console

from embeddinggemma import cache
from embeddinggemma.evaluation import models as models_lib
from embeddinggemma.evaluation import suite
from embeddinggemma.recipes.whole import finetuning
from embeddinggemma.training import run
from embeddinggemma.training import workdir as workdir_lib
from embeddinggemma.training.inputs import Inputs
from embeddinggemma.training.stages.pairs import PairConfig
from embeddinggemma.training.workdir import SCORES_FILE
from embeddinggemma.types import Weights

RESULT_FILE = "ablation.json"
DONE_FILE = "trained.json"


@dataclasses.dataclass(frozen=True)
class AblationConfig:
  """Seeds and an additional suite of the ablation; no seeds: no ablation."""

  seeds: tuple[int, ...]  # of training
  suite: str  # a folder of tasks to score on besides the recipe's own test


@dataclasses.dataclass(frozen=True)
class Stages:
  """The two stages that are trained again, and what they read."""

  prefinetune: PairConfig
  finetune: PairConfig  # without its start, which each arm sets
  mixtures: Sequence[Weights]  # a finetuning with each
  inputs: Inputs  # with the mined negatives
  workdir: pathlib.Path  # of the recipe, which trained its own seed already


def _whole(config: PairConfig) -> PairConfig:
  return config


def _without_teacher(config: PairConfig) -> PairConfig:
  loss = config.loss.without_teacher()
  return dataclasses.replace(config, loss=loss, teacher="")


def _without_negatives(config: PairConfig) -> PairConfig:
  return dataclasses.replace(config, negatives=0)


# Suffix of the name of an arm's model -> the change of the config.
ARMS: Mapping[str, Callable[[PairConfig], PairConfig]] = {
  "": _whole,
  "without distillation": _without_teacher,
  "without hard negatives": _without_negatives,
}


def ablate(
  stages: Stages,
  seeds: Sequence[int],
  tasks: Mapping[str, Sequence[suite.EvalTask]],
  directory: pathlib.Path,
  console: Console,
) -> dict[str, Any]:
  """Train and score every arm with every seed, or continue in the folder.

  Returns the number of seeds, and writes {"seeds", "scores": {side: {model:
  [{task type or "mean": score} of each seed]}}}.
  """
  scores: dict[str, dict[str, list[Any]]] = {}
  for seed in seeds:
    place = directory / f"seed-{seed}"
    for name, arm in ARMS.items():
      models = _train(arm, name, stages, seed, place, console)
      for model, workdir in models.items():
        said = f"{model} {name}".rstrip()
        found = _scores(workdir, tasks)
        means = [f"{side} {by['mean']:.3f}" for side, by in found.items()]
        console.print(
          f"seed {seed}: {said}: {', '.join(means)}", highlight=False
        )
        for side, by_type in found.items():
          scores.setdefault(side, {}).setdefault(said, []).append(by_type)
  result = {"seeds": list(seeds), "scores": scores}
  cache.write_json(directory / RESULT_FILE, result)
  return {"seeds": len(seeds)}


def _train(
  arm: Callable[[PairConfig], PairConfig],
  name: str,
  stages: Stages,
  seed: int,
  directory: pathlib.Path,
  console: Console,
) -> dict[str, pathlib.Path]:
  """Train an arm with a seed; returns its models' workdirs, by name.

  What an arm does not change is trained once, with the whole recipe.
  """
  first = dataclasses.replace(stages.prefinetune, seed=seed)
  own = directory / (name.replace(" ", "-") or "whole")
  changed = not name or arm(first) != first
  base = (own if changed else directory / "whole") / "prefinetune"
  done = stages.workdir if not name and seed == stages.prefinetune.seed else own
  if changed:
    workdir_lib.go_on(done / "prefinetune", base)
    _train_once(arm(first), stages.inputs, base, console)
  tuned = dataclasses.replace(
    arm(stages.finetune), seed=seed, init_from=str(base)
  )
  ingredients = {}
  for number, weights in enumerate(stages.mixtures, 1):
    workdir = own / "finetune" / str(number)
    workdir_lib.go_on(done / "finetune" / str(number), workdir)
    config = finetuning.with_mixture(tuned, weights)
    _train_once(config, stages.inputs, workdir, console)
    ingredients[f"finetune {number}"] = workdir
  finetuning.soup([*ingredients.values()], own / "soup")
  before = {"prefinetune": base} if changed else {}
  scored = {} if name else ingredients
  return before | scored | {"soup": own / "soup"}


def _train_once(
  config: PairConfig,
  made: Inputs,
  workdir: pathlib.Path,
  console: Console,
) -> None:
  """Train, unless the workdir was trained to the end before.

  An earlier call may have been killed later, while scoring.
  """
  if (workdir / DONE_FILE).is_file():
    return
  config = dataclasses.replace(config, keep_checkpoints=1)
  result = run.train(config, made, workdir, console)
  cache.write_json(workdir / DONE_FILE, result)


def _scores(
  workdir: pathlib.Path, tasks: Mapping[str, Sequence[suite.EvalTask]]
) -> dict[str, dict[str, float]]:
  """{side: {task type or "mean": score}} of a model, computed once.

  With few pairs a side can be without tasks; it is left out.
  """
  path = workdir / SCORES_FILE
  found = cache.read_json(path)
  if not found:
    found = {
      side: models_lib.with_mean(workdir, of_side)
      for side, of_side in tasks.items()
      if of_side
    }
    cache.write_json(path, found)
  return found
