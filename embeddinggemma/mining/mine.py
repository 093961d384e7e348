"""Mine hard negatives of pairs, with a model's own vectors or by BM25."""

import dataclasses
import pathlib
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

from rich.console import Console

from embeddinggemma import progress as progress_lib
from embeddinggemma.cache import Task
from embeddinggemma.data import corpus
from embeddinggemma.loading import Model, load
from embeddinggemma.mining import negatives, teacher
from embeddinggemma.mining.candidates import MiningConfig
from embeddinggemma.mining.teachers.checkpoint import of_model
from embeddinggemma.types import IDENTITY, Pair

LEDGER = "ledger"


class Mined(NamedTuple):
  """The result of the task `mine`."""

  pairs: int  # of the mined tasks
  negatives: int
  without: int  # queries without a negative
  hash_of_negatives: str  # of their content


def mine(
  pairs: Sequence[Pair],
  model: Model | None,
  config: MiningConfig,
  directory: pathlib.Path,
  console: Console,
) -> Mined:
  """Mine hard negatives of the pairs; only dense search needs `model`."""
  vectors = None
  if model is not None and config.search == "dense":
    items = teacher.items_of(pairs)
    own = directory / "vectors"
    with progress_lib.Progress(console, "vectors", len(items)) as progress:
      teacher.teach(
        items,
        of_model(model),
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
  return Mined(about["pairs"], about["negatives"], without, about["hash"])


def mining(
  corpus_of: Callable[[], pathlib.Path],
  data: str,
  place: str | pathlib.Path,
  weights: str,
  config: MiningConfig,
  console: Console,
  identity: Mapping[str, Any] | None = None,
) -> Task:
  """The task `mine` of a recipe.

  With BM25 it does not depend on the model.

  Args:
    corpus_of: gives the corpus's folder, once the task runs.
    data: the key of the task that made the corpus.
    place: the model's checkpoint or workdir.
    weights: the content hash of the model.
    config: what is searched, dropped and taken.
    console: for progress.
    identity: of a model that no task of the run made.
  """
  dense = config.search == "dense"

  def work(directory: pathlib.Path) -> Mined:
    pairs = corpus.read_train(corpus_of())
    return mine(
      pairs, load(place) if dense else None, config, directory, console
    )

  depends = {
    "config": dataclasses.asdict(config),
    "inputs": data,
    "model": weights if dense else "",
    **({IDENTITY: identity} if dense and identity else {}),
  }
  return Task("mine", depends, work, resumable=True)
