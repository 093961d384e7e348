"""Hard negatives of pairs, with the model's own vectors or by words."""

import dataclasses
import pathlib
from collections.abc import Callable, Sequence
from typing import Any

from rich.console import Console

from embeddinggemma import progress as progress_lib
from embeddinggemma.cache import Step
from embeddinggemma.data import corpus
from embeddinggemma.load import Model, load
from embeddinggemma.mining import negatives, teacher
from embeddinggemma.mining.candidates import MiningConfig
from embeddinggemma.mining.teach import teacher_of_model
from embeddinggemma.types import Pair

LEDGER = "ledger"


def mine(
  pairs: Sequence[Pair],
  model: Model | None,
  config: MiningConfig,
  directory: pathlib.Path,
  console: Console,
) -> dict[str, Any]:
  """Finds hard negatives of the pairs; `model` is needed by dense search."""
  vectors = None
  if model is not None and config.search == "dense":
    items = teacher.items_of(pairs)
    own = directory / "vectors"
    with progress_lib.Progress(console, "vectors", len(items)) as progress:
      teacher.teach(
        items,
        teacher_of_model(model),
        own,
        dtype="float32",
        progress=progress.show_of,
      )
    vectors = teacher.open_vectors(own)
  with progress_lib.Progress(console, "mine", len(pairs)) as progress:
    about = negatives.mine_all(
      pairs, vectors, config, directory, progress.show_of
    )
  for line in negatives.summary(about):
    console.print(line, highlight=False, markup=False)
  without = sum(about["without"].values())
  return {
    "pairs": about["pairs"],
    "negatives": about["negatives"],
    "without": without,
    "hash_of_negatives": about["hash"],
  }


def mining(
  corpus_of: Callable[[], pathlib.Path],
  data: str,
  place: str | pathlib.Path,
  weights: str,
  config: MiningConfig,
  console: Console,
) -> Step:
  """The stage `mine` of a recipe; the model counts in dense search alone.

  Args:
    corpus_of: where the corpus is, once the stage runs.
    data: the key of what made it.
    place: the model's checkpoint or workdir.
    weights: the content hash of the model.
  """
  dense = config.search == "dense"

  def work(directory: pathlib.Path) -> dict[str, Any]:
    pairs = corpus.read_train(corpus_of())
    return mine(
      pairs, load(place) if dense else None, config, directory, console
    )

  depends = {
    "config": dataclasses.asdict(config),
    "inputs": data,
    "model": weights if dense else "",
  }
  return Step("mine", depends, work, resumable=True)
