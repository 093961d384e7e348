"""What a training leaves: its last checkpoint, or what is made of some."""

import json
import pathlib
from collections.abc import Callable

import jax

from embeddinggemma import cache, checkpoint, distributed, soup
from embeddinggemma.model import lora
from embeddinggemma.training.config import AdaptConfig, PairConfig, TrainConfig
from embeddinggemma.types import BadInput, Params


def is_regular(config: TrainConfig, last: int, step: int) -> bool:
  """Whether a run that nothing disturbs saves at a step.

  Others are saved because of the time or a preemption.
  """
  return step % config.every_checkpoint == 0 or step in (last, config.steps)


def final(
  config: TrainConfig,
  params: Params,
  steps: int,
  content: checkpoint.Files,
  workdir: pathlib.Path,
  say: Callable[[str], None],
) -> tuple[str, Params]:
  """The final checkpoint, relative to the workdir, and its weights."""
  if isinstance(config, AdaptConfig) and config.average > 1:
    return _averaged(config, steps, content, workdir, say)
  name = f"{checkpoint.CHECKPOINTS}/{steps}"
  # With other processes, this one may hold only a part of them.
  if distributed.count() > 1:
    params = checkpoint.read_params(workdir / name)
  if isinstance(config, PairConfig) and config.lora.rank:
    params = _merge(config, params, content, steps, workdir / checkpoint.MERGED)
    return f"{checkpoint.MERGED}/{name}", params
  return name, jax.device_get(params)


def merged(
  config: PairConfig, place: pathlib.Path, workdir: pathlib.Path
) -> pathlib.Path:
  """A step of a training with low-rank factors as an ordinary checkpoint."""
  content, step = checkpoint.read_files(place), int(place.name)
  _merge(config, checkpoint.read_params(place), content, step, workdir)
  return workdir / checkpoint.CHECKPOINTS / place.name


def _merge(
  config: PairConfig,
  params: Params,
  content: checkpoint.Files,
  step: int,
  workdir: pathlib.Path,
) -> Params:
  """Writes, and returns, what readers can use that know nothing of factors."""
  params = jax.device_get(lora.merge(config.lora, params))
  recipe = json.loads(content["recipe.json"]) | {"view": "identity"}
  content = {**content, "recipe.json": cache.to_json(recipe)}
  checkpoint.write(workdir, params, content, step)
  return params


def _averaged(
  config: AdaptConfig,
  steps: int,
  content: checkpoint.Files,
  workdir: pathlib.Path,
  say: Callable[[str], None],
) -> tuple[str, Params]:
  """The mean of the last checkpoints."""
  there = checkpoint.steps(workdir)
  regular = [n for n in there if is_regular(config, steps, n)]
  last = regular[-config.average :]
  places = [workdir / checkpoint.CHECKPOINTS / str(n) for n in last]
  try:
    params = soup.mean(places)
  except BadInput as error:
    raise BadInput(
      f"{error}; the result is a mean that takes it: delete it and the later"
      " steps beside it, and start again"
    ) from error
  recipe = json.loads(content["recipe.json"]) | {"mean_of_steps": last}
  content = {**content, "recipe.json": cache.to_json(recipe)}
  checkpoint.write(workdir / checkpoint.AVERAGE, params, content, steps)
  say(f"the mean of steps {', '.join(map(str, last))}")
  return f"{checkpoint.AVERAGE}/{checkpoint.CHECKPOINTS}/{steps}", params
