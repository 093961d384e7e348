"""The recipe on one page: each stage as (config, mesh) -> Stage.

Pre-finetuning, finetuning and quantisation-aware training are one function of
three configs (paper sections 2.3 and 3.5); the language-model stages before
them differ in objective and batch alone.
"""

import dataclasses
import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import jax
from jax.sharding import Mesh
from jaxtyping import Array

from embeddinggemma import config as config_lib
from embeddinggemma import objectives, quantize, sharding
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
from embeddinggemma.data import denoisers, packing
from embeddinggemma.data.denoisers import Denoiser
from embeddinggemma.losses import (
  contrastive,
  denoise,
  distill,
  matryoshka,
  spread_out,
)
from embeddinggemma.model import adapt as surgery
from embeddinggemma.model import decoder as decoder_lib
from embeddinggemma.model import embedder, kernels, lora
from embeddinggemma.model.config import (
  SEPARATE,
  EncoderDecoderConfig,
  ModelConfig,
)
from embeddinggemma.training import memory, optimizer, tied
from embeddinggemma.types import (
  BadInput,
  Encode,
  Key,
  LossTerm,
  Params,
  Stage,
  Text,
)

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
    _check_stage(self.stage)
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


def _one_of(name: str, value: str, known: tuple[str, ...]) -> None:
  if value not in known:
    raise BadInput(f"{name}={value!r} is unknown; use {' or '.join(known)}")


def build(tree: Mapping[str, Any]) -> TrainConfig:
  """The stage's config from a (resolved) ConfigDict's tree."""
  name = tree.get("stage", "")
  _check_stage(name)
  return config_lib.build(STAGES[name].config, tree)


def _check_stage(name: str) -> None:
  if name not in STAGES:
    raise BadInput(f"unknown stage {name!r}{suggest(str(name), list(STAGES))}")


def encoder(model: ModelConfig, mesh: Mesh, rules: str = "fsdp") -> Encode:
  """(params, Text) -> (B, M) unit vectors, over the mesh."""
  return sharding.data_parallel(embedder.encode_group(model), mesh, rules)


def pretrain(config: LanguageConfig, mesh: Mesh) -> Stage:
  """A causal language model, for when there is no Gemma checkpoint."""
  decode = decoder_lib.causal_group(config.model)

  def losses(params: Params, ids: Array, slot: Array, valid: Array) -> Any:
    hidden, table = decode(params, ids, slot)
    return denoise.next_token(
      hidden,
      table,
      ids,
      slot,
      valid,
      config.model.logit_softcap,
      config.vocab_block,
    )

  return _language_stage(config, losses, mesh)


def adapt(config: AdaptConfig, mesh: Mesh) -> Stage:
  """Decoder to encoder-decoder by UL2 (paper section 2.1; T5Gemma 2)."""
  decode = decoder_lib.encoder_decoder_group(config.both)
  if config.separate_gradients:
    decode = tied.apart(decode, "encoder")

  # Of one group, so that a Text's arrays lack their first axis.
  def losses(params: Params, inputs: Any, targets: Any) -> Any:
    ids, slot, valid = targets
    hidden, table = decode(params, inputs.ids, inputs.slot, ids, slot)
    return denoise.next_token(
      hidden,
      table,
      ids,
      slot,
      valid,
      config.decoder.logit_softcap,
      config.vocab_block,
    )

  stage = _language_stage(config, losses, mesh)
  if not config.holds:
    return stage
  held = optimizer.hold(stage.optimizer, config.hold_steps, surgery.is_cross)
  return dataclasses.replace(stage, optimizer=held)


def _language_stage(
  config: LanguageConfig, losses: Callable[..., Any], mesh: Mesh
) -> Stage:
  whole = sharding.data_parallel(losses, mesh, config.mesh.rules)
  return _stage(config, objectives.language_objective(whole))


def finetune(config: PairConfig, mesh: Mesh) -> Stage:
  """Contrastive training on pairs (paper sections 2.2 and 2.3).

  Pre-finetuning has larger batches and no hard negatives; the rest is alike.
  """
  encode = _encode_sides(config, mesh)
  objective = objectives.pair_objective(encode, terms(config, mesh), mesh)
  stage = _stage(config, objective)
  if not config.lora.rank:
    return stage
  # The factors learn, and what else is in aux; the model keeps its values.
  return dataclasses.replace(
    stage,
    view=lora.view(config.lora),
    trainable=lambda path: path.startswith("aux/") and stage.trainable(path),
  )


