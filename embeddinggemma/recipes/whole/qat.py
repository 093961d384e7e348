"""Quantisation-aware training and what it is worth (paper section 3.5).

The paper trains three checkpoints, one for each precision, in the finetuning
stage. As for Gemma 3, the targets are those of the unquantised checkpoint:
here its vectors, of the texts that training reads.
"""

import dataclasses
import pathlib
from collections.abc import Mapping, Sequence
from typing import Any

from rich.console import Console

from embeddinggemma import checkpoint, quantize
from embeddinggemma.evaluate import models as models_lib
from embeddinggemma.evaluate import suite
from embeddinggemma.load import load
from embeddinggemma.report import precision as precision_lib
from embeddinggemma.training import run
from embeddinggemma.training.alone import TEACH, with_teacher
from embeddinggemma.training.config import QatConfig
from embeddinggemma.training.inputs import Inputs


@dataclasses.dataclass(frozen=True)
class SpecsConfig(QatConfig):
  """A recipe's: the same training for each of several specs, or for none."""

  specs: tuple[str, ...] = dataclasses.field(default=(), kw_only=True)
  # Of a spec that needs another learning rate than optimizer.lr.
  lr: dict[str, float] = dataclasses.field(default_factory=dict, kw_only=True)

  def __post_init__(self) -> None:
    super().__post_init__()
    for name in ("specs", "lr"):
      for spec in getattr(self, name):
        quantize.spec_of(spec, f"qat.{name}")

  def of(self, spec: str) -> QatConfig:
    """The training for one of them."""
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
) -> dict[str, Any]:
  """Trains for each spec in DIRECTORY/SPEC; {"models": {spec: ...}}."""
  taught = with_teacher(config, made, directory / TEACH, console)
  models = {}
  for spec in config.specs:
    own = dataclasses.replace(config.of(spec), teacher=taught.teacher)
    found = run.train(own, made, directory / spec, console)
    place = f"{spec}/{found['checkpoint']}"
    row = {key: found[key] for key in ("hash", "loss") if key in found}
    models[spec] = {"checkpoint": place, **row}
  return {"models": models}


def compare(
  parent: pathlib.Path,
  scores: Mapping[str, float],
  trained: Mapping[str, pathlib.Path],
  tasks: Sequence[suite.EvalTask],
  console: Console,
) -> list[precision_lib.Row]:
  """Rows of a model as it is, rounded to each spec, and trained for each.

  `scores` are what the model as it is has on the tasks.
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
