"""Quantisation-aware training, and what it gains (paper section 3.5).

The paper trains three checkpoints, one per precision, in the finetuning stage.
As for Gemma 3, the targets are the outputs of the unquantised checkpoint: here
its vectors of the texts that training reads.
"""

import dataclasses
import pathlib
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from rich.console import Console

from embeddinggemma import checkpoint, quantize
from embeddinggemma.evaluation import models as models_lib
from embeddinggemma.evaluation import suite
from embeddinggemma.loading import load
from embeddinggemma.report import precision as precision_lib
from embeddinggemma.training import run
from embeddinggemma.training.inputs import Inputs
from embeddinggemma.training.stages import qat
from embeddinggemma.training.stages.qat import QatConfig


class Trained(NamedTuple):
  """The result of the task `qat`.

  Spec -> {"checkpoint": relative to the task's folder, "hash", "loss"}.
  """

  models: dict[str, dict[str, Any]]


@dataclasses.dataclass(frozen=True)
class SpecsConfig(QatConfig):
  """The same quantisation-aware training for each of several specs, or none."""

  specs: tuple[str, ...] = dataclasses.field(default=(), kw_only=True)
  # Spec -> its learning rate, where that is not optimizer.lr.
  lr: dict[str, float] = dataclasses.field(default_factory=dict, kw_only=True)

  def __post_init__(self) -> None:
    super().__post_init__()
    for name in ("specs", "lr"):
      for spec in getattr(self, name):
        quantize.spec_of(spec, f"qat.{name}")

  def of(self, spec: str) -> QatConfig:
    """The training for one spec, with the spec's own learning rate, if any."""
    own = {f.name: getattr(self, f.name) for f in dataclasses.fields(QatConfig)}
    rate = self.lr.get(spec, self.optimizer.lr)
    own["quantize"] = dataclasses.replace(self.quantize, spec=spec)
    own["optimizer"] = dataclasses.replace(self.optimizer, lr=rate)
    return QatConfig(**own)


def train_each(
  config: SpecsConfig,
  made: Inputs,
  directory: pathlib.Path,
  console: Console,
) -> Trained:
  """Train for each spec, in DIRECTORY/SPEC."""
  taught = qat.taught(config, made, directory / qat.TEACH, console)
  models = {}
  for spec in config.specs:
    own = dataclasses.replace(config.of(spec), teacher=taught.teacher)
    found = run.train(own, made, directory / spec, console)
    place = f"{spec}/{found['checkpoint']}"
    row = {key: found[key] for key in ("hash", "loss") if key in found}
    models[spec] = {"checkpoint": place, **row}
  return Trained(models)


def compare(
  parent: pathlib.Path,
  scores: Mapping[str, float],
  trained: Mapping[str, pathlib.Path],
  tasks: Sequence[suite.EvalTask],
  console: Console,
) -> list[precision_lib.Row]:
  """Rows of a model as it is, rounded to each spec, and trained for each.

  Args:
    parent: the model as it is.
    scores: its scores on the tasks.
    trained: spec -> the model that was trained for it.
    tasks: what all are scored on.
    console: for progress.
  """
  tensors = checkpoint.read_shapes(checkpoint.find(parent))
  shapes = {"/".join(name): x.shape for name, x in tensors.items()}

  def row(
    weights: str, precision: str, scores: Mapping[str, float]
  ) -> precision_lib.Row:
    size = quantize.nbytes(shapes, precision)
    about = {"weights": weights, "precision": precision, "bytes": size}
    return {**about, "scores": dict(scores)}

  rows = [row(precision_lib.PLAIN, quantize.FLOAT, scores)]
  for spec, place in trained.items():
    for weights, model in (
      (precision_lib.ROUNDED, load(parent, precision=spec)),
      (precision_lib.TRAINED, load(place)),
    ):
      found = models_lib.scores_with_mean(model, tasks)
      rows.append(row(weights, spec, found))
  console.print(precision_lib.table(rows))
  return rows
