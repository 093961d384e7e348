"""What a model is that can be scored beside others, whatever runs it."""

import contextlib
import dataclasses
import pathlib
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Float

from embeddinggemma.data import truncation
from embeddinggemma.evaluation import suite
from embeddinggemma.evaluation.kinds.task import EvalTask
from embeddinggemma.mining.teacher import CHUNK, Item, TeacherModel
from embeddinggemma.side_by_side.names import Asked
from embeddinggemma.side_by_side.prompting import Reading
from embeddinggemma.types import BadInput, Stopped, TextEncoder

Say = Callable[[str], None]


@dataclasses.dataclass(frozen=True)
class Contender:
  """An opened model."""

  through: str  # what runs it, with its version
  dims: tuple[int, ...]  # that it is scored at, its full dimension first
  precision: str  # of its weights; "": not known
  encoder: Callable[[EvalTask], TextEncoder]  # with the task's prompts
  # (task, what we call a prompt) -> its words.
  words: Callable[[EvalTask, str], str]
  counts: bool = True  # whether it says which texts it cuts
  # What else is known, as JSON; asked when its vectors are there.
  about: Callable[[], Mapping[str, Any]] = dict


class Setting(NamedTuple):
  """What all models of a run have in common."""

  tasks: Sequence[EvalTask]
  directory: pathlib.Path  # beside it are the answers of services
  precision: str | None  # to which weights of ours are rounded
  say: Say  # a line for people


# Opens a model, for as long as the context lasts. BadInput and Stopped: it
# cannot be.
Opener = Callable[[], contextlib.AbstractContextManager[Contender]]


class Through(NamedTuple):
  """A way to run a model: which names mean it, and how it is opened."""

  recognises: Callable[[str], bool]
  # BadInput, before any work: what was asked is at fault. What only the model's
  # work finds out is for the opener.
  prepared: Callable[[Asked, Setting], Opener]
  label: Callable[[Asked], str]  # what the model is called in tables


def of_teacher(
  model: TeacherModel,
  through: str,
  dims: Callable[[int], tuple[int, ...]],
  reading: Reading,
  setting: Setting,
) -> Contender:
  """A model that can teach, as one that can be scored.

  One of its vectors is asked for, which says how wide they are.

  Args:
    model: the model.
    through: what runs it.
    dims: its full dimension -> those that it is scored at.
    reading: what it is told of its texts.
    setting: of the run.
  """
  width = model.width
  if width is None:
    task = setting.tasks[0]
    first = reading.item(task, task.task, task.queries[0], "")
    width = len(_asked(model, [first], None, setting)[0])
  return Contender(
    through,
    dims(width),
    model.precision,
    lambda task: _encoder(model, width, task, reading, setting),
    reading.words,
    model.counts is not None,
    lambda: {"width": width, **model.origin()},
  )


def _encoder(
  model: TeacherModel,
  width: int,
  task: EvalTask,
  reading: Reading,
  setting: Setting,
) -> TextEncoder:
  def encode(
    texts: Sequence[str], prompt_name: str, titles: Sequence[str] = ()
  ) -> Float[np.ndarray, "n M"]:
    titles = titles or [""] * len(texts)
    items = [
      reading.item(task, prompt_name, text, title)
      for text, title in zip(texts, titles, strict=True)
    ]
    if model.counts is not None:
      truncation.report(model.counts(items))
    found = np.zeros((len(items), width), np.float32)
    for start in range(0, len(items), CHUNK):
      chunk = items[start : start + CHUNK]
      found[start : start + CHUNK] = _asked(model, chunk, width, setting)
    return found

  return encode


def _asked(
  model: TeacherModel,
  items: Sequence[Item],
  width: int | None,
  setting: Setting,
) -> Float[np.ndarray, "n _M"]:
  """The vectors of texts, at unit length; Stopped for one that is no direction.

  BadInput for another width than before.
  """
  encode = model.start(items, setting.directory / "vectors")
  vectors = np.asarray(encode(items), np.float32)
  expected = len(items), width or vectors.shape[-1]
  if vectors.shape != expected:
    raise BadInput(f"vectors of shape {vectors.shape} came, not {expected}")
  norms = np.linalg.norm(vectors, axis=1, keepdims=True)
  bad = np.flatnonzero(~(np.isfinite(norms) & (norms > 0))[:, 0])
  if len(bad):
    raise Stopped(
      f"{len(bad)} vectors are zero or not finite, the first of"
      f" {items[bad[0]].text[:60]!r}"
    )
  return vectors / norms


def items_of(task: EvalTask, reading: Reading) -> list[Item]:
  """All that a model will be asked of a task."""
  found: list[Item] = []

  def collect(
    texts: Sequence[str], prompt_name: str, titles: Sequence[str] = ()
  ) -> Float[np.ndarray, "n M"]:
    titles = titles or [""] * len(texts)
    found.extend(
      reading.item(task, prompt_name, text, title)
      for text, title in zip(texts, titles, strict=True)
    )
    return np.zeros((len(texts), 1), np.float32)

  suite.encoded(collect, task)
  return found
