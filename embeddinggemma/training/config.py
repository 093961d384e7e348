"""Configs of training stages, checked."""

import dataclasses
import re
from typing import Any

from embeddinggemma import sharding
from embeddinggemma.config import (
  DataConfig,
  GuardConfig,
  MeshConfig,
  OptimizerConfig,
  TextConfig,
  at_least,
  one_of,
)
from embeddinggemma.model.config import (
  ModelConfig,
)
from embeddinggemma.types import BadInput

INITS = ("random", "lsa")


@dataclasses.dataclass(frozen=True)
class TrainConfig:
  """The config that all stages of training share; config.json holds it."""

  stage: str
  seed: int
  steps: int
  batch_size: int  # pairs or texts, over the whole mesh
  max_length: int  # tokens of a text, prompt, BOS and EOS included
  # Parts into which a device divides its batch: more save memory and cost
  # recomputation. 0: as many as memory needs, see `stages.groups`.
  groups_per_device: int
  init: str  # of the embedding table: "random" or "lsa"
  init_from: str  # a checkpoint to start from; empty: `init` decides
  every_checkpoint: int  # steps between checkpoints
  keep_checkpoints: int  # number of checkpoints that are kept
  compiler_options: dict[str, dict[str, Any]]  # of the step, by platform
  model: ModelConfig
  data: DataConfig | TextConfig
  optimizer: OptimizerConfig
  mesh: MeshConfig
  # Patterns of the paths of parameters that are not trained.
  frozen: tuple[str, ...] = dataclasses.field(default=(), kw_only=True)
  # Minutes after which a checkpoint is saved at any step; 0: never.
  every_minutes: float = dataclasses.field(default=0.0, kw_only=True)
  guard: GuardConfig = dataclasses.field(default=GuardConfig(), kw_only=True)

  def __post_init__(self) -> None:
    for name in ("steps", "batch_size"):
      at_least(name, getattr(self, name), 1)
    at_least("groups_per_device", self.groups_per_device, 0)
    for name in ("every_checkpoint", "keep_checkpoints"):
      at_least(name, getattr(self, name), 1)
    at_least("every_minutes", self.every_minutes, 0)
    at_least("seed", self.seed, 0)
    at_least("max_length", self.max_length, 4)
    if self.max_length > self.model.max_length:
      raise BadInput(
        f"max_length={self.max_length} exceeds model.max_length="
        f"{self.model.max_length}; lower it or raise that"
      )
    one_of("init", self.init, INITS)
    one_of("mesh.rules", self.mesh.rules, tuple(sharding.RULES))
    for pattern in self.frozen:
      try:
        re.compile(pattern)
      except re.error as error:
        raise BadInput(f"frozen: {pattern!r} is no pattern: {error}") from None
