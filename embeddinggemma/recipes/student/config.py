"""The config of a student; the forecast decides the number of steps."""

import contextlib
import dataclasses
import pathlib
from collections.abc import Iterator, Mapping
from typing import Any

from embeddinggemma import checkpoint, saved
from embeddinggemma import config as config_lib
from embeddinggemma.config import at_least
from embeddinggemma.convert.read import families
from embeddinggemma.data import sources
from embeddinggemma.loading import Model, load
from embeddinggemma.mining import teachers
from embeddinggemma.mining.teachers import vectors as stored
from embeddinggemma.mining.teachers.kind import TeachConfig
from embeddinggemma.recipes.export import ExportConfig
from embeddinggemma.recipes.index import IndexConfig
from embeddinggemma.recipes.own import base as bases
from embeddinggemma.recipes.own.general import GeneralConfig
from embeddinggemma.recipes.shared import without_knobs
from embeddinggemma.recipes.student import texts
from embeddinggemma.students import shrink
from embeddinggemma.students import vocabulary as vocabularies
from embeddinggemma.training import start
from embeddinggemma.training.stages.pairs import PairConfig
from embeddinggemma.training.stages.qat import QatConfig
from embeddinggemma.types import BadInput

STAGES: Mapping[str, type[PairConfig]] = {
  "distil": PairConfig,
  "finetune": PairConfig,
  "qat": QatConfig,
}
_OPEN = 1  # stands for a number of steps that is not known yet


@dataclasses.dataclass(frozen=True)
class ChooseConfig:
  """How much is taught and trained, where the config leaves it open."""

  tokens: int  # that are taught, at most
  pairs: int | None  # that are taught, at most; None: as tokens and time allow
  passes: float  # of distillation through what is taught
  finetune: float  # steps on the pairs, as a share of those of distillation
  qat: float  # steps that see weights of four bits, as a share of them too
  warmup: float  # share of a stage's steps

  def __post_init__(self) -> None:
    at_least("choose.tokens", self.tokens, 1)
    if self.pairs is not None:
      at_least("choose.pairs", self.pairs, 1)
    for name in ("passes", "finetune", "qat"):
      config_lib.above_zero(f"choose.{name}", getattr(self, name))
    at_least("choose.warmup", self.warmup, 0)


@dataclasses.dataclass(frozen=True)
class MeasureConfig:
  """What the models are compared on, besides the general suite."""

  queries: int  # of own held-out data, all tasks together, at most
  timed: int  # texts that are timed, in a process for each model; 0: none are

  def __post_init__(self) -> None:
    at_least("measure.queries", self.queries, 5)
    at_least("measure.timed", self.timed, 0)


