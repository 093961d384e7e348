"""A teacher's vectors of the texts of pairs, for embedding matching (section 2.2)."""

import dataclasses
import pathlib
from collections.abc import Sequence
from typing import Any

from rich.console import Console

from embeddinggemma import progress as progress_lib
from embeddinggemma.load import Model, load
from embeddinggemma.mining import teacher, tfidf
from embeddinggemma.types import Pair

TFIDF = "tfidf"


@dataclasses.dataclass(frozen=True)
class TeachConfig:
  """Whose vectors the student matches."""

  teacher: str  # "tfidf", a checkpoint, or a sentence-transformers model
  width: int  # of tfidf's vectors
  dtype: str  # that they are stored in
  seed: int  # of tfidf's decomposition


def teacher_of(config: TeachConfig) -> teacher.TeacherModel:
  """The teacher that a config names; BadInput if there is none."""
  if config.teacher == TFIDF:
    return tfidf.tfidf(config.width, config.seed)
  folder = pathlib.Path(config.teacher)
  # One with modules.json is in sentence-transformers' layout.
  if folder.is_dir() and not (folder / "modules.json").is_file():
    return teacher_of_model(load(config.teacher))
  return teacher.sentence_transformer(config.teacher)


def teacher_of_model(model: Model) -> teacher.TeacherModel:
  """A loaded model as a teacher."""
  return teacher.from_encoder(model, model.hash, model.config.embed_dim)


def teach(
  pairs: Sequence[Pair],
  model: teacher.TeacherModel,
  dtype: str,
  directory: pathlib.Path,
  console: Console,
) -> dict[str, Any]:
  """Writes a teacher's vectors of all texts of the pairs."""
  items = teacher.items_of(pairs)
  with progress_lib.Progress(console, "teach", len(items)) as progress:
    about = teacher.teach(
      items, model, directory, dtype=dtype, progress=progress.show_of
    )
  return {
    "texts": about["count"],
    "width": about["width"],
    "of_vectors": about["hash"],
  }
