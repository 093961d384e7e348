"""How much a student can be taught in the given time, and how long all takes.

It comes before all long work. A few texts are encoded by the teacher, a few
steps of the student are compiled and run on vectors drawn at random, and what
there is to score is counted. What the minutes do not hold is left untaught.
"""

import collections
import dataclasses
import math
import pathlib
import shutil
import time
from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np
from rich.console import Console

from embeddinggemma.data import prompts
from embeddinggemma.data.tokenizer import Tokenizer
from embeddinggemma.loading import Model
from embeddinggemma.mining import teacher
from embeddinggemma.recipes.own import forecast as timed
from embeddinggemma.recipes.own import machine, scores
from embeddinggemma.recipes.student import draw
from embeddinggemma.report import page
from embeddinggemma.training import stages as kinds
from embeddinggemma.training.inputs import Inputs
from embeddinggemma.training.stages.pairs import PairConfig, reads_texts
from embeddinggemma.types import BadInput, Pair

BATCHES = 6  # of texts of the sample on which steps are timed
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
  steps: Mapping[str, float]  # stage -> a step of it
  compiling: float  # of all stages' programs
  loading: float  # of the base
  memory: int  # that the stage needs which needs most
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
  texts: float,
  batch: int,
  passes: float,
  shares: Mapping[str, float],
  given: Mapping[str, int | None],
) -> dict[str, int]:
  """The number of steps of each stage; distillation makes so many passes."""
  distil = given.get("distil")
  distil = distil or max(round(passes * math.ceil(texts / batch)), 1)
  own = {n: max(round(share * distil), 1) for n, share in shares.items()}
  return {"distil": distil, **{n: given.get(n) or own[n] for n in own}}


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
    "compiling": paces.compiling,
    "scoring": (1 + scorings) * counted.ranking
    + counted.scored * (paces.base + scorings * paces.student)
    + paces.loading,
    "index": counted.chunks * paces.student,
  }
  left = 60 * minutes - sum(fixed.values())
  left = max(left, LEAST * 60 * minutes)
  # A step of distillation with what follows from it in other stages.
  a_step, known = 0.0, 0.0
  for name, share in {"distil": 1.0, **shares}.items():
    if number := given.get(name):
      known += number * paces.steps[name]
    elif number := given.get("distil"):
      known += share * number * paces.steps[name]
    else:
      a_step += share * paces.steps[name]
  encoded = counted.tokens * (paces.teacher + paces.student)
  a_pair = encoded + a_step * passes * counted.texts / batch
  fits = max(int((left - known) / a_pair), 0)
  pairs = int(min(counted.pairs, most, fits))
  texts = pairs * counted.texts
  steps = steps_of(texts, batch, passes, shares, given)
  seconds = {
    "teach": pairs * counted.tokens * paces.teacher,
    "head": pairs * counted.tokens * paces.student,
    **{name: number * paces.steps[name] for name, number in steps.items()},
    **fixed,
  }
  return Budget(pairs, steps, seconds)


def require_enough(
  found: Budget, least: int, minutes: float, wanted: int
) -> None:
  """Raise BadInput if the minutes, or what is asked for, hold too few pairs."""
  if not wanted:
    raise BadInput(
      "choose.tokens and choose.pairs leave no pair to teach; raise"
      " --config.choose.tokens"
    )
  if found.pairs < min(least, wanted):
    raise BadInput(
      f"minutes={minutes:g} leave time for {found.pairs} pairs, and a student"
      f" needs {least} at least; raise --config.minutes, or teach shorter texts"
      " (--config.max_length)"
    )


class Sample(NamedTuple):
  """A few pairs, and random vectors of their texts, to time steps on."""

  pairs: Inputs
  texts: Inputs  # the same texts, single
  vectors: pathlib.Path

  def of(self, stage: PairConfig) -> tuple[PairConfig, Inputs]:
    """A stage of one pass through the sample, and what it reads."""
    if reads_texts(stage):
      made, count = self.texts, len(self.texts.texts)
    else:
      made, count = self.pairs, len(self.pairs.pairs)
    steps = math.ceil(count / stage.batch_size)
    few = dict(steps=steps, every_checkpoint=steps, teacher=str(self.vectors))
    return dataclasses.replace(stage, **few), made


