"""One stage in a workdir of its own: its inputs, its training, its check."""

import contextlib
import dataclasses
import pathlib
import tempfile
from collections.abc import Callable, Iterator, Mapping
from typing import Any, cast

from rich.console import Console

from embeddinggemma import cache, checkpoint, distributed, doctor
from embeddinggemma.cache import Step
from embeddinggemma.data import loader
from embeddinggemma.load import load
from embeddinggemma.mining import teach as teach_lib
from embeddinggemma.training import inputs, run, start, streams
from embeddinggemma.training import workdir as record
from embeddinggemma.training.config import (
  LanguageConfig,
  PairConfig,
  QatConfig,
  TrainConfig,
)
from embeddinggemma.training.inputs import Inputs
from embeddinggemma.types import BadInput

TEACH = "teach"  # the folder of the start's vectors, in a workdir


def with_teacher(
  config: QatConfig, made: Inputs, directory: pathlib.Path, console: Console
) -> QatConfig:
  """The config with a teacher: where none is given, the start's own vectors.

  They are of the texts that its batches read, and no others.
  """
  if not config.teaches_itself:
    return config

  def teach() -> None:
    pairs = streams.pairs_read(config, made)
    start = teach_lib.teacher_of_model(load(config.init_from))
    teach_lib.teach(pairs, start, "float16", directory, console)

  distributed.first_does(TEACH, teach)
  return dataclasses.replace(config, teacher=str(directory))


def train(
  config: TrainConfig, workdir: pathlib.Path, console: Console
) -> dict[str, Any]:
  """Makes the inputs once, then the stage in the workdir itself.

  An embedder is Stopped at its end if the doctor's cheap checks find a fault;
  its weights stay.
  """
  distributed.agree("the config", record.flat(config))
  distributed.agree("versions", record.versions())
  check(config)
  dependencies = inputs.dependencies(config)
  distributed.agree("the data", dependencies)
  cache.require_writable(workdir)
  cache.keep_programs(workdir)
  first = distributed.is_first()
  with cache.locked(workdir) if first else contextlib.nullcontext():
    ready = lambda: _ready(config, dependencies, workdir, console)
    distributed.first_does("inputs", ready)
    if not first and not cache.is_done(_step(dependencies), workdir):
      raise BadInput(
        f"{workdir} is not the first process's folder; put --workdir on storage"
        " that all hosts share"
      )
    made = make_inputs(config, dependencies, workdir, console)
    if isinstance(config, QatConfig):
      place = workdir / TEACH
      config = with_teacher(config, made, place, console)
    trained = run.train(config, made, workdir, console)
    done = lambda: _close(config, trained, workdir, console)
    distributed.first_does("check", done)
  return trained


def _step(dependencies: Mapping[str, Any]) -> Step:
  """The making of inputs, to ask whether it is done."""
  return Step("inputs", dependencies, lambda _: {})


def _ready(
  config: TrainConfig,
  dependencies: Mapping[str, Any],
  workdir: pathlib.Path,
  console: Console,
) -> None:
  """What training reads; fails on a workdir of another run."""
  record.check_workdir(config, workdir)
  if checkpoint.steps(workdir) and not cache.is_done(
    _step(dependencies), workdir
  ):
    raise BadInput(
      f"{workdir} was trained on other data, packages or parent weights, or by a"
      " version that stripped texts; use another --workdir"
    )
  make_inputs(config, dependencies, workdir, console)


def _close(
  config: TrainConfig,
  trained: Mapping[str, Any],
  workdir: pathlib.Path,
  console: Console,
) -> None:
  console.print(
    f"{workdir / trained['checkpoint']}  weights {trained['hash'][:12]}",
    highlight=False,
    soft_wrap=True,
  )
  if isinstance(config, PairConfig):
    doctor.check_or_stop(workdir / trained["checkpoint"], console)


def check(config: TrainConfig) -> None:
  """Fails on what no data can mend, before any work."""
  start.check(config)
  streams.check_teacher(config)


def prepare(
  config: TrainConfig, workdir: pathlib.Path, console: Console
) -> None:
  """What `train` would read, made in its workdir."""
  start.check(config)
  with cache.locked(workdir):
    made = make_inputs(config, inputs.dependencies(config), workdir, console)
  console.print(f"{made.directory}", highlight=False, soft_wrap=True)


def make_inputs(
  config: TrainConfig,
  dependencies: Mapping[str, Any],
  workdir: pathlib.Path,
  console: Console,
) -> Inputs:
  """Made once in the workdir; those of a `run` serve as well."""
  inputs.check_place(config, workdir)
  make = lambda directory: inputs.make(config, directory, console)
  steps = [Step(name, dependencies, make) for name in ("tokenizer", "inputs")]
  step = next((s for s in steps if cache.is_done(s, workdir)), steps[-1])
  cache.perform(step, workdir)
  return inputs.of(config, workdir / step.name)


def batches(
  config: TrainConfig,
  workdir: pathlib.Path | None,
  first: int,
  last: int,
  console: Console,
) -> Iterator[dict[str, Any]]:
  """Task, rows and texts of each batch.

  A text is (origin, query, positive), or for a language model (row id, what
  it reads, what it answers, if the two differ).
  """
  start.check(config)
  with contextlib.ExitStack() as stack:
    if workdir is None:
      place = pathlib.Path(stack.enter_context(tempfile.TemporaryDirectory()))
      # The table decides no batch, and nothing would keep it.
      config = dataclasses.replace(config, init="random")
    else:
      stack.enter_context(cache.locked(workdir))
      place = workdir
    made = make_inputs(config, inputs.dependencies(config), place, console)
    show = _shown(config, made)
    data, _ = streams.dataset(config, made, 1)
    for step in range(first, last):
      loaded = cast(loader.Loaded, data[step])
      yield {
        "step": step,
        "task": loaded.task,
        "rows": loaded.rows.tolist(),
        "texts": [show(loaded.task, int(i)) for i in loaded.rows[:3]],
      }


def _shown(
  config: TrainConfig, made: Inputs
) -> Callable[[str, int], tuple[str, ...]]:
  """(task, row) -> where it is from, and its sides as text."""
  decode = made.tokenizer().decode
  if isinstance(config, LanguageConfig):
    windows = streams.read_windows(config, made)
    example = streams.example_of(config, made)
    tokens = lambda row: windows.tokens(row % len(windows))
    return lambda _, row: (
      f"row {row}",
      *map(decode, example(tokens(row), row)),
    )
  assert isinstance(config, PairConfig)
  tasks, _ = streams.read_tasks(config, made)
  origin = lambda rows, i: str(
    pathlib.Path(rows.origin[i]).relative_to(made.corpus)
  )
  return lambda task, i: (
    origin(tasks[task], i),
    decode(tasks[task].query[i]),
    decode(tasks[task].positive[i]),
  )