def qat(config: QatConfig, mesh: Mesh) -> Stage:
  """Finetuning on the quantised view of the weights (paper section 3.5)."""
  seen = quantize.view(config.quantize.spec)
  return dataclasses.replace(finetune(config, mesh), view=seen)


def _encode_sides(config: PairConfig, mesh: Mesh) -> objectives.EncodeSides:
  """As config.calls says; separate calls of one group share a lookup."""
  rules = config.mesh.rules
  whole = encoder(config.model, mesh, rules)
  apart = objectives.ENCODE_SIDES[config.calls](whole)
  if config.calls != "separate":
    return apart
  sides_of_group = embedder.encode_sides(config.model)
  together = sharding.data_parallel(sides_of_group, mesh, rules)

  def encode(params: Params, sides: Sequence[Text]) -> list[Array]:
    # Of several groups, one loop would hold a group of every side at once.
    if sides[0].ids.shape[0] > mesh.size:
      return apart(params, sides)
    return list(together(params, tuple(sides)))

  return encode


def _init_pairs(config: PairConfig) -> Callable[[Key], Params]:
  """An embedder, and in aux what learns beside it: the projection to a
  teacher of another width, low-rank factors."""
  width, target = config.model.embed_dim, config.loss.teacher_width
  embedder_of = embedder.init(config.model)

  def init(key: Key) -> Params:
    params, aux = embedder_of(key), {}
    if config.loss.distill and target:
      own = jax.random.fold_in(key, 1)
      aux[distill.PROJECTION] = distill.init_projection(own, width, target)
    if config.lora.rank:
      own = jax.random.fold_in(key, 2)
      aux[lora.LORA] = lora.init(params["model"], config.lora.rank, own)
    return {**params, "aux": aux}

  return init


def _adopt_pairs(
  config: PairConfig, given: Params, other: Params | None
) -> Mapping[str, Any]:
  """An embedder; where both project to a teacher, the projection too."""
  del other
  moved = surgery.to_embedder(given)
  known = given.get("aux", {}).get(distill.PROJECTION)
  wanted = (config.model.embed_dim, config.loss.teacher_width)
  if not config.loss.distill or known is None or known.shape != wanted:
    return moved
  return {**moved, "aux": {distill.PROJECTION: known}}


def _stage(config: TrainConfig, objective: objectives.Objective) -> Stage:
  frozen = re.compile("|".join(config.frozen) or r"(?!)")
  return Stage(
    name=config.stage,
    init=init(config),
    objective=objective,
    optimizer=optimizer.adamw(config.optimizer, config.steps),
    trainable=lambda path: not frozen.search(path),
    rules=config.mesh.rules,
  )


def terms(config: PairConfig, mesh: Mesh) -> dict[str, tuple[float, LossTerm]]:
  """Name -> (weight, term); contrastive and spread-out are Matryoshka'd."""
  loss = config.loss
  dims = loss.matryoshka or matryoshka.dims_of(config.model.embed_dim)
  nce = contrastive.info_nce(
    loss.temperature,
    loss.keep_positive,
    loss.hardness,
    objectives.row_by_row(mesh, config.model.embed_dim),
  )
  return {
    "contrastive": (1.0, matryoshka.matryoshka(nce, dims)),
    "spread_out": (
      loss.spread_out,
      matryoshka.matryoshka(spread_out.spread_out, dims),
    ),
    "distill": (loss.distill, distill.embedding_matching(loss.distance)),
  }


class StageKind(NamedTuple):
  """How a stage is configured, made, and started."""

  config: type[TrainConfig]
  make: Callable[[Any, Mesh], Stage]
  init: Callable[[Any], Callable[[Key], Params]]
  # (config, the parent's tensors, those of `decoder_from`) -> the same
  # tensors under the names that they have in this stage.
  adopt: Callable[..., Mapping[str, Any]]


