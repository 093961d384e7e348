"""One stage in a workdir of its own: prepare inputs, train, check."""

import contextlib
import dataclasses
import pathlib
import tempfile
from collections.abc import Iterator, Mapping
from typing import Any, cast

from rich.console import Console

from embeddinggemma import cache, checkpoint, distributed, doctor
from embeddinggemma.cache import Task
from embeddinggemma.data import loader
from embeddinggemma.distributed import forks
from embeddinggemma.training import (
  hooks,
  learned,
  resuming,
  run,
  stages,
  start,
)
from embeddinggemma.training import prepare as prepare_lib
from embeddinggemma.training import workdir as workdir_lib
from embeddinggemma.training.config import TrainConfig
from embeddinggemma.training.inputs import Inputs
from embeddinggemma.types import BadInput


def train(
  config: TrainConfig, workdir: pathlib.Path, console: Console
) -> dict[str, Any]:
  """Make the inputs once, then train the stage in the workdir itself.

  Returns what `run.train` returns. Raises Stopped if the doctor's cheap checks
  find a fault in a trained embedder, whose weights are kept, and BadInput for a
  config or workdir that cannot be used.
  """
  forks.require_own_jax()
  distributed.agree("the config", workdir_lib.flat(config))
  distributed.agree("versions", workdir_lib.versions())
  check(config)
  dependencies = prepare_lib.dependencies(config)
  distributed.agree("the data", dependencies)
  cache.require_writable(workdir)
  cache.keep_programs(workdir)
  first = distributed.is_first()
  with cache.locked(workdir) if first else contextlib.nullcontext():
    ready = lambda: _ready(config, dependencies, workdir, console)
    distributed.first_does("inputs", ready)
    if not first and not cache.is_done(_inputs_task(dependencies), workdir):
      raise BadInput(
        f"{workdir} is not the first process's folder; put --workdir on storage"
        " that all hosts share"
      )
    made = make_inputs(config, dependencies, workdir, console)
    config = stages.kind_of(config).taught(config, made, workdir, console)
    trained = run.train(config, made, workdir, console)
    done = lambda: _close(config, trained, workdir, console)
    distributed.first_does("check", done)
  return trained


def _inputs_task(dependencies: Mapping[str, Any]) -> Task:
  """The cached task that makes inputs, only to ask whether it is done."""
  return Task("inputs", dependencies, lambda _: {})


def _ready(
  config: TrainConfig,
  dependencies: Mapping[str, Any],
  workdir: pathlib.Path,
  console: Console,
) -> None:
  """Make the inputs of training; BadInput if the workdir is another run's."""
  if note := resuming.check(config, workdir):
    console.print(note, highlight=False, markup=False, soft_wrap=True)
  if checkpoint.steps(workdir) and not cache.is_done(
    _inputs_task(dependencies), workdir
  ):
    raise resuming.other_inputs(config, dependencies, workdir)
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
  if stages.kind_of(config).embeds:
    said = learned.line(hooks.read_metrics(workdir / hooks.METRICS))
    if said:
      console.print(said, highlight=False, soft_wrap=True)
    doctor.check_or_stop(workdir / trained["checkpoint"], console)


def check(config: TrainConfig) -> None:
  """Raise BadInput for faults of a config that do not depend on its data."""
  start.check(config)
  stages.kind_of(config).check_alone(config)


def prepare(
  config: TrainConfig, workdir: pathlib.Path, console: Console
) -> None:
  """Make the inputs that `train` would read, in its workdir."""
  start.check(config)
  with cache.locked(workdir):
    made = make_inputs(
      config, prepare_lib.dependencies(config), workdir, console
    )
  console.print(f"{made.directory}", highlight=False, soft_wrap=True)


def make_inputs(
  config: TrainConfig,
  dependencies: Mapping[str, Any],
  workdir: pathlib.Path,
  console: Console,
) -> Inputs:
  """The inputs in the workdir, made once.

  Inputs that a whole recipe (`run`) made in its workdir are used as well.
  """
  prepare_lib.check_place(config, workdir)
  make = lambda directory: prepare_lib.make(config, directory, console)
  tasks = [Task(name, dependencies, make) for name in ("tokenizer", "inputs")]
  task = next((t for t in tasks if cache.is_done(t, workdir)), tasks[-1])
  cache.perform(task, workdir)
  return prepare_lib.inputs_in(config, workdir / task.name)


def batches(
  config: TrainConfig,
  workdir: pathlib.Path | None,
  first: int,
  last: int,
  console: Console,
) -> Iterator[dict[str, Any]]:
  """The task, rows and texts of the batches `first` to `last` - 1.

  A text is (origin, query, positive), or for a language model (row id, input,
  target if it has one). Without a workdir, inputs are made in a temporary
  folder.
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
    made = make_inputs(config, prepare_lib.dependencies(config), place, console)
    show = stages.kind_of(config).show(config, made)
    data, _ = prepare_lib.dataset(config, made, 1)
    for step in range(first, last):
      loaded = cast(loader.Loaded, data[step])
      yield {
        "step": step,
        "task": loaded.task,
        "rows": loaded.rows.tolist(),
        "texts": [show(loaded.task, int(i)) for i in loaded.rows[:3]],
      }