def sample(
  pairs: Sequence[Pair],
  tokenizer: Tokenizer,
  max_length: int | None,
  negatives: int,
  width: int,
  directory: pathlib.Path,
) -> Sample:
  """Write a sample to a folder, which a call that was stopped may have begun.

  Args:
    pairs: of the sample.
    tokenizer: of the student.
    max_length: as of `draw.write`.
    negatives: hard ones of a pair that are kept, at most.
    width: of the teacher's vectors.
    directory: for the sample.
  """
  shutil.rmtree(directory, ignore_errors=True)
  draw.write(iter(pairs), tokenizer, max_length, negatives, directory)
  made = Inputs(directory, directory / "text")
  single = dataclasses.replace(made, directory=directory / draw.SINGLE)
  random = np.random.default_rng(0)
  model = teacher.TeacherModel(
    {"teacher": "random"},
    width,
    lambda items, own: lambda few: random.normal(size=(len(few), width)),
  )
  vectors = directory / "vectors"
  items = teacher.items_of(single.texts)
  teacher.teach(items, model, vectors, dtype="float16")
  return Sample(made, single, vectors)


class Trained(NamedTuple):
  """What the stages of training take."""

  steps: dict[str, float]  # stage -> seconds of a step
  compiling: float  # seconds, of all stages
  memory: int  # bytes, of the stage that needs most
  room: int


def training(
  found: Sample,
  stages: Mapping[str, PairConfig],
  directory: pathlib.Path,
  room: int,
) -> Trained:
  """Compile the stages' steps, and time those of the first.

  The others' steps take as much more as they have more token positions, and
  each shape of their batches is compiled by itself.

  Args:
    found: on what.
    stages: by name.
    directory: keeps what was timed.
    room: bytes that there are.

  Raises:
    BadInput: a stage needs more.
  """
  steps, compiling = dict[str, float](), dict[str, float]()
  most, pace = 0, 0.0
  for name, stage in stages.items():
    if not stage.teacher:  # its own vectors, which are not made yet
      steps[name] = max(steps.values())
      compiling[name] = max(compiling.values())
      continue
    stage, made = found.of(stage)
    kinds.kind_of(stage).examine(stage, made, lambda line: None)
    try:
      if steps:
        began = time.perf_counter()
        ready = timed.prepare(stage, made)
        needed = machine.held() + timed.memory_of(ready)
        if needed > room:
          raise timed.Unfit(needed)
        steps[name] = pace * timed.positions(ready.shapes)
        compiling[name] = len(ready.shapes) * (time.perf_counter() - began)
      else:
        first = timed.training(stage, made, directory, room)
        needed, steps[name] = first.memory, first.step
        pace = first.step / first.positions
        of_one = first.compilation / min(first.shapes, timed.TIMED_SHAPES)
        compiling[name] = first.shapes * of_one
    except timed.Unfit as unfit:
      groups = 2 * (stage.groups_per_device or 1)
      raise BadInput(
        f"{name} needs about {unfit.needed / machine.GB:.1f} GB, there are"
        f" {room / machine.GB:.1f} GB; --config.{name}.groups_per_device="
        f"{groups} takes less, and so does a smaller"
        f" --config.{name}.batch_size"
      ) from None
    most = max(most, needed)
  return Trained(steps, sum(compiling.values()), most, room)


def teaching_pace(
  model: teacher.TeacherModel,
  items: Sequence[teacher.Item],
  tokenizer: Tokenizer,
  directory: pathlib.Path,
) -> float:
  """Seconds in which a teacher encodes a token, as the student counts them.

  The texts that are timed have one prompt: a call has one, and a call of few
  texts reads much padding, which teaching does not. What a call takes whatever
  its texts, such as to start another program, is left out.
  """
  if model.pace is not None:
    return model.pace
  by_prompt = collections.Counter(item.prompt for item in items)
  ((common, _),) = by_prompt.most_common(1)
  items = [item for item in items if item.prompt == common]
  encode = model.start(items, directory / "fit-forecast.npy")
  took: list[tuple[int, float]] = []  # (tokens, seconds), by number of texts
  for count in _ITEMS:
    few = items[:: max(len(items) // count, 1)][:count]
    encode(few)  # which may compile
    began = time.perf_counter()
    encode(few)
    read = [prompts.prompted(*item) for item in few]
    took.append((sum(tokenizer.counts(read)), time.perf_counter() - began))
    if len(took) > 1 and took[-1][1] - took[-2][1] > _SECONDS:
      break
  tokens, seconds = took[-1]
  if len(took) > 1 and (more := tokens - took[-2][0]) > 0:
    slope = (seconds - took[-2][1]) / more
    return slope if slope > 0 else seconds / tokens
  return seconds / max(tokens, 1)


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
  pace = (
    f" at {1 / paces.teacher:,.0f} a second"
    if paces.teacher
    else "; how long the service takes is not known"
  )
  notes = {
    "teach": f"{tokens:,.0f} tokens{pace}",
    **{
      name: f"{number:,} steps of {paces.steps[name]:.2f} s"
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
