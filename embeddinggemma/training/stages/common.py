"""Parts that stages of every kind share."""

import json
import pathlib
import re
from collections.abc import Callable, Mapping
from typing import Any

from embeddinggemma import cache, checkpoint
from embeddinggemma.training import optimizer
from embeddinggemma.training.config import TrainConfig
from embeddinggemma.types import Key, Objective, Params, Stage


def stage(
  config: TrainConfig, init: Callable[[Key], Params], objective: Objective
) -> Stage:
  """A stage with this objective, the optimizer, and frozen parameters."""
  frozen = re.compile("|".join(config.frozen) or r"(?!)")
  return Stage(
    name=config.stage,
    init=init,
    objective=objective,
    optimizer=optimizer.adamw(config.optimizer, config.steps),
    trainable=lambda path: not frozen.search(path),
    rules=config.mesh.rules,
  )


def write(
  params: Params,
  content: checkpoint.Files,
  changes: Mapping[str, Any],
  step: int,
  workdir: pathlib.Path,
) -> None:
  """Write parameters made of a training's steps as a checkpoint.

  `changes` are the values of its recipe.json that differ from the training's.
  """
  recipe = json.loads(content["recipe.json"]) | changes
  content = {**content, "recipe.json": cache.to_json(recipe)}
  checkpoint.write(workdir, params, content, step)


def is_regular(config: TrainConfig, last: int, step: int) -> bool:
  """Whether an undisturbed run saves a checkpoint at a step.

  Other steps are saved because of the time or a preemption.
  """
  return step % config.every_checkpoint == 0 or step in (last, config.steps)
