"""A teacher's vectors of the texts of pairs (paper section 2.2).

The student's embedding matching needs them. TEACHERS is the table of the kinds
of teachers.
"""

import dataclasses
import functools
import pathlib
from collections.abc import Callable, Iterable, Sequence
from typing import NamedTuple

from rich.console import Console

from embeddinggemma import progress as progress_lib
from embeddinggemma.convert.read import sentence_transformers
from embeddinggemma.data import truncation
from embeddinggemma.loading import Model, load
from embeddinggemma.mining import teacher, tfidf
from embeddinggemma.types import IDENTITY, Pair, SingleText

TFIDF = "tfidf"


@dataclasses.dataclass(frozen=True)
class TeachConfig:
  """Which teacher's vectors the student matches."""

  teacher: str  # "tfidf", a checkpoint, or a sentence-transformers model
  width: int  # of tfidf's vectors
  dtype: str  # in which the vectors are stored
  seed: int  # of tfidf's randomized SVD


class Taught(NamedTuple):
  """The result of the task `teach`; its defaults are for no teacher."""

  texts: int = 0  # distinct texts
  width: int = 0  # dimension of the vectors
  of_vectors: str = ""  # content hash of the vectors


class Teacher(NamedTuple):
  """A kind of teacher: which configs mean it, and how it is opened."""

  recognises: Callable[[TeachConfig], bool]  # whether the config means this one
  # BadInput: it is not there
  open: Callable[[TeachConfig], teacher.TeacherModel]


def teacher_of_model(model: Model) -> teacher.TeacherModel:
  """A loaded model as a teacher."""
  made = teacher.from_encoder(model, model.identity, model.config.embed_dim)
  return dataclasses.replace(made, counts=functools.partial(_counts, model))


def _counts(model: Model, items: Sequence[teacher.Item]) -> truncation.Counts:
  """How many of the texts the model cuts, counted chunk by chunk."""
  counts = truncation.Counts()
  for start in range(0, len(items), teacher.CHUNK):
    by_prompt: dict[str, list[teacher.Item]] = {}
    for item in items[start : start + teacher.CHUNK]:
      by_prompt.setdefault(item.prompt, []).append(item)
    for prompt, own in by_prompt.items():
      lengths = model.token_counts(
        [item.text for item in own], prompt, [item.title for item in own]
      )
      counts.add(truncation.of_lengths(lengths, model.config.max_length))
  return counts


def _is_checkpoint(config: TeachConfig) -> bool:
  """Whether the teacher is a checkpoint or workdir of this project.

  A folder with modules.json is in sentence-transformers' layout instead.
  """
  folder = pathlib.Path(config.teacher)
  return folder.is_dir() and not (folder / "modules.json").is_file()


def _sentence_transformer(name: str) -> teacher.TeacherModel:
  """The library's model; BadInput for an EmbeddingGemma read without EOS."""
  folder = pathlib.Path(name)
  if sentence_transformers.is_folder(folder):
    sentence_transformers.check_ends(folder)
  return teacher.sentence_transformer(name)


# The first that recognises a config teaches; so the last takes all other names.
TEACHERS: tuple[Teacher, ...] = (
  Teacher(
    lambda config: config.teacher == TFIDF,
    lambda config: tfidf.tfidf(config.width, config.seed),
  ),
  Teacher(
    _is_checkpoint, lambda config: teacher_of_model(load(config.teacher))
  ),
  Teacher(
    lambda config: True, lambda config: _sentence_transformer(config.teacher)
  ),
)


def teacher_of(config: TeachConfig) -> teacher.TeacherModel:
  """The teacher that a config names; BadInput if there is none."""
  return next(t for t in TEACHERS if t.recognises(config)).open(config)


def teach(
  pairs: Iterable[Pair | SingleText],
  model: teacher.TeacherModel,
  dtype: str,
  directory: pathlib.Path,
  console: Console,
) -> Taught:
  """Write a teacher's vectors of all texts, of pairs or single, to a folder."""
  items = teacher.items_of(pairs)
  with progress_lib.Progress(console, "teach", len(items)) as progress:
    about = teacher.teach(
      items, model, directory, dtype=dtype, progress=progress.show_of
    )

  def say(line: str) -> None:
    console.print(line, highlight=False, markup=False, soft_wrap=True)

  if IDENTITY in model.about and IDENTITY not in about["teacher"]:
    say(
      f"{directory}: vectors of a version that recorded only the weights of the"
      " teacher; its tokenizer, prompts and lengths cannot be compared"
    )
  if teacher.all_alike(teacher.open_vectors(directory).vectors):
    say(
      f"warning: teacher {model.about['teacher']} gives all {about['count']}"
      " texts one vector, from which nothing can be learned"
    )
  return Taught(about["count"], about["width"], about["hash"])
