"""The start of distillation: what was cut out, its head fitted to the teacher."""

import dataclasses
import pathlib
import sys
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np
from rich.console import Console

from embeddinggemma import cache, checkpoint, saved
from embeddinggemma.lineage import stages
from embeddinggemma.loading import Model, load
from embeddinggemma.losses import distill
from embeddinggemma.mining import teacher
from embeddinggemma.mining.teachers import checkpoint as encoders
from embeddinggemma.progress import Progress
from embeddinggemma.students import head
from embeddinggemma.types import SingleText

_CHUNK = 2048  # texts whose states are in memory at once


def fit(
  cut: pathlib.Path,
  weights: str,
  texts: Sequence[SingleText],
  vectors: pathlib.Path,
  directory: pathlib.Path,
  console: Console,
) -> dict[str, Any]:
  """Write a checkpoint of the cut model with the head that follows best.

  For a teacher of another width it holds the map to that too. Where no head can
  be fitted, under a pooling with weights or to very few texts, the head stays,
  which is said.

  Args:
    cut: the workdir of the model.
    weights: the hash of its weights.
    texts: what is taught, distinct ones.
    vectors: the folder of the teacher's vectors of it.
    directory: for the checkpoint.
    console: for messages.

  Returns:
    The result of the task: `head.Fitted`'s fields, and the checkpoint.
  """
  place = checkpoint.find(cut)
  model, found = load(place), teacher.open_vectors(vectors)
  params, figures = model.params, dict[str, Any]()
  if reason := head.unfit(model.config, len(texts)):
    line = f"the head stays as it is: {reason}"
  else:
    basis = head.basis(found.vectors, model.config.embed_dim)
    states = _states(model, texts, found, basis, console)
    params, fitted = head.fit(model.params, states)
    if basis is not None:
      aux = {distill.PROJECTION: basis}
      params = {**params, "aux": aux}
    figures = fitted._asdict()
    line = (
      f"the head, fitted to {fitted.texts:,} texts, without any training: mean"
      f" cosine to the teacher {fitted.cosine:.3f} on texts held out from it"
    )
  console.print(line, highlight=False, markup=False, soft_wrap=True)
  files = _files(place, weights, found, figures)
  made = checkpoint.write(directory, params, files)
  whole = str(made.relative_to(directory))
  return {**figures, "checkpoint": whole, "hash": checkpoint.hash_of(made)}


def _states(
  model: Model,
  texts: Sequence[SingleText],
  vectors: teacher.Vectors,
  basis: head.Basis | None,
  console: Console,
) -> Iterator[tuple[head.States, head.Vectors]]:
  """Pooled states of texts, and the teacher's vectors of them.

  These are in the basis if there is one.
  """
  config, params = head.bare(model.config, model.params)
  bare = dataclasses.replace(model, config=config, params=params)
  encoder = encoders.from_encoder(bare, model.identity, config.embed_dim)
  encode = encoder.start((), vectors.directory)
  items = teacher.items_of(texts)
  # In no order: texts that are alike would else be held out together.
  order = np.random.default_rng(0).permutation(len(items))
  with Progress(console, "head", len(items)) as progress:
    for start in range(0, len(items), _CHUNK):
      some = [items[n] for n in order[start : start + _CHUNK]]
      told = vectors.rows(teacher.keys_of(some))
      yield encode(some), told if basis is None else told @ basis.T
      progress.show_of(start + len(some), len(items))


def _files(
  place: pathlib.Path,
  weights: str,
  vectors: teacher.Vectors,
  figures: Mapping[str, Any],
) -> dict[str, bytes]:
  """The small files of the cut model, with what became of it."""
  files = checkpoint.read_files(place)
  taught = vectors.about.get("origin") or {}
  recipe = {
    **checkpoint.recipe_of(files),
    **checkpoint.with_teachers([taught], checkpoint.teachers_of(files)),
    **stages.entry(stages.of(checkpoint.recipe_of(files))),
    "stage": "head",
    "parents": {"base": weights},
    "head": dict(figures),
    "command": sys.argv,
  }
  recipe.pop(saved.GRID, None)  # of the base; the head is on no grid
  return {**files, "recipe.json": cache.to_json(recipe)}
