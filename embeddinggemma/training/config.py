"""What stages of training are told: their configs, checked."""

import dataclasses
import re
from typing import Any

from embeddinggemma import quantize, sharding
from embeddinggemma.config import (
  DataConfig,
  GuardConfig,
  LoraConfig,
  LossConfig,
  MeshConfig,
  OptimizerConfig,
  QuantizeConfig,
  TextConfig,
  at_least,
  suggest,
)
from embeddinggemma.data import denoisers
from embeddinggemma.data.denoisers import Denoiser
from embeddinggemma.losses import distill
from embeddinggemma.model.config import (
  SEPARATE,
  EncoderDecoderConfig,
  ModelConfig,
)
from embeddinggemma.types import BadInput

STAGES = ("pretrain", "adapt", "prefinetune", "finetune", "qat")
INITS = ("random", "lsa")
CALLS = ("separate", "joint")


@dataclasses.dataclass(frozen=True)
class TrainConfig:
  """What every stage of training has; config.json of a workdir holds it."""

  stage: str
  seed: int
  steps: int
  batch_size: int  # pairs or texts, over the whole mesh
  max_length: int  # tokens of a text, prompt, BOS and EOS included
  # > 1 trades recomputation for memory; 0: what memory needs, see `groups`.
  groups_per_device: int
  init: str  # of the table: "random" or "lsa"
  init_from: str  # a checkpoint; empty: `init` decides
  every_checkpoint: int  # steps
  keep_checkpoints: int
  compiler_options: dict[str, dict[str, Any]]  # of the step, by platform
  model: ModelConfig
  data: DataConfig | TextConfig
  optimizer: OptimizerConfig
  mesh: MeshConfig
  # Patterns of parameters that keep their values.
  frozen: tuple[str, ...] = dataclasses.field(default=(), kw_only=True)
  # Minutes after which a checkpoint is due, whatever the step; 0: none is.
  every_minutes: float = dataclasses.field(default=0.0, kw_only=True)
  guard: GuardConfig = dataclasses.field(default=GuardConfig(), kw_only=True)

  def __post_init__(self) -> None:
    check_stage(self.stage)
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
    _one_of("init", self.init, INITS)
    _one_of("mesh.rules", self.mesh.rules, tuple(sharding.RULES))
    for pattern in self.frozen:
      try:
        re.compile(pattern)
      except re.error as error:
        raise BadInput(f"frozen: {pattern!r} is no pattern: {error}") from None


@dataclasses.dataclass(frozen=True)
class PairConfig(TrainConfig):
  """Contrastive training on pairs."""

  calls: str  # queries and positives in "separate" calls, or "joint" in one
  data: DataConfig
  loss: LossConfig
  # Hard negatives of a query, at most.
  negatives: int = dataclasses.field(default=0, kw_only=True)
  # A folder of vectors that `teach` wrote; "": no teacher.
  teacher: str = dataclasses.field(default="", kw_only=True)
  lora: LoraConfig = dataclasses.field(default=LoraConfig(), kw_only=True)

  def __post_init__(self) -> None:
    super().__post_init__()
    _one_of("calls", self.calls, CALLS)
    _one_of("loss.distance", self.loss.distance, tuple(distill.DISTANCES))
    at_least("negatives", self.negatives, 0)
    for dim in self.loss.matryoshka:
      if not 0 < dim <= self.model.embed_dim:
        raise BadInput(
          f"loss.matryoshka holds {dim}; dimensions lie between 1 and"
          f" model.embed_dim={self.model.embed_dim}"
        )


@dataclasses.dataclass(frozen=True)
class QatConfig(PairConfig):
  """Finetuning that sees the weights as they will be once quantised.

  Distillation without a teacher is from the checkpoint that it starts from.
  """

  quantize: QuantizeConfig = dataclasses.field(
    default=QuantizeConfig(), kw_only=True
  )

  def __post_init__(self) -> None:
    super().__post_init__()
    quantize.spec_of(self.quantize.spec, "quantize.spec")
    if self.lora.rank:
      raise BadInput(
        f"lora.rank={self.lora.rank}: {self.stage} moves the weights themselves"
        " to their grid; set it to 0, and quantise after the factors are merged"
      )
    width = self.loss.teacher_width
    if self.teaches_itself and width not in (0, self.model.embed_dim):
      raise BadInput(
        f"loss.teacher_width={width}, but the start's own vectors are matched,"
        f" of {self.model.embed_dim}; set it to 0, or give a teacher"
      )

  @property
  def teaches_itself(self) -> bool:
    """Whether the vectors to match are those of the start."""
    return bool(self.loss.distill and not self.teacher)


