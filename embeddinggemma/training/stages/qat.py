"""Quantisation-aware training: finetuning on the quantised view of the weights.

The paper trains three checkpoints, one for each precision (section 3.5). As for
Gemma 3, the targets are those of the unquantised checkpoint: here its vectors,
of the texts that training reads.
"""

import dataclasses
import pathlib
from typing import cast

import grain
import numpy as np
from jax.sharding import Mesh
from rich.console import Console

from embeddinggemma import distributed, quantize
from embeddinggemma.config import QuantizeConfig
from embeddinggemma.data import mixture
from embeddinggemma.loading import load
from embeddinggemma.mining import teach as teaching
from embeddinggemma.mining.teachers import checkpoint as checkpoints
from embeddinggemma.training.inputs import Inputs
from embeddinggemma.training.stages import pairs
from embeddinggemma.training.stages.kind import Say
from embeddinggemma.training.stages.pairs import PairConfig, Read, Tasks
from embeddinggemma.types import BadInput, Pair, SingleText, Stage

TEACH = "teach"  # folder, in a workdir, of the initial checkpoint's embeddings


@dataclasses.dataclass(frozen=True)
class QatConfig(PairConfig):
  """Config of finetuning that sees the weights as they will be once quantised.

  With distillation and no teacher, the checkpoint that it starts from is the
  teacher.
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
    """Whether the initial checkpoint is the teacher."""
    return bool(self.loss.asks_teacher and not self.teacher)


def qat(config: QatConfig, mesh: Mesh) -> Stage:
  """The stage of finetuning on the quantised view (paper section 3.5)."""
  seen = quantize.view(config.quantize.spec)
  return dataclasses.replace(pairs.finetune(config, mesh), view=seen)


def rows_read(config: QatConfig, tasks: Tasks) -> Read:
  """Task -> the rows in its batches, for which the teacher needs vectors."""
  weights = pairs.shares(config, tasks)
  drawn = mixture.draws(tasks, weights, config.batch_size, config.seed)
  read: dict[str, list[np.ndarray]] = {task: [] for task in tasks}
  for index in range(config.steps + config.guard.skips):
    draw = cast(mixture.Draw, drawn[index])
    read[draw.task].append(draw.rows)
  none = np.zeros(0, np.int64)
  return {t: np.unique(np.concatenate([none, *r])) for t, r in read.items()}


def texts_read(config: QatConfig, made: Inputs) -> list[Pair | SingleText]:
  """The training pairs and single texts that occur in the batches."""
  tasks, _ = pairs.read_tasks(config, made)
  read = rows_read(config, tasks)
  members = pairs.members_of(config, made)
  return [members[task][i] for task in read for i in read[task].tolist()]


def _dataset(
  config: QatConfig, made: Inputs, groups: int, say: Say
) -> tuple[grain.MapDataset, int]:
  data = config.data
  steps = config.steps + config.guard.skips
  reading = [steps, pairs.weights(config), data.size_exponent]
  return pairs.dataset(config, made, groups, say, rows_read, reading)


def _check_alone(config: QatConfig) -> None:
  """Raise BadInput if there are no embeddings to match."""
  if not config.teaches_itself:
    pairs.check_teacher(config)
  elif not config.init_from:
    raise BadInput(
      f"{config.loss.asks_teacher} matches the vectors of the start,"
      " and there is none; set --config.init_from=DIR, the model to quantise"
    )


def _check_parent(config: QatConfig, place: pathlib.Path) -> None:
  """Raise BadInput for a quantised initial checkpoint as its own teacher."""
  if config.teaches_itself:
    raise BadInput(
      f"checkpoint {place} is quantised, so no teacher of itself; give"
      " --config.teacher=DIR, vectors of its float parent that `teach` wrote,"
      f" or leave out {config.loss.asks_teacher}"
    )


def taught(
  config: QatConfig, made: Inputs, directory: pathlib.Path, console: Console
) -> QatConfig:
  """The config with a teacher, which by default is the initial checkpoint.

  Its embeddings are made only for the texts that the batches use.
  """
  if not config.teaches_itself:
    return config

  def teach() -> None:
    start = checkpoints.of_model(load(config.init_from))
    texts = texts_read(config, made)
    teaching.teach(texts, start, "float16", directory, console)

  distributed.first_does(TEACH, teach)
  return dataclasses.replace(config, teacher=str(directory))


KIND = pairs.KIND._replace(
  config=QatConfig,
  make=qat,
  dataset=_dataset,
  copies=2,  # the weights and their quantised view
  view=lambda config: quantize.view_named(config.quantize.spec),
  check_alone=_check_alone,
  check_parent=_check_parent,
  taught=lambda config, made, workdir, console: taught(
    config, made, workdir / TEACH, console
  ),
)
