"""The config of the whole recipe, and a run of it."""

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
from embeddinggemma.mining.teacher import TeacherModel
from embeddinggemma.mining.teachers import teacher_of
from embeddinggemma.mining.teachers.kind import TeachConfig
from embeddinggemma.model.config import ModelConfig
from embeddinggemma.recipes.export import ExportConfig
from embeddinggemma.recipes.index import IndexConfig
from embeddinggemma.recipes.shared import fingerprint, without_knobs
from embeddinggemma.recipes.whole import initialise
from embeddinggemma.recipes.whole.ablation import AblationConfig
from embeddinggemma.recipes.whole.finetuning import SearchConfig
from embeddinggemma.recipes.whole.initialise import InitialiseConfig
from embeddinggemma.recipes.whole.qat import SpecsConfig
from embeddinggemma.training import inputs, prepare, stages
from embeddinggemma.training import start as starting
from embeddinggemma.training.inputs import Inputs
from embeddinggemma.training.stages import language
from embeddinggemma.training.stages.language import AdaptConfig, LanguageConfig
from embeddinggemma.training.stages.pairs import PairConfig
from embeddinggemma.types import BadInput


@dataclasses.dataclass(frozen=True)
class RecipeConfig:
  """The config of a whole run, by task; checks that the stages fit together."""

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
  seconds: dict[str, float]  # of each task, measured on two cores
  gflops: float  # GFLOP/s of the machine that they were measured on

  def __post_init__(self) -> None:
    for stage in (
      self.pretrain,
      self.adapt,
      self.prefinetune,
      self.finetune,
      self.qat,
    ):
      stages.kind_of(stage)  # an unknown name ends it here
    at_least("index.dim", self.index.dim, 1)
    if self.index.dim > self.prefinetune.model.embed_dim:
      raise BadInput(
        f"index.dim={self.index.dim} exceeds model.embed_dim="
        f"{self.prefinetune.model.embed_dim}; lower it to that or less"
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
        "pretrain.data and adapt.data differ; a recipe prepares one text: set"
        " both alike"
      )
    for stage in ("finetune", "qat"):
      for name in ("path", "tokenizer", "skip_bad_rows", "fields"):
        ours = getattr(getattr(self, stage).data, name)
        theirs = getattr(self.prefinetune.data, name)
        if ours != theirs:
          raise BadInput(
            f"{stage}.data.{name}={ours!r} is not prefinetune.data.{name}="
            f"{theirs!r}; a recipe has one corpus: set both alike"
          )
    for name in ("prefinetune", "finetune"):
      if self.ablation.seeds and not getattr(self, name).loss.contrastive:
        raise BadInput(
          f"{name}.loss.contrastive=0 leaves nothing to train on in the ablation"
          " without the teacher; set ablation.seeds=()"
        )
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
  """Raise BadInput where two consecutive stages' models differ in size.

  `name` is the key of the later one, for the message.
  """
  for field in dataclasses.fields(model):
    sides = model.portable, other.portable
    ours, theirs = (getattr(side, field.name) for side in sides)
    if ours != theirs:
      raise BadInput(
        f"{name}.{field.name}={ours} is not prefinetune.model.{field.name}="
        f"{theirs}; the stages of a recipe hand their weights on: set both"
        " alike"
      )


def build(tree: Mapping[str, Any]) -> RecipeConfig:
  """RecipeConfig from a tree whose top level also names common values.

  configs/recipe.py puts seed, steps, ... at the top; they are references to the
  same values inside the stages.
  """
  return config.build(RecipeConfig, without_knobs(RecipeConfig, tree))


