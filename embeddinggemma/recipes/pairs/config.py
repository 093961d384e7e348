"""The config of finetuning on own pairs; the data decide open values."""

import dataclasses
import math
import pathlib
from collections.abc import Mapping, Sequence
from typing import Any, TypeVar

import jax

from embeddinggemma import config as config_lib
from embeddinggemma.config import LoraConfig, at_least, suggest
from embeddinggemma.data import mixture, sources
from embeddinggemma.data.tables.pairs import Pairs
from embeddinggemma.data.tokenizer import Tokenizer
from embeddinggemma.loading import Model, load
from embeddinggemma.mining.candidates import MiningConfig
from embeddinggemma.model import embedder
from embeddinggemma.recipes.index import IndexConfig
from embeddinggemma.recipes.own import base as bases
from embeddinggemma.recipes.own.general import GeneralConfig
from embeddinggemma.recipes.shared import without_knobs
from embeddinggemma.training import stages, start
from embeddinggemma.training.stages.pairs import PairConfig
from embeddinggemma.types import BadInput, Pair

T = TypeVar("T")

TRAINABLE = ("all", "no_table", "lora")
SMALLEST_BATCH = 8
_SAMPLE = 2000  # pairs whose tokens are counted to estimate the mean


@dataclasses.dataclass(frozen=True)
class CpuConfig:
  """Limits of a training that runs on CPUs."""

  batch_tokens: int  # at most, of a batch
  group_tokens: dict[str, int]  # in memory at once, by what is trainable
  # Of all steps together; a token costs 6 FLOP per parameter outside the table.
  tflop: float

  def __post_init__(self) -> None:
    at_least("choose.cpu.batch_tokens", self.batch_tokens, 1)
    for name, tokens in self.group_tokens.items():
      at_least(f"choose.cpu.group_tokens.{name}", tokens, 1)
    config_lib.above_zero("choose.cpu.tflop", self.tflop)


@dataclasses.dataclass(frozen=True)
class ChooseConfig:
  """How values that the config leaves open (None) are chosen."""

  batch_size: int  # at most, in pairs
  epoch_batches: int  # an epoch has at least as many; else batches get smaller
  epochs: float
  fewest_steps: int
  most_steps: int
  cpu: CpuConfig
  max_length: int  # tokens of a text; at most the base's own
  negatives: int  # hard negatives of a query; at most as many as pairs have
  warmup: float  # share of the steps
  lr: dict[str, float]  # by what is trainable


@dataclasses.dataclass(frozen=True)
class MineConfig(MiningConfig):
  """Whether hard negatives are mined, and how."""

  enabled: bool


@dataclasses.dataclass(frozen=True)
class PairsConfig:
  """The config of a whole run, with every value chosen."""

  base: str  # the model's path
  base_hash: str  # content hash of its weights
  base_identity: dict[str, Any]  # all that decides its vectors
  pairs: int  # how many there are, on all sides of the split
  trainable: str  # one of TRAINABLE
  lora: LoraConfig
  choose: ChooseConfig
  finetune: PairConfig
  mine: MineConfig
  general: GeneralConfig
  points: int  # evenly spaced from base to trained weights, with both ends
  index: IndexConfig
  memory: float | None  # GB that the training may take; None: what there is

  def __post_init__(self) -> None:
    stages.kind_of(self.finetune)  # an unknown name ends it here
    at_least("points", self.points, 2)
    at_least("index.dim", self.index.dim, 1)
    if self.memory is not None:
      config_lib.above_zero("memory", self.memory)

  @property
  def shares(self) -> list[float]:
    """The shares of the trained weights in the mixed candidates, ascending."""
    last = self.points - 1
    return [number / last for number in range(1, last)]


