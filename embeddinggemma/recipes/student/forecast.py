"""How much a student can be taught in the given time, and how long all takes.

It comes before all long work. A few texts are encoded by the teacher, a few
steps of the student are compiled and run on vectors drawn at random, and what
there is to score is counted. What the minutes do not hold is left untaught.
"""

import collections
import dataclasses
import math
import pathlib
import time
from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np
from rich.console import Console

from embeddinggemma.data import prompts
from embeddinggemma.data.tokenizer import Tokenizer
from embeddinggemma.loading import Model
from embeddinggemma.mining import teacher
from embeddinggemma.recipes.own import machine, scores
from embeddinggemma.recipes.student import draw
from embeddinggemma.report import page
from embeddinggemma.training.inputs import Inputs
from embeddinggemma.training.stages.pairs import PairConfig
from embeddinggemma.types import BadInput, Pair

BATCHES = 6  # of the sample on which steps are timed
# Texts that a teacher is timed on, until that takes so many seconds.
_ITEMS, _SECONDS = (8, 32, 128), 4.0
# Of the minutes, the part that teaching and training get at least, whatever
# scoring takes.
LEAST = 0.5


class Paces(NamedTuple):
  """What was measured: seconds, and bytes."""

  teacher: float  # to encode a token
  base: float  # to encode a token
  student: float  # the same, by the student
  step: float  # of distillation
  compiling: float  # of a stage's program
  loading: float  # of the base
  memory: int  # that training needs
  room: int  # bytes that there are


class Counted(NamedTuple):
  """What there is to do, counted."""

  pairs: int  # that could be taught
  texts: float  # of a pair: distinct ones, with hard negatives
  tokens: float  # of these, with prompts
  scored: float  # tokens that each model encodes to be scored
  ranking: float  # seconds of scoring besides
  chunks: float  # tokens of the index


class Budget(NamedTuple):
  """The pairs that are taught, the steps, and the seconds of each task."""

  pairs: int
  steps: dict[str, int]
  seconds: dict[str, float]

  @property
  def whole(self) -> float:
    """Seconds of all tasks together."""
    return sum(self.seconds.values())


def steps_of(
  texts: float, batch: int, passes: float, shares: Mapping[str, float]
) -> dict[str, int]:
  """The number of steps of each stage; distillation makes so many passes."""
  distil = max(round(passes * math.ceil(texts / batch)), 1)
  return {
    "distil": distil,
    **{n: max(round(share * distil), 1) for n, share in shares.items()},
  }


def budget(
  counted: Counted,
  paces: Paces,
  minutes: float,
  most: float,
  batch: int,
  passes: float,
  shares: Mapping[str, float],
  given: Mapping[str, int | None],
  scorings: int,
) -> Budget:
  """How many pairs the minutes hold, and what each task then takes.

  Args:
    counted: what there is to do.
    paces: of this machine.
    minutes: of the whole run.
    most: pairs that are taught, whatever the time.
    batch: texts of a step.
    passes: of distillation through the texts.
    shares: stage -> its steps as a share of those of distillation.
    given: stage -> its steps where the config says them, else None.
    scorings: times that a student is scored.
  """
  fixed = {
    "compiling": (1 + len(shares)) * paces.compiling,
    "scoring": (1 + scorings) * counted.ranking
    + counted.scored * (paces.base + scorings * paces.student)
    + paces.loading,
    "index": counted.chunks * paces.student,
  }
  left = 60 * minutes - sum(fixed.values())
  left = max(left, LEAST * 60 * minutes)
  known = sum(paces.step * steps for steps in given.values() if steps)
  rounds = sum(
    share
    for name, share in {"distil": 1.0, **shares}.items()
    if not given.get(name)
  )
  encoded = counted.tokens * (paces.teacher + paces.student)
  trained = passes * rounds * counted.texts / batch  # steps
  a_pair = encoded + paces.step * trained
  fits = max(int((left - known) / a_pair), 0)
  pairs = int(min(counted.pairs, most, fits))
  steps = steps_of(pairs * counted.texts, batch, passes, shares)
  steps = {name: given.get(name) or own for name, own in steps.items()}
  seconds = {
    "teach": pairs * counted.tokens * paces.teacher,
    "head": pairs * counted.tokens * paces.student,
    **{name: number * paces.step for name, number in steps.items()},
    **fixed,
  }
  return Budget(pairs, steps, seconds)


