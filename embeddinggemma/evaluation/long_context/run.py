"""Score a model on a suite of long documents, beside search by words."""

import pathlib
from typing import Any

from rich.console import Console

from embeddinggemma.evaluation import quality, suite
from embeddinggemma.evaluation.long_context import curve, made, reach
from embeddinggemma.loading import Model
from embeddinggemma.losses import matryoshka

FOUND = "long_context"  # key of the curve in a result of `evaluate`
FILE = "long.json"  # in a run's workdir, whose page then has the curve


def evaluate(
  model: Model, folder: pathlib.Path, trained: reach.Trained, console: Console
) -> dict[str, Any]:
  """Scores of a model on a suite, with nothing cut off its documents.

  Returns what `quality.evaluate` does, and under FOUND the curve: {ABOUT of
  `made`, "trained_length", "trained_known_from",
  "max_length": at which the model itself cuts, "dim", "precision", "chance", "rows": those
  of `curve.rows`}.
  """
  found = made.read(folder)
  longest = found.about["lengths"][-1]
  encode = suite.remember(reach.reading(model, longest))
  tasks = list(found.tasks.values())
  dims = matryoshka.dims_of(model.config.embed_dim)
  table = quality.quality(encode, dims, None, tasks, console, "long context")
  summary = suite.summarise(tasks, table[quality.MODEL])
  return {
    "quality": table,
    "summary": {k: v for k, v in summary.items() if k != "tasks"},
    "truncated": {
      task: {side: counts.as_json() for side, counts in sides.items()}
      for task, sides in suite.truncated(encode, tasks).items()
    },
    "notes": quality.notes(tasks),
    FOUND: {
      **found.about,
      "trained_length": trained.length,
      "trained_known_from": trained.known_from,
      "max_length": model.config.max_length,
      "dim": dims[0],
      "precision": model.precision,
      "chance": curve.chance(found.about["documents"]),
      "rows": curve.rows(encode, found, trained),
    },
  }
