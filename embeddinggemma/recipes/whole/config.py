"""What a recipe is: the configs of its stages, and how they fit together."""

import dataclasses
import functools
import pathlib
from collections.abc import Mapping
from typing import Any

from rich.console import Console

from embeddinggemma import config
from embeddinggemma.config import at_least
from embeddinggemma.data import denoisers
from embeddinggemma.mining.candidates import MiningConfig
from embeddinggemma.mining.teach import TeachConfig, teacher_of
from embeddinggemma.mining.teacher import TeacherModel
from embeddinggemma.model.config import ModelConfig
from embeddinggemma.recipes.index import IndexConfig
from embeddinggemma.recipes.shared import fingerprint, without_knobs
from embeddinggemma.recipes.shipping import ExportConfig
from embeddinggemma.recipes.whole import initialise
from embeddinggemma.recipes.whole.ablation import AblationConfig
from embeddinggemma.recipes.whole.finetuning import SearchConfig
from embeddinggemma.recipes.whole.initialise import InitialiseConfig
from embeddinggemma.recipes.whole.qat import SpecsConfig
from embeddinggemma.training import inputs
from embeddinggemma.training import start as starting
from embeddinggemma.training.config import (
  AdaptConfig,
  LanguageConfig,
  PairConfig,
)
from embeddinggemma.training.inputs import Inputs
from embeddinggemma.types import BadInput


@dataclasses.dataclass(frozen=True)
class RecipeConfig:
  """A whole run, by stage."""

  pretrain: LanguageConfig
  adapt: AdaptConfig
  initialise: InitialiseConfig
  teach: TeachConfig
  prefinetune: PairConfig
  mine: MiningConfig
  mixture: SearchConfig
  finetune: PairConfig
  qat: SpecsConfig
  export: ExportConfig
  index: IndexConfig
  ablation: AblationConfig
  seconds: dict[str, float]  # measured on two cores, for the plan
  gflops: float  # of the machine that these were measured on

  def __post_init__(self) -> None:
    at_least("index.dim", self.index.dim, 1)
    if self.index.dim > self.prefinetune.model.embed_dim:
      raise BadInput(
        f"index.dim={self.index.dim} exceeds model.embed_dim="
        f"{self.prefinetune.model.embed_dim}"
      )
    for name in (
      "pretrain.model",
      "adapt.model",
      "adapt.decoder",
      "finetune.model",
      "qat.model",
    ):
      stage, field = name.split(".")
      fits(name, getattr(getattr(self, stage), field), self.prefinetune.model)
    lsa = {self.pretrain.init, self.adapt.init, *self.initialise.inits}
    if "lsa" in lsa and self.prefinetune.init != "lsa":
      raise BadInput(
        "a stage starts from the lsa table, which only prefinetune.init=lsa"
        " makes; set it, or take lsa out of pretrain.init, adapt.init and"
        " initialise.inits"
      )
    for name in ("adapt", "prefinetune", "finetune", "qat"):
      if getattr(self, name).init_from:
        raise BadInput(
          f"{name}.init_from is set, but in a recipe {name} starts from the"
          " stages before it; set pretrain.init_from, or use `train`"
        )
    if self.adapt.data != self.pretrain.data:
      raise BadInput(
        "pretrain.data and adapt.data differ; a recipe prepares one text"
      )
    for stage in ("finetune", "qat"):
      for name in ("path", "tokenizer", "skip_bad_rows"):
        ours = getattr(getattr(self, stage).data, name)
        theirs = getattr(self.prefinetune.data, name)
        if ours != theirs:
          raise BadInput(
            f"{stage}.data.{name}={ours!r} is not prefinetune.data.{name}="
            f"{theirs!r}; a recipe has one corpus"
          )
    for name in ("prefinetune", "finetune"):
      if getattr(self, name).teacher:
        raise BadInput(
          f"{name}.teacher is set, but in a recipe the stage `teach` writes the"
          " vectors; set teach.teacher"
        )
    if self.qat.teacher:
      raise BadInput(
        "qat.teacher is set, but in a recipe qat matches the vectors of the"
        " soup; set qat.loss.distill, or use `train`"
      )


def fits(name: str, model: ModelConfig, other: ModelConfig) -> None:
  """Raises BadInput where a stage's sizes are not those of the next one."""
  for field in dataclasses.fields(model):
    sides = model.portable, other.portable
    ours, theirs = (getattr(side, field.name) for side in sides)
    if ours != theirs:
      raise BadInput(
        f"{name}.{field.name}={ours} is not prefinetune.model.{field.name}="
        f"{theirs}; the stages of a recipe hand their weights on"
      )