def require_enough(
  found: Budget, least: int, minutes: float, wanted: int
) -> None:
  """Raise BadInput if the minutes hold too few pairs for a training."""
  if found.pairs < least <= wanted:
    raise BadInput(
      f"minutes={minutes:g} leave time for {found.pairs} pairs, and a student"
      f" needs {least} at least; raise --config.minutes, or teach shorter texts"
      " (--config.max_length)"
    )


def sample(
  pairs: Sequence[Pair],
  tokenizer: Tokenizer,
  stage: PairConfig,
  negatives: int,
  width: int,
  directory: pathlib.Path,
) -> tuple[PairConfig, Inputs]:
  """Texts of a few pairs with random vectors, on which steps can be timed.

  Args:
    pairs: of the sample.
    tokenizer: of the student.
    stage: whose steps are timed.
    negatives: hard ones of a pair that are kept, at most.
    width: of the teacher's vectors.
    directory: for the sample.
  """
  draw.write(iter(pairs), tokenizer, stage.max_length, negatives, directory)
  made = Inputs(directory / draw.SINGLE, directory / "text")
  random = np.random.default_rng(0)
  model = teacher.TeacherModel(
    {"teacher": "random"},
    width,
    lambda items, own: lambda few: random.normal(size=(len(few), width)),
  )
  vectors = directory / "vectors"
  teacher.teach(teacher.items_of(made.texts), model, vectors, dtype="float16")
  steps = math.ceil(len(made.texts) / stage.batch_size)
  timed = dataclasses.replace(
    stage, steps=steps, every_checkpoint=steps, teacher=str(vectors)
  )
  return timed, made


def teaching_pace(
  model: teacher.TeacherModel,
  items: Sequence[teacher.Item],
  tokenizer: Tokenizer,
  directory: pathlib.Path,
) -> float:
  """Seconds in which a teacher encodes a token, as the student counts them.

  The texts that are timed have one prompt: a call has one, and a call of few
  texts reads much padding, which teaching does not.
  """
  by_prompt = collections.Counter(item.prompt for item in items)
  ((common, _),) = by_prompt.most_common(1)
  items = [item for item in items if item.prompt == common]
  seconds, few = 0.0, items
  encode = model.start(items, directory / "fit-forecast.npy")
  for count in _ITEMS:
    few = items[:: max(len(items) // count, 1)][:count]
    encode(few)  # which may compile
    began = time.perf_counter()
    encode(few)
    seconds = time.perf_counter() - began
    if seconds > _SECONDS:
      break
  read = [prompts.prompted(*item) for item in few]
  return seconds / max(sum(tokenizer.counts(read)), 1)


def scored_tokens(model: Model, suites: scores.Suites) -> tuple[float, float]:
  """(tokens that are encoded to score a model, seconds of ranking)."""
  costs = scores.costs(model, suites).values()
  return (
    sum(cost["tokens"] for cost in costs),
    sum(cost["ranking"] for cost in costs),
  )


def say(
  found: Budget,
  paces: Paces,
  counted: Counted,
  minutes: float,
  what: str,
  console: Console,
) -> None:
  """Print the forecast: a line for each task, and the sum.

  `what` is taught: pairs or passages.
  """

  def line(text: str) -> None:
    console.print(text, highlight=False, markup=False, soft_wrap=True)

  tokens = found.pairs * counted.tokens
  notes = {
    "teach": f"{tokens:,.0f} tokens at {1 / paces.teacher:,.0f} a second",
    **{
      name: f"{number:,} steps of {paces.step:.2f} s"
      for name, number in found.steps.items()
    },
    "scoring": "base and students, on held-out data",
  }
  for name, seconds in found.seconds.items():
    note = f"  ({notes[name]})" if name in notes else ""
    line(f"  {name:<9} {page.duration(seconds):>12}{note}")
  line(
    f"forecast: {page.duration(found.whole)}, and a minute or two for exports"
    f" and timing; memory about {paces.memory / machine.GB:.1f} GB of"
    f" {paces.room / machine.GB:.1f} GB"
  )
  if found.pairs < counted.pairs:
    line(
      f"taught are {found.pairs:,} of {counted.pairs:,} {what}, drawn fairly"
      " from all tasks or files; more with --config.minutes and"
      " --config.choose.tokens"
    )
  else:
    line(f"taught are all {found.pairs:,} {what}")
  if found.whole > 61 * minutes:  # not by rounding
    line(
      f"that is more than minutes={minutes:g}, of which half at least is for"
      " teaching and training; fewer held-out texts are scored with"
      " --config.measure.queries and --config.general.queries"
    )