def build(tree: Mapping[str, Any]) -> PairsConfig:
  """The config of a tree, with open values chosen.

  It reads the base and the pairs. Raises BadInput for a base that is missing or
  no embedding model, for a bad line of the pairs, and for values that do not
  fit the base.
  """
  tree = without_knobs(PairsConfig, tree)
  stage = dict(tree["finetune"])
  for name, value in (("data", stage["data"]["path"]), ("base", tree["base"])):
    if not value:
      raise BadInput(
        f"{name}= is missing; give --config=configs/recipe.py:pairs,data=PAIRS,"
        "base=MODEL"
      )
  if tree["trainable"] not in TRAINABLE:
    raise BadInput(
      f"trainable={tree['trainable']!r} is unknown; use one of"
      f" {', '.join(TRAINABLE)}"
    )
  base = load(tree["base"])
  bases.check_prompts(base)
  data = stage["data"]
  path = pathlib.Path(data["path"])
  pairs, _ = sources.read_pairs(
    path, data["skip_bad_rows"], data.get("fields", "")
  )
  choose = config_lib.build(ChooseConfig, tree["choose"], "choose.")
  lora = config_lib.build(LoraConfig, tree["lora"], "lora.")
  mine = config_lib.build(MineConfig, tree["mine"], "mine.")
  stage |= {
    "model": dataclasses.asdict(base.config),
    "init": "random",  # unused: the base has all tensors
    "init_from": tree["base"],
  }
  fill(stage, choose, tree["trainable"], base, pairs, mine)
  index = dict(tree["index"])
  index["dim"] = min(index["dim"], base.config.embed_dim)
  finetune = config_lib.build(PairConfig, stage, "finetune.")
  whole = {
    **tree,
    "base_hash": base.hash,
    "base_identity": base.identity.as_json(),
    "pairs": len(pairs),
    "index": index,
    "finetune": dataclasses.asdict(trains(finetune, tree["trainable"], lora)),
  }
  found = config_lib.build(PairsConfig, whole)
  start.check(found.finetune)
  return found


