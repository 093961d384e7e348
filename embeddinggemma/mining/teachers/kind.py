"""What a kind of teacher is, and the config that names a teacher."""

import dataclasses
from collections.abc import Callable
from typing import NamedTuple

from embeddinggemma.mining.services.config import ServiceConfig
from embeddinggemma.mining.teacher import TeacherModel

# For messages: what may stand in `teacher`.
CHOICES = (
  "tfidf, a checkpoint, FILE.gguf, FILE.npy, gemini:MODEL,"
  " https://HOST/v1/embeddings, or a sentence-transformers model"
)


@dataclasses.dataclass(frozen=True)
class TeachConfig:
  """Which teacher's vectors the student matches."""

  teacher: str  # CHOICES
  width: int  # of tfidf's vectors
  dtype: str  # in which the vectors are stored
  seed: int  # of tfidf's randomized SVD
  ids: str = ""  # of FILE.npy: a file of its texts; "": the one beside it
  threads: int = 0  # of llama.cpp for FILE.gguf; 0: one a core
  # What the teacher is called, and under which licence and terms it is, where
  # it does not say so itself. They go into the student's recipe.json and card.
  name: str = ""
  licence: str = ""
  terms: str = ""
  # A model behind an API: how it is asked.
  service: ServiceConfig = dataclasses.field(default=ServiceConfig())


class Kind(NamedTuple):
  """A kind of teacher: which configs mean it, and how it is opened."""

  recognises: Callable[[TeachConfig], bool]  # whether the config means this one
  # BadInput: it is not there. What it takes long to find out, or what only its
  # work needs, such as a key, is for the model's `prepare`.
  open: Callable[[TeachConfig], TeacherModel]