STAGES: dict[str, StageKind] = {
  "pretrain": StageKind(
    LanguageConfig,
    pretrain,
    lambda config: decoder_lib.init_causal(config.model),
    lambda config, given, _: surgery.to_causal(given),
  ),
  "adapt": StageKind(
    AdaptConfig,
    adapt,
    lambda config: decoder_lib.init_encoder_decoder(config.both),
    lambda config, given, other: surgery.to_encoder_decoder(
      given, config.both, other
    ),
  ),
  "prefinetune": StageKind(PairConfig, finetune, _init_pairs, _adopt_pairs),
  "finetune": StageKind(PairConfig, finetune, _init_pairs, _adopt_pairs),
  "qat": StageKind(QatConfig, qat, _init_pairs, _adopt_pairs),
}


def make(config: TrainConfig, mesh: Mesh) -> Stage:
  """The stage of a config; BadInput where its devices cannot run it."""
  config = on(config, mesh.devices.flat[0].platform)
  return STAGES[config.stage].make(config, mesh)


def on(config: TrainConfig, platform: str) -> TrainConfig:
  """The config as the platform's devices run it; BadInput if they cannot."""
  sides = {"model": kernels.on(config.model, platform)}
  if isinstance(config, AdaptConfig):
    sides["decoder"] = kernels.on(config.decoder, platform)
  return dataclasses.replace(config, **sides)


def init(config: TrainConfig) -> Callable[[Key], Params]:
  """key -> fresh parameters of the stage's model."""
  return STAGES[config.stage].init(config)


def groups(
  config: TrainConfig, devices: int, capacity: int | None = None
) -> int:
  """How many groups a device goes through in a step.

  Args:
    devices: of the mesh.
    capacity: bytes of a TPU's memory; None: what this machine's devices say.
      One that does not say, such as a CPU, gets one group.

  Raises BadInput where the batch does not divide into the devices' groups.
  """
  number = config.groups_per_device or 1
  packing.check_groups(config.batch_size, devices * number, config.stage)
  if config.groups_per_device:
    return number
  if capacity is None:
    config = on(config, jax.default_backend())
    capacity = sharding.memory_limit()
  if not capacity:
    return 1
  return memory.fewest_groups(work(config, devices), capacity)


def work(config: TrainConfig, devices: int) -> memory.Work:
  """What each device has to do in a step, for an estimate of its memory.

  Each text counts as the longest. How the state is split follows from the
  config alone, so that no device is needed; what does not divide is not split.
  """
  side = (config.model, config.max_length)
  calls, loss = [(side,)], 0
  if isinstance(config, PairConfig):
    texts = [1, 1, *([config.negatives] if config.negatives else [])]
    texts = [sum(texts)] if config.calls == "joint" else texts
    calls = [(side,) * number for number in texts]
    # Candidates and logits, and the gradients of both.
    columns = config.model.embed_dim + config.batch_size // devices
    loss = 2 * 4 * config.batch_size * columns
  if isinstance(config, AdaptConfig):
    calls = [(side, (config.decoder, config.max_length))]
  shapes = jax.eval_shape(init(config), jax.random.key(0))
  size = 4 * sum(leaf.size for leaf in jax.tree.leaves(shapes))
  moments = (
    devices if config.mesh.rules == "zero1" else max(config.mesh.fsdp, 1)
  )
  whole = 1 if config.mesh.rules == "zero1" else moments
  # Beside the weights, what a view shows of them.
  shown = 2 if isinstance(config, QatConfig) else 1
  return memory.Work(
    texts=config.batch_size // devices,
    calls=tuple(calls),
    state_bytes=shown * size // whole + 2 * size // moments,
    parameter_bytes=size,
    loss_bytes=loss,
  )


def view_of(config: TrainConfig) -> str:
  """What a checkpoint says of how its weights are seen."""
  if isinstance(config, QatConfig):
    return quantize.view_named(config.quantize.spec)
  factored = isinstance(config, PairConfig) and config.lora.rank
  return lora.VIEW if factored else "identity"


def adopt(
  config: TrainConfig, given: Params, decoder: Params | None = None
) -> Mapping[str, Any]:
  """A parent's tensors, named as this stage's model names them."""
  return STAGES[config.stage].adopt(config, given, decoder)