@dataclasses.dataclass(frozen=True)
class Run:
  """A run of the recipe, in its workdir, and the config of each stage."""

  recipe: RecipeConfig
  workdir: pathlib.Path
  console: Console

  @functools.cached_property
  def teacher(self) -> TeacherModel | None:
    """The teacher model, if any; BadInput if it does not open or fit."""
    stages = self.recipe.prefinetune, self.recipe.finetune
    taught = [stage for stage in stages if stage.loss.asks_teacher]
    if not taught:
      return None
    found = teacher_of(self.recipe.teach)
    for stage in taught:
      if not stage.loss.distill:
        continue  # its scores alone need no common width
      wanted = stage.loss.teacher_width or stage.model.embed_dim
      if found.width not in (None, wanted):
        raise BadInput(
          f"teach.teacher={self.recipe.teach.teacher} has vectors of width"
          f" {found.width}, and {stage.stage} matches {wanted}; set"
          f" {stage.stage}.loss.teacher_width={found.width}"
        )
    return found

  @functools.cached_property
  def outside(self) -> dict[str, Any]:
    """What tasks depend on that no task makes, as hashes.

    Raises BadInput for paths that do not exist.
    """
    recipe, model = self.recipe, self.teacher
    return {
      "pairs": prepare.dependencies(recipe.prefinetune),
      "text": prepare.dependencies(recipe.adapt),
      "start": inputs.parent(recipe.pretrain.init_from),
      "teacher": {**model.about, "width": model.width} if model else {},
      "searched": fingerprint("index.input", recipe.index.input),
      "suite": fingerprint("ablation.suite", recipe.ablation.suite),
    }

  @property
  def made(self) -> Inputs:
    """What training reads, from the folders `tokenizer` and `text`."""
    made = prepare.inputs_in(
      self.recipe.adapt, self.workdir
    )  # its shards: "text"
    return Inputs(self.workdir / "tokenizer", made.shards)

  @property
  def mined(self) -> Inputs:
    """The same with the hard negatives of the task `mine`."""
    return dataclasses.replace(self.made, mined=self.workdir / "mine")

  @property
  def parents(self) -> dict[str, pathlib.Path]:
    """Start -> the workdir of the training whose weights it takes."""
    return {
      "decoder-only": self.workdir / "pretrain",
      "encoder-decoder": self.workdir / "adapt",
    }

  def adapt(self) -> AdaptConfig:
    """The encoder-decoder adaptation, from the pretrained decoder."""
    start = str(self.workdir / "pretrain")
    return dataclasses.replace(self.recipe.adapt, init_from=start)

  @property
  def first(self) -> PairConfig:
    """Pre-finetuning, with its teacher; `start_from` adds where it starts."""
    return self._taught(self.recipe.prefinetune)

  def prefinetune(self, chosen: str) -> PairConfig:
    """Pre-finetuning from the start that was chosen."""
    return initialise.start_from(self.first, chosen, self.parents)

  def finetune(self) -> PairConfig:
    """Finetuning, from the pre-finetuned model."""
    start = str(self.workdir / "prefinetune")
    taught = self._taught(self.recipe.finetune)
    return dataclasses.replace(taught, init_from=start)

  def qat(self) -> SpecsConfig:
    """Quantisation-aware training, from the soup."""
    start = str(self.workdir / "soup")
    return dataclasses.replace(self.recipe.qat, init_from=start)

  @property
  def quantised(self) -> dict[str, pathlib.Path]:
    """Spec -> the checkpoint's folder of the model trained for it."""
    specs = self.recipe.qat.specs
    return {spec: self.workdir / "qat" / spec for spec in specs}

  def _taught(self, stage: PairConfig) -> PairConfig:
    if not stage.loss.asks_teacher:
      return stage
    return dataclasses.replace(stage, teacher=str(self.workdir / "teach"))


def check(recipe: RecipeConfig) -> None:
  """Raise BadInput, before the first task, for what no data can mend."""
  for stage in (
    recipe.pretrain,
    recipe.adapt,
    recipe.prefinetune,
    recipe.finetune,
    *map(recipe.qat.of, recipe.qat.specs),
  ):
    starting.check(stage)
  ours = prepare.given_tokenizer(recipe.prefinetune)
  theirs = prepare.given_tokenizer(recipe.pretrain)
  if ours:
    denoisers.sentinels_of(ours)
  if theirs and (ours is None or ours.identity != theirs.identity):
    raise BadInput(
      "pretrain has a tokenizer of its own (pretrain.init_from or"
      " pretrain.data); give the same as prefinetune.data.tokenizer"
    )
  if recipe.adapt.data.path and language.from_pairs(recipe.adapt):
    raise BadInput(
      f"adapt.data.path={recipe.adapt.data.path} holds pairs; leave it empty:"
      " a recipe takes the texts of prefinetune's training pairs"
    )
