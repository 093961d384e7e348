"""A teacher's vectors of the texts of pairs (paper section 2.2).

The student's embedding matching needs them. `teachers/` has the kinds of
teachers.
"""

import contextlib
import pathlib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

from rich.console import Console

from embeddinggemma import progress as progress_lib
from embeddinggemma.mining import teacher
from embeddinggemma.types import IDENTITY, Pair, SingleText

_KNOWN = ("", "tfidf", "checkpoint")  # kinds that need no introduction
# What to do about a teacher that does not say under which licence it is.
_STATE = "(state it for the student's card: --config.licence, --config.terms)"


class Taught(NamedTuple):
  """The result of the task `teach`; its defaults are for no teacher."""

  texts: int = 0  # distinct texts
  width: int = 0  # dimension of the vectors
  of_vectors: str = ""  # content hash of the vectors


def teach(
  pairs: Iterable[Pair | SingleText],
  model: teacher.TeacherModel,
  dtype: str,
  directory: pathlib.Path,
  console: Console,
) -> Taught:
  """Write a teacher's vectors of all texts, of pairs or single, to a folder.

  Who the teacher is, and under which terms, is said first.
  """
  items = teacher.items_of(pairs)

  def say(line: str) -> None:
    console.print(line, highlight=False, markup=False, soft_wrap=True)

  for line in introduced(model.origin()):
    say(line)
  with contextlib.ExitStack() as stack:
    progress = progress_lib.Progress(console, "teach", len(items))

    def begin(texts: Sequence[teacher.Item]) -> None:
      if model.prepare:  # which may ask a question, before a bar is drawn
        model.prepare(texts, directory, say)
      stack.enter_context(progress)

    about = teacher.teach(
      items,
      model,
      directory,
      dtype=dtype,
      progress=progress.show_of,
      begin=begin,
    )
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


def introduced(origin: Mapping[str, Any]) -> Iterator[str]:
  """Lines for people: a teacher's name, licence and terms, and its teachers'.

  A teacher that was made here is only named for those that taught it.
  """
  kind, licence = origin.get("kind", ""), origin.get("licence", "")
  if kind not in _KNOWN:
    unknown = "" if origin.get("terms") else f"; licence: not known {_STATE}"
    yield (
      f"teacher {origin.get('name', '')} ({kind})"
      f"{f'; licence: {licence}' if licence else unknown}"
    )
  for one in (origin, *origin.get("teachers", ())):
    if one.get("terms"):
      yield f"terms of {one.get('name', '')}: {one['terms']}"