def build(tree: Mapping[str, Any]) -> RecipeConfig:
  """RecipeConfig from a tree whose top level also names common knobs.

  configs/recipe.py puts seed, steps, ... at the top; they are references to
  the same values inside the stages.
  """
  return config.build(RecipeConfig, without_knobs(RecipeConfig, tree))


@dataclasses.dataclass(frozen=True)
class Run:
  """A recipe in its workdir."""

  recipe: RecipeConfig
  workdir: pathlib.Path
  console: Console

  @functools.cached_property
  def teacher(self) -> TeacherModel | None:
    """Whose vectors are matched; BadInput for one that is not there."""
    stages = self.recipe.prefinetune, self.recipe.finetune
    used = any(stage.loss.distill for stage in stages)
    return teacher_of(self.recipe.teach) if used else None

  @functools.cached_property
  def outside(self) -> dict[str, Any]:
    """What the stages depend on that none of them makes; fails on bad paths."""
    recipe, model = self.recipe, self.teacher
    return {
      "pairs": inputs.dependencies(recipe.prefinetune),
      "text": inputs.dependencies(recipe.adapt),
      "start": inputs.parent(recipe.pretrain.init_from),
      "teacher": {**model.about, "width": model.width} if model else {},
      "searched": fingerprint("index.input", recipe.index.input),
      "suite": fingerprint("ablation.suite", recipe.ablation.suite),
    }

  @property
  def made(self) -> Inputs:
    """What the stages `tokenizer` and `text` leave."""
    made = inputs.of(self.recipe.adapt, self.workdir)  # its shards: "text"
    return Inputs(self.workdir / "tokenizer", made.shards)

  @property
  def mined(self) -> Inputs:
    """The same with the hard negatives that the stage `mine` leaves."""
    return dataclasses.replace(self.made, mined=self.workdir / "mine")

  @property
  def parents(self) -> dict[str, pathlib.Path]:
    """Where the starts that a stage trains are."""
    return {
      "decoder-only": self.workdir / "pretrain",
      "encoder-decoder": self.workdir / "adapt",
    }

  def adapt(self) -> AdaptConfig:
    """Adaptation starts from what pretraining left."""
    start = str(self.workdir / "pretrain")
    return dataclasses.replace(self.recipe.adapt, init_from=start)

  @property
  def first(self) -> PairConfig:
    """Pre-finetuning, with its teacher; where it starts is not said yet."""
    return self._taught(self.recipe.prefinetune)

  def prefinetune(self, chosen: str) -> PairConfig:
    """Pre-finetuning from the start that was chosen."""
    return initialise.start_from(self.first, chosen, self.parents)

  def finetune(self) -> PairConfig:
    """Finetuning from what pre-finetuning left."""
    start = str(self.workdir / "prefinetune")
    taught = self._taught(self.recipe.finetune)
    return dataclasses.replace(taught, init_from=start)

  def qat(self) -> SpecsConfig:
    """Quantisation-aware training starts from the soup."""
    start = str(self.workdir / "soup")
    return dataclasses.replace(self.recipe.qat, init_from=start)

  @property
  def quantised(self) -> dict[str, pathlib.Path]:
    """Where the models are that are trained for a precision."""
    specs = self.recipe.qat.specs
    return {spec: self.workdir / "qat" / spec for spec in specs}

  def _taught(self, stage: PairConfig) -> PairConfig:
    if not stage.loss.distill:
      return stage
    return dataclasses.replace(stage, teacher=str(self.workdir / "teach"))


def check(recipe: RecipeConfig) -> None:
  """Fails on what no data can mend, in any stage, before the first."""
  for stage in (
    recipe.pretrain,
    recipe.adapt,
    recipe.prefinetune,
    recipe.finetune,
    *map(recipe.qat.of, recipe.qat.specs),
  ):
    starting.check(stage)
  ours = inputs.given_tokenizer(recipe.prefinetune)
  theirs = inputs.given_tokenizer(recipe.pretrain)
  if ours:
    denoisers.sentinels_of(ours)
  if theirs and (ours is None or ours.hash != theirs.hash):
    raise BadInput(
      "pretrain has a tokenizer of its own (pretrain.init_from or"
      " pretrain.data); give the same as prefinetune.data.tokenizer"
    )
  if recipe.adapt.data.path and inputs.from_pairs(recipe.adapt):
    raise BadInput(
      f"adapt.data.path={recipe.adapt.data.path} holds pairs; leave it empty:"
      " a recipe takes the texts of prefinetune's training pairs"
    )
