"""What to say of a training that does not fit in memory: what would."""

import dataclasses
from collections.abc import Iterator

from embeddinggemma import sharding
from embeddinggemma.config import LoraConfig
from embeddinggemma.recipes.pairs import config as config_lib
from embeddinggemma.recipes.pairs import forecast, memory
from embeddinggemma.training import stages, step
from embeddinggemma.training.config import PairConfig
from embeddinggemma.training.inputs import Inputs
from embeddinggemma.types import BadInput

_SHORTEST = 32  # tokens of a text, below which none is proposed


def advice(
  stage: PairConfig,
  lora: LoraConfig,
  made: Inputs,
  unfit: forecast.Unfit,
  room: int,
) -> BadInput:
  """What to say of a training that does not fit: the first way that would."""
  gb = lambda size: f"{size / memory.GB:.2f} GB"
  said = f"training needs about {gb(unfit.needed)}, there are {gb(room)}"
  least = unfit.needed
  for flags, other in ways(stage, lora):
    size = needed(other, made, room)
    if size <= room:
      return BadInput(f"{said}; {flags} takes about {gb(size)}")
    least = min(least, size)
  return BadInput(
    f"{said}, and no smaller way fits: the least takes {gb(least)} or more; use"
    " a smaller base or a larger machine"
  )


def ways(
  stage: PairConfig, lora: LoraConfig
) -> Iterator[tuple[str, PairConfig]]:
  """Ways that take less memory, from the least change on: (flags, stage)."""
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
  if config_lib.TABLE in stage.frozen:
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
  """Bytes that the process holds while it trains: compiled, not run.

  Where the state alone is more than `room`, no more than that is said.
  """
  mesh = sharding.make_mesh(stage.mesh.data, stage.mesh.fsdp)
  state = step.abstract_state(stages.make(stage, mesh), stage.seed, mesh)
  saved, least = forecast.state_bytes(state)
  if memory.held() + saved + least > room:
    return memory.held() + saved + least
  own = forecast.memory_of(forecast.prepare(stage, made))
  # What compilation itself has taken stays with the process.
  return memory.held() + own
