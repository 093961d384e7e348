"""Changes of a config with which a training that is too large would fit."""

import dataclasses
from collections.abc import Iterator

from embeddinggemma import sharding
from embeddinggemma.config import LoraConfig
from embeddinggemma.recipes.own import base as bases
from embeddinggemma.recipes.own import forecast, machine
from embeddinggemma.recipes.pairs import config as config_lib
from embeddinggemma.training import fitting, stages, step
from embeddinggemma.training.inputs import Inputs
from embeddinggemma.training.stages.pairs import PairConfig
from embeddinggemma.types import BadInput

_SHORTEST = 32  # least max_length, in tokens, that is proposed


def advice(
  stage: PairConfig,
  lora: LoraConfig,
  made: Inputs,
  unfit: forecast.Unfit,
  room: int,
) -> BadInput:
  """The error for a training that does not fit: the first change that would."""
  gb = lambda size: f"{size / machine.GB:.2f} GB"
  said = f"training needs about {gb(unfit.needed)}, there are {gb(room)}"
  sized = lambda way: (way[0], needed(way[1], made, room))
  fits = lambda way: way[1] <= room
  tried = list(fitting.until_one_fits(ways(stage, lora), sized, fits))
  for flags, size in tried[-1:]:
    if size <= room:
      return BadInput(f"{said}; {flags} takes about {gb(size)}")
  least = min([unfit.needed, *(size for _, size in tried)])
  return BadInput(
    f"{said}, and no smaller way fits: the least takes {gb(least)} or more; use"
    " a smaller base or a larger machine"
  )


def ways(
  stage: PairConfig, lora: LoraConfig
) -> Iterator[tuple[str, PairConfig]]:
  """Changed configs that need less memory, as (flags, stage).

  The smallest change comes first.
  """
  mesh = sharding.make_mesh(stage.mesh.data, stage.mesh.fsdp)
  most = stage.batch_size // mesh.size
  grouped = lambda given, groups: (
    f"--config.groups_per_device={groups}",
    dataclasses.replace(given, groups_per_device=groups),
  )
  now = stages.groups(stage, mesh.size)
  for groups in (4 * now, most):
    if now < groups <= most and not most % groups:
      yield grouped(stage, groups)
  kinds = [] if stage.lora.rank else ["no_table", "lora"]
  if bases.TABLE in stage.frozen:
    kinds = kinds[1:]
  for kind in kinds:
    flag = f"--config.trainable={kind}"
    plain = dataclasses.replace(stage, frozen=())
    other = config_lib.trains(plain, kind, lora)
    yield flag, other
    more, fully = grouped(other, most)
    yield f"{flag} {more}", fully
  least = dataclasses.replace(stage, groups_per_device=most)
  flags = f"--config.groups_per_device={most}"
  if kinds:
    least = config_lib.trains(
      dataclasses.replace(least, frozen=()), "lora", lora
    )
    flags = f"--config.trainable=lora {flags}"
  length = stage.max_length // 2
  while length >= _SHORTEST:
    shorter = dataclasses.replace(least, max_length=length)
    yield f"{flags} --config.max_length={length}", shorter
    length //= 2


def needed(stage: PairConfig, made: Inputs, room: int) -> int:
  """Bytes that the process would hold while it trains; compiles, runs nothing.

  If the state alone exceeds `room`, its bytes are returned without compiling.
  """
  mesh = sharding.make_mesh(stage.mesh.data, stage.mesh.fsdp)
  state = step.abstract_state(stages.make(stage, mesh), stage.seed, mesh)
  saved, least = forecast.state_bytes(state)
  if machine.held() + saved + least > room:
    return machine.held() + saved + least
  own = forecast.memory_of(forecast.prepare(stage, made))
  # What compilation itself has taken stays with the process.
  return machine.held() + own
