"""A model of this project as a teacher: a checkpoint, or the workdir of a run."""

import dataclasses
import functools
import pathlib
from collections.abc import Sequence
from typing import Any

import numpy as np
from jaxtyping import Float

from embeddinggemma import checkpoint
from embeddinggemma.convert import origin
from embeddinggemma.data import truncation
from embeddinggemma.loading import Model, load
from embeddinggemma.mining.teacher import CHUNK, Item, TeacherModel
from embeddinggemma.mining.teachers.kind import Kind, TeachConfig
from embeddinggemma.model.identity import Identity
from embeddinggemma.types import IDENTITY, TextEncoder


def of_model(model: Model) -> TeacherModel:
  """A loaded model as a teacher."""
  made = from_encoder(model, model.identity, model.config.embed_dim)
  return dataclasses.replace(
    made,
    counts=functools.partial(_counts, model),
    origin=functools.partial(_origin, model.name, model.hash),
  )


def from_encoder(
  encode: TextEncoder, model: Identity, width: int
) -> TeacherModel:
  """A model of this project as a teacher; `width` is its dimension."""

  def vectors(items: Sequence[Item]) -> Float[np.ndarray, "n _T"]:
    # A call has one prompt; what a chunk holds does not depend on kills.
    out = np.zeros((len(items), width), np.float32)
    for prompt in sorted({item.prompt for item in items}):
      rows = [i for i, item in enumerate(items) if item.prompt == prompt]
      texts = [items[i].text for i in rows]
      found = encode(texts, prompt, [items[i].title for i in rows])
      if found.shape[1] != width:
        return found
      out[rows] = found
    return out

  about = {
    "teacher": "checkpoint",
    "model": model.weights,
    IDENTITY: model.as_json(),
  }
  return TeacherModel(about, width, lambda items, own: vectors)


def _counts(model: Model, items: Sequence[Item]) -> truncation.Counts:
  """How many of the texts the model cuts, counted chunk by chunk."""
  counts = truncation.Counts()
  for start in range(0, len(items), CHUNK):
    by_prompt: dict[str, list[Item]] = {}
    for item in items[start : start + CHUNK]:
      by_prompt.setdefault(item.prompt, []).append(item)
    for prompt, own in by_prompt.items():
      lengths = model.token_counts(
        [item.text for item in own], prompt, [item.title for item in own]
      )
      counts.add(truncation.of_lengths(lengths, model.config.max_length))
  return counts


def _origin(name: str, weights: str) -> dict[str, Any]:
  """What the files of a checkpoint say of its name, licence and teachers."""
  known: dict[str, Any] = {"kind": "checkpoint", "weights": weights}
  place = pathlib.Path(name)
  if not (place / "files").is_dir():
    return {**known, "name": place.name}
  files = checkpoint.read_files(place)
  base = origin.base(files).name
  return {
    **known,
    "name": origin.title(name, files),
    "licence": origin.licence_name(files),
    **({"base": base} if base else {}),
    **({"teachers": t} if (t := checkpoint.teachers_of(files)) else {}),
  }


def _recognises(config: TeachConfig) -> bool:
  """Whether the teacher is a checkpoint or workdir of this project.

  A folder with modules.json is in sentence-transformers' layout instead.
  """
  folder = pathlib.Path(config.teacher)
  return folder.is_dir() and not (folder / "modules.json").is_file()


KIND = Kind(_recognises, lambda config: of_model(load(config.teacher)))
