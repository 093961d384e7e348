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
from embeddinggemma import quantize, sharding
from embeddinggemma.data import packing
from embeddinggemma.encode import encoder
from embeddinggemma.losses import (
  contrastive,
  denoise,
  distill,
  matryoshka,
  objectives,
  spread_out,
)
from embeddinggemma.model import adapt as surgery
from embeddinggemma.model import decoder as decoder_lib
from embeddinggemma.model import embedder, lora
from embeddinggemma.model.kernels import choose
from embeddinggemma.training import memory, optimizer, tied
from embeddinggemma.training.config import (
  AdaptConfig,
  LanguageConfig,
  PairConfig,
  QatConfig,
  TrainConfig,
  check_stage,
)
from embeddinggemma.types import (
  Key,
  LossTerm,
  Params,
  Stage,
  Text,
)


def build(tree: Mapping[str, Any]) -> TrainConfig:
  """The stage's config from a (resolved) ConfigDict's tree."""
  name = tree.get("stage", "")
  check_stage(name)
  return config_lib.build(STAGES[name].config, tree)


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
    loss.false_negative_margin,
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
  config = on(config, mesh.devices.flat[0])
  return STAGES[config.stage].make(config, mesh)


def on(config: TrainConfig, device: jax.Device) -> TrainConfig:
  """The config as such devices run it; BadInput if they cannot."""
  platform, kind = device.platform, device.device_kind
  sides = {"model": choose.on(config.model, platform, kind)}
  if isinstance(config, AdaptConfig):
    sides["decoder"] = choose.on(config.decoder, platform, kind)
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
    config = on(config, jax.devices()[0])
    capacity = sharding.memory_limit()
  if not capacity:
    return 1
  return memory.fewest_groups(work(config, devices), capacity)


def work(config: TrainConfig, devices: int) -> memory.Work:
  """What each device has to do in a step, for an estimate of its memory.

  Each text counts as the longest. How the state is split follows from the
  config alone, so that no device is needed; what does not divide is not split.
  """
  side = memory.Side(config.model, config.max_length)
  calls, loss = [(side,)], 0
  if isinstance(config, PairConfig):
    texts = [1, 1, *([config.negatives] if config.negatives else [])]
    texts = [sum(texts)] if config.calls == "joint" else texts
    calls = [(side,) * number for number in texts]
    # Candidates and logits, and the gradients of both.
    columns = config.model.embed_dim + config.batch_size // devices
    loss = 2 * 4 * config.batch_size * columns
  if isinstance(config, AdaptConfig):
    reading = memory.Side(config.decoder, side.length, read=side.length)
    calls = [(side, reading)]
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