@dataclasses.dataclass(frozen=True)
class LanguageConfig(TrainConfig):
  """Next tokens of running text."""

  data: TextConfig
  vocab_block: int  # rows of the table that logits are formed of at once

  def __post_init__(self) -> None:
    super().__post_init__()
    at_least("vocab_block", self.vocab_block, 1)

  @property
  def fewest(self) -> int:
    """Tokens of the shortest text that is taken: one to see, one to guess."""
    return 2


@dataclasses.dataclass(frozen=True)
class AdaptConfig(LanguageConfig):
  """Denoising by an encoder-decoder; `model` is its encoder."""

  decoder: ModelConfig
  decoder_from: str  # a causal checkpoint of other sizes; empty: init_from
  tied: bool  # one table for both sides
  cross_attention: str  # "separate", or "merged" with self-attention
  hold_steps: int  # fresh cross-attention alone moves, so many steps
  denoisers: tuple[tuple[float, ...], ...]  # (mean span, rate, weight)
  average: int  # last checkpoints that the result is the mean of
  # The tied table's gradients of lookups and logits, each computed alone.
  separate_gradients: bool = dataclasses.field(default=False, kw_only=True)

  def __post_init__(self) -> None:
    super().__post_init__()
    at_least("hold_steps", self.hold_steps, 0)
    at_least("average", self.average, 1)
    if self.keep_checkpoints < self.average:
      raise BadInput(
        f"keep_checkpoints={self.keep_checkpoints} is below average="
        f"{self.average}; keep as many as the mean takes"
      )
    if self.separate_gradients and not self.tied:
      raise BadInput(
        "separate_gradients=True is for one table of both sides, but tied is"
        " False; their gradients are apart already"
      )
    if self.decoder_from and not self.init_from:
      raise BadInput(
        f"decoder_from={self.decoder_from} is set, but init_from, which the"
        " encoder starts from, is not; set both or neither"
      )
    if self.holds and self.hold_steps >= self.steps:
      raise BadInput(
        f"hold_steps={self.hold_steps} is not below steps={self.steps}: only"
        " cross-attention would learn; lower it"
      )
    if self.fewest > self.max_length - 2:
      raise BadInput(
        f"max_length={self.max_length} leaves {self.max_length - 2} tokens"
        f" between BOS and EOS, but the shortest span and one more take"
        f" {self.fewest}; raise it, or give denoisers of shorter spans"
      )
    _ = self.both

  @property
  def holds(self) -> bool:
    """Whether cross-attention starts fresh and first learns alone.

    T5Gemma section 2: it then reads an encoder of another width.
    """
    return bool(self.hold_steps) and (
      self.cross_attention == SEPARATE
      and self.model.width != self.decoder.width
    )

  @property
  def fewest(self) -> int:
    """Tokens of the shortest span, and one more."""
    spans = [d.span for d in self.mixture if d.weight and d.span]
    return int(min(spans, default=1)) + 1

  @property
  def both(self) -> EncoderDecoderConfig:
    """Encoder and decoder; BadInput where they do not fit."""
    return EncoderDecoderConfig(
      self.model, self.decoder, self.tied, self.cross_attention
    )

  @property
  def mixture(self) -> tuple[Denoiser, ...]:
    """The denoisers, checked."""
    for row in self.denoisers:
      if len(row) != 3:
        raise BadInput(
          f"denoisers holds {row}; each is (mean span, rate, weight)"
        )
    found = tuple(Denoiser(*row) for row in self.denoisers)
    denoisers.check(found)
    return found


def check_stage(name: str) -> None:
  """Raises BadInput for a stage that there is not."""
  if name not in STAGES:
    raise BadInput(f"unknown stage {name!r}{suggest(str(name), list(STAGES))}")


def _one_of(name: str, value: str, known: tuple[str, ...]) -> None:
  if value not in known:
    raise BadInput(f"{name}={value!r} is unknown; use {' or '.join(known)}")
