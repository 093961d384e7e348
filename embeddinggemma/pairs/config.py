"""What finetuning on own pairs is: values that are open follow from the data."""

import dataclasses
import pathlib
from collections.abc import Mapping, Sequence
from typing import Any

from embeddinggemma import config as config_lib
from embeddinggemma import inputs, starting
from embeddinggemma.config import LoraConfig, at_least, suggest
from embeddinggemma.data import prompts, sources
from embeddinggemma.indexing import IndexConfig
from embeddinggemma.load import Model, load
from embeddinggemma.recipe import without_knobs
from embeddinggemma.retrieval.candidates import MiningConfig
from embeddinggemma.training.config import PairConfig
from embeddinggemma.types import BadInput, Pair

TABLE = "embedding$"  # the pattern of the largest tensor's path
TRAINABLE = ("all", "no_table", "lora")
SMALLEST_BATCH = 8


@dataclasses.dataclass(frozen=True)
class ChooseConfig:
  """What decides the values that the config leaves open."""

  batch_size: int  # or less, so that
  epoch_batches: int  # there are at least so many batches of all pairs
  epochs: float
  fewest_steps: int
  most_steps: int
  max_length: int  # or the base's
  negatives: int  # of a query, or as many as the pairs have
  warmup: float  # of the steps
  lr: dict[str, float]  # by what is trainable


@dataclasses.dataclass(frozen=True)
class MineConfig(MiningConfig):
  """Whether hard negatives are looked for, and how."""

  enabled: bool


@dataclasses.dataclass(frozen=True)
class GeneralConfig:
  """What forgetting is seen on."""

  suite: str  # a folder of tasks; empty: of the standard library
  queries: int  # of that one

  def __post_init__(self) -> None:
    at_least("general.queries", self.queries, 20)


@dataclasses.dataclass(frozen=True)
class PairsConfig:
  """The whole run, with nothing left open."""

  base: str
  base_hash: str
  pairs: int  # how many there are, on all sides of the split
  trainable: str
  lora: LoraConfig
  choose: ChooseConfig
  finetune: PairConfig
  mine: MineConfig
  general: GeneralConfig
  points: int
  index: IndexConfig
  memory: float | None

  def __post_init__(self) -> None:
    at_least("points", self.points, 2)
    at_least("index.dim", self.index.dim, 1)
    if self.memory is not None:
      config_lib.above_zero("memory", self.memory)


def build(tree: Mapping[str, Any]) -> PairsConfig:
  """The config of a tree; reads the base and the pairs, before any work.

  Raises BadInput for a base that is missing or no embedding model, for a bad
  line of the pairs, and for values that do not fit the base.
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
  _check_prompts(base)
  data = stage["data"]
  path = pathlib.Path(data["path"])
  pairs, _ = sources.read_pairs(path, data["skip_bad_rows"])
  choose = config_lib.build(ChooseConfig, tree["choose"], "choose.")
  lora = config_lib.build(LoraConfig, tree["lora"], "lora.")
  mine = config_lib.build(MineConfig, tree["mine"], "mine.")
  stage |= {
    "model": dataclasses.asdict(base.config),
    "init": "random",  # of nothing: the base has all tensors
    "init_from": tree["base"],
  }
  fill(stage, choose, tree["trainable"], base, pairs, mine)
  index = dict(tree["index"])
  index["dim"] = min(index["dim"], base.config.embed_dim)
  finetune = config_lib.build(PairConfig, stage, "finetune.")
  whole = {
    **tree,
    "base_hash": base.hash,
    "pairs": len(pairs),
    "index": index,
    "finetune": dataclasses.asdict(trains(finetune, tree["trainable"], lora)),
  }
  found = config_lib.build(PairsConfig, whole)
  starting.check(found.finetune)
  return found


def fill(
  stage: dict[str, Any],
  choose: ChooseConfig,
  trainable: str,
  base: Model,
  pairs: Sequence[Pair],
  mine: MineConfig,
) -> None:
  """Sets what is None: a function of the base and of the pairs' numbers."""

  def default(tree: dict[str, Any], name: str, value: Any) -> Any:
    if tree[name] is None:
      tree[name] = value
    return tree[name]

  batch = default(stage, "batch_size", batch_size(choose, len(pairs)))
  steps = default(stage, "steps", steps_of(choose, len(pairs), batch))
  shortest = min(choose.max_length, base.config.max_length)
  default(stage, "max_length", shortest)
  most = max(len(pair.negatives) for pair in pairs)
  given = min(choose.negatives, most)
  mined = mine.negatives if mine.enabled else 0
  default(stage, "negatives", max(given, mined))
  default(stage, "every_checkpoint", min(max(steps // 4, 1), 500))
  stage["optimizer"] = dict(stage["optimizer"])
  default(stage["optimizer"], "warmup_steps", int(choose.warmup * steps))
  if trainable not in choose.lr:
    raise BadInput(
      f"choose.lr lacks {trainable!r}{suggest(trainable, list(choose.lr))}"
    )
  default(stage["optimizer"], "lr", choose.lr[trainable])


def batch_size(choose: ChooseConfig, pairs: int) -> int:
  """Halved while there are too few batches of all pairs."""
  size = choose.batch_size
  while size > SMALLEST_BATCH and size * choose.epoch_batches > pairs:
    size //= 2
  return size


def steps_of(choose: ChooseConfig, pairs: int, batch: int) -> int:
  """So many epochs, between the bounds."""
  steps = round(choose.epochs * pairs / batch)
  return min(max(steps, choose.fewest_steps), choose.most_steps)


def trains(stage: PairConfig, trainable: str, lora: LoraConfig) -> PairConfig:
  """The stage with what is trainable: patterns that freeze, or factors."""
  if trainable == "lora":
    at_least("lora.rank", lora.rank, 1)
    return dataclasses.replace(stage, lora=lora)
  frozen = (TABLE,) if trainable == "no_table" else ()
  return dataclasses.replace(stage, frozen=(*stage.frozen, *frozen))


def about(config: PairsConfig) -> list[str]:
  """What was chosen, for people."""
  stage = config.finetune
  epochs = stage.steps * stage.batch_size / config.pairs
  return [
    f"base {config.base}, weights {config.base_hash[:12]}",
    f"{config.pairs} pairs; {stage.steps} steps of {stage.batch_size} ({epochs:.1f}"
    f" epochs), {stage.negatives} hard negatives, at most {stage.max_length}"
    f" tokens; trains {config.trainable}, lr {stage.optimizer.lr:g}",
  ]


def _check_prompts(base: Model) -> None:
  """Under other prompts than it was trained with, a base is quietly worse."""
  name = inputs.other_prompts(base.prompts)
  if name:
    raise BadInput(
      f"{base.name}: its prompt {name!r} is {base.prompts[name]!r}, but pairs"
      f" are trained with {prompts.PROMPTS[name]!r}; use a base with ours"
    )