@dataclasses.dataclass(frozen=True)
class StudentConfig:
  """The config of a whole run."""

  base: str  # the model's path
  base_hash: str  # content hash of its weights
  base_identity: dict[str, Any]  # all that decides its vectors
  data: str  # path of pairs or texts
  fields: str  # which column of pairs is what
  skip_bad_rows: bool
  kind: str  # of the data: texts.PAIRS or texts.TEXTS
  layers: str  # as --layers of `shrink`; "": all
  vocabulary: int  # pieces at most; 0: all
  minutes: float  # of the whole run, as far as it is forecast
  choose: ChooseConfig
  teach: TeachConfig
  distil: PairConfig
  finetune: PairConfig
  qat: QatConfig
  # Stage -> what its config gives; None: the forecast decides.
  steps: dict[str, int | None]
  warmup_steps: dict[str, int | None]
  every_checkpoint: dict[str, int | None]
  measure: MeasureConfig
  general: GeneralConfig
  points: int  # evenly spaced from distilled to finetuned, with both ends
  export: ExportConfig
  index: IndexConfig
  memory: float | None  # GB that the training may take; None: what there is

  def __post_init__(self) -> None:
    config_lib.above_zero("minutes", self.minutes)
    at_least("vocabulary", self.vocabulary, 0)
    at_least("points", self.points, 2)
    at_least("index.dim", self.index.dim, 1)
    if self.memory is not None:
      config_lib.above_zero("memory", self.memory)

  @property
  def least(self) -> int:
    """The fewest pairs, or passages, that a student can be trained on."""
    return self.distil.batch_size  # of texts, of which a pair has two

  @property
  def max_length(self) -> int:
    """Tokens of a text that is taught, at most."""
    return self.distil.max_length

  @property
  def itself(self) -> bool:
    """Whether the base is the teacher."""
    return self.teach.teacher == self.base

  @property
  def shares(self) -> list[float]:
    """The shares of the finetuned weights in mixed candidates, ascending."""
    last = self.points - 1
    return [number / last for number in range(1, last)]

  def stage(
    self,
    name: str,
    steps: int,
    student: checkpoint.Files,
    init_from: str,
    teacher: str,
  ) -> Any:
    """The config of a stage of training.

    Args:
      name: one of STAGES.
      steps: if the config leaves them open.
      student: the files of the checkpoint that was cut out of the base.
      init_from: the checkpoint that it starts from.
      teacher: the folder of the teacher's vectors, which a stage gets unless it
        teaches itself.
    """
    stage: PairConfig = getattr(self, name)
    steps = self.steps[name] or steps
    warmup, every = self.warmup_steps[name], self.every_checkpoint[name]
    if warmup is None:
      warmup = int(self.choose.warmup * steps)
    model = saved.model_of(pathlib.Path(init_from), student)
    return dataclasses.replace(
      stage,
      steps=steps,
      every_checkpoint=every or -(-steps // 2),
      optimizer=dataclasses.replace(stage.optimizer, warmup_steps=warmup),
      model=model,
      init_from=init_from,
      teacher=teacher if stage.teacher else "",
    )


def build(tree: Mapping[str, Any]) -> StudentConfig:
  """The config of a tree.

  It reads the base. Raises BadInput for a base that is missing or no embedding
  model, for layers that it has not, for data that are not there, and for values
  that do not fit the base.
  """
  tree = without_knobs(StudentConfig, tree)
  data = tree["distil"]["data"]
  for name, value in (("data", data["path"]), ("base", tree["base"])):
    if not value:
      raise BadInput(
        f"{name}= is missing; give --config=configs/recipe.py:student,"
        "base=MODEL,data=DIR"
      )
  fields = data.get("fields", "")
  kind = texts.kind_of(pathlib.Path(data["path"]), fields)
  if kind == texts.PAIRS:  # a bad row ends it here
    path = pathlib.Path(data["path"])
    pairs, _ = sources.read_pairs(path, data["skip_bad_rows"], fields)
    for name in ("finetune", "qat"):
      most = min(tree[name]["negatives"], pairs.most_negatives)
      tree[name] = {**tree[name], "negatives": most}
  else:
    tree["qat"] = _of_texts(tree["qat"])
  _require_checkpoint(tree["base"])
  base = load(tree["base"])
  bases.check_prompts(base)
  pieces = _pieces(tree["layers"], tree["vocabulary"], base)
  taught = dict(tree["teach"])
  taught["teacher"] = taught["teacher"] or tree["base"]
  teaching = config_lib.build(TeachConfig, taught, "teach.")
  width = base.config.embed_dim
  if teaching.teacher != tree["base"]:
    width = _width(teaching, tree["distil"]["loss"]["teacher_width"], width)
    if stored.recognises(teaching) and kind == texts.TEXTS:
      raise BadInput(
        f"teach.teacher={teaching.teacher} has vectors of texts that are known,"
        " and of a folder of texts the passages are cut here; give pairs, or a"
        " teacher that encodes"
      )
  trees = {n: _stage(tree[n], tree["base"], base, width) for n in STAGES}
  given = {
    key: {name: trees[name][1][key] for name in STAGES}
    for key in ("steps", "warmup_steps", "every_checkpoint")
  }
  built = {
    name: config_lib.build(cls, trees[name][0], f"{name}.")
    for name, cls in STAGES.items()
  }
  index = dict(tree["index"])
  index["dim"] = min(index["dim"], base.config.embed_dim)
  whole = {
    **tree,
    **given,
    **{name: dataclasses.asdict(stage) for name, stage in built.items()},
    "vocabulary": pieces,
    "teach": taught,
    "base_hash": base.hash,
    "base_identity": base.identity.as_json(),
    "data": data["path"],
    "fields": fields,
    "skip_bad_rows": data["skip_bad_rows"],
    "kind": kind,
    "index": index,
  }
  found = config_lib.build(StudentConfig, whole)
  for name in STAGES:
    start.check(getattr(found, name))
  return found


def _of_texts(stage: Mapping[str, Any]) -> dict[str, Any]:
  """A stage's tree without what needs pairs: a pair's two texts are two."""
  loss = {**stage["loss"], "contrastive": 0.0, "false_negative_margin": None}
  size = 2 * stage["batch_size"]
  return {**stage, "loss": loss, "batch_size": size, "negatives": 0}


def _pieces(layers: str, pieces: int, base: Model) -> int:
  """The pieces that a student has at most; 0: all that the base has.

  Raises BadInput for layers that the base has not, for too few pieces, and if
  nothing is cut.
  """
  if pieces >= base.tokenizer.vocab_size:
    pieces = 0
  with renamed():
    if layers:
      shrink.chosen_layers(layers, base.config.num_layers)
    if pieces:
      vocabularies.require_size(base.tokenizer, pieces)
  if not pieces and layers in ("", str(base.config.num_layers)):
    raise BadInput(
      "a student with all layers and pieces is the base itself; give"
      " --config.layers or --config.vocabulary, or finetune the base with"
      " configs/recipe.py:pairs"
    )
  return pieces


def _width(teaching: TeachConfig, given: int, own: int) -> int:
  """The width of a teacher's vectors; BadInput if it is not known."""
  if width := teachers.teacher_of(teaching).width or given:
    return width
  raise BadInput(
    f"how many dimensions {teaching.teacher} gives is not known before it"
    f" answers; ask for the student's own with"
    f" --config.teach.service.dimensions={own}, or say how many it gives with"
    " --config.distil.loss.teacher_width"
  )


def _stage(
  tree: Mapping[str, Any], base: str, model: Model, width: int
) -> tuple[dict[str, Any], dict[str, int | None]]:
  """A stage's tree without open values, and those values as they were given."""
  stage: dict[str, Any] = {**tree, "optimizer": dict(tree["optimizer"])}
  stage["loss"] = dict(tree["loss"])
  given: dict[str, int | None] = {
    "steps": stage["steps"],
    "every_checkpoint": stage["every_checkpoint"],
    "warmup_steps": stage["optimizer"]["warmup_steps"],
  }
  for name in ("steps", "every_checkpoint"):
    stage[name] = stage[name] or _OPEN
  if given["warmup_steps"] is None:
    stage["optimizer"]["warmup_steps"] = 0
  length = stage["max_length"]
  stage["max_length"] = min(length, model.config.max_length)
  own = model.config.embed_dim
  dims = stage["loss"]["distill_dims"] if width == own else ()
  stage["loss"]["distill_dims"] = tuple(dim for dim in dims if dim < own)
  # In four bits the student follows itself in float: after the base's vectors it
  # would lose what finetuning taught it.
  itself = stage["stage"] == "qat"
  stage["loss"]["teacher_width"] = 0 if itself or width == own else width
  stage |= {
    "model": dataclasses.asdict(model.config),
    "init": "random",  # unused: the start has all tensors
    "init_from": base,
    "teacher": "" if itself else "teach",  # of the run
  }
  return stage, given


def _require_checkpoint(base: str) -> None:
  """Raise BadInput for published weights, which nothing can be cut out of."""
  if families.is_public(pathlib.Path(base)):
    raise BadInput(
      f"{base} holds published weights and no checkpoint; import it first:"
      f" embeddinggemma import --from={base} --workdir=base"
    )


@contextlib.contextmanager
def renamed() -> Iterator[None]:
  """A context whose BadInput names flags of `shrink` as keys of the config."""
  try:
    yield
  except BadInput as error:
    words = str(error)
    for name in ("layers", "vocabulary"):
      words = words.replace(f"--{name}", f"--config.{name}")
    raise BadInput(words) from None


def about(config: StudentConfig) -> list[str]:
  """What was chosen, as lines for people."""
  pieces, layers = config.vocabulary, config.layers
  what = "pairs" if config.kind == texts.PAIRS else "texts"
  kept = f"the first {layers}" if layers.isdigit() else layers or "all"
  return [
    f"base {config.base}, weights {config.base_hash[:12]}",
    f"data {config.data}: {what}",
    f"student: layers {kept},"
    f" {f'at most {pieces:,}' if pieces else 'all'} pieces; at most"
    f" {config.minutes:g} minutes, {config.choose.tokens:,} tokens taught, texts"
    f" of at most {config.max_length} tokens",
  ]