def fill(
  stage: dict[str, Any],
  choose: ChooseConfig,
  trainable: str,
  base: Model,
  pairs: Pairs,
  mine: MineConfig,
) -> None:
  """Set the values of a stage's tree that are None.

  They follow from the base, from the number and length of the pairs, and on
  CPUs from `choose.cpu`.
  """

  def default(tree: dict[str, Any], name: str, value: Any) -> Any:
    if tree[name] is None:
      tree[name] = value
    return tree[name]

  shortest = min(choose.max_length, base.config.max_length)
  length = default(stage, "max_length", shortest)
  given = min(choose.negatives, pairs.most_negatives)
  mined = mine.negatives if mine.enabled else 0
  negatives = default(stage, "negatives", max(given, mined))
  tokens = tokens_of(pairs, base.tokenizer, length, negatives, mined)
  cpu = choose.cpu if jax.default_backend() == "cpu" else None
  size = batch_size(choose, len(pairs), tokens, cpu)
  batch = default(stage, "batch_size", size)
  flop = 6 * tokens * batch * _outside_table(base)
  steps = steps_of(choose, len(pairs), batch, flop, cpu)
  steps = default(stage, "steps", steps)
  limit = of_kind("choose.cpu.group_tokens", choose.cpu.group_tokens, trainable)
  groups = groups_of(batch, tokens, limit) if cpu else 0
  default(stage, "groups_per_device", groups)
  # Two checkpoints are candidates: one halfway, and the last.
  default(stage, "every_checkpoint", -(-steps // 2))
  stage["optimizer"] = dict(stage["optimizer"])
  default(stage["optimizer"], "warmup_steps", int(choose.warmup * steps))
  lr = of_kind("choose.lr", choose.lr, trainable)
  default(stage["optimizer"], "lr", lr)


def of_kind(name: str, values: Mapping[str, T], trainable: str) -> T:
  """The value for what is trainable, from a config's table.

  Raises BadInput, with the table's name, if it has no such entry.
  """
  if trainable not in values:
    raise BadInput(
      f"{name} lacks {trainable!r}{suggest(trainable, list(values))}"
    )
  return values[trainable]


def tokens_of(
  pairs: Sequence[Pair],
  tokenizer: Tokenizer,
  max_length: int,
  negatives: int,
  mined: int,
) -> float:
  """Mean tokens of a pair with prompts and hard negatives, from a sample.

  A negative that is still to be mined counts as much as a positive.
  """
  sample = pairs[:: max(len(pairs) // _SAMPLE, 1)]
  tasks, _ = mixture.tokenise(sample, tokenizer, max_length, negatives)
  lengths = [rows.lengths for rows in tasks.values()]
  whole = sum(int(of_task.sum()) for of_task in lengths)
  positive = sum(int(of_task[:, 1].sum()) for of_task in lengths) / len(sample)
  lacking = sum(max(mined - len(pair.negatives), 0) for pair in sample)
  return (whole + lacking * positive) / len(sample)


def _outside_table(base: Model) -> int:
  """The number of parameters without the token embedding table."""
  table = base.config.vocab_size * base.config.width
  return embedder.num_parameters(base.config) - table


def batch_size(
  choose: ChooseConfig, pairs: int, tokens: float, cpu: CpuConfig | None
) -> int:
  """The number of pairs in a batch: choose.batch_size, halved as needed.

  It is halved while all pairs make too few batches, or while a batch has more
  `tokens` (of a pair, times its size) than a CPU's limit; never below 8.
  """
  size, most = choose.batch_size, cpu.batch_tokens if cpu else math.inf
  while size > SMALLEST_BATCH and (
    size * choose.epoch_batches > pairs or size * tokens > most
  ):
    size //= 2
  return size


def steps_of(
  choose: ChooseConfig,
  pairs: int,
  batch: int,
  flop: float,
  cpu: CpuConfig | None,
) -> int:
  """The number of updates: so many epochs, within the config's bounds.

  On CPUs they are also bounded by the config's total of TFLOP; a step costs
  `flop` floating-point operations.
  """
  steps = round(choose.epochs * pairs / batch)
  steps = min(max(steps, choose.fewest_steps), choose.most_steps)
  return min(steps, max(int(cpu.tflop * 1e12 / flop), 1)) if cpu else steps


def groups_of(batch: int, tokens: float, limit: int) -> int:
  """The fewest groups of a device's rows that keep within a limit of tokens.

  A group is what is in memory at once (GradCache, arXiv 2101.06983).
  Recomputing layers would not do: XLA's CPU compiler undoes it.
  """
  whole = batch // len(jax.devices())
  fits = (
    groups
    for groups in range(1, whole)
    if not whole % groups and whole / groups * tokens <= limit
  )
  return next(fits, max(whole, 1))


def trains(stage: PairConfig, trainable: str, lora: LoraConfig) -> PairConfig:
  """The stage's config with the given parts trainable.

  `trainable` is "all", "no_table" (the token embeddings stay frozen) or "lora"
  (only LoRA factors are trained).
  """
  if trainable == "lora":
    at_least("lora.rank", lora.rank, 1)
    return dataclasses.replace(stage, lora=lora)
  frozen = (bases.TABLE,) if trainable == "no_table" else ()
  return dataclasses.replace(stage, frozen=(*stage.frozen, *frozen))


def about(config: PairsConfig) -> list[str]:
  """What was chosen, as lines for people."""
  stage = config.finetune
  epochs = stage.steps * stage.batch_size / config.pairs
  whole = round(config.choose.epochs * config.pairs / stage.batch_size)
  more = f"all {config.choose.epochs:g} epochs: --config.steps={whole}"
  return [
    f"base {config.base}, weights {config.base_hash[:12]}",
    f"{config.pairs} pairs; {stage.steps} steps of {stage.batch_size} ({epochs:.1f}"
    f" epochs), {stage.negatives} hard negatives, at most {stage.max_length}"
    f" tokens; trains {config.trainable}, lr {stage.optimizer.lr:g}",
    *([more] if whole > stage.steps else []),
  ]
