"""One stage of training in a workdir: where it starts, its loop, its result."""

import contextlib
import dataclasses
import functools
import pathlib
import time
from collections.abc import Callable
from typing import Any

import jax
import numpy as np
from rich.console import Console

from embeddinggemma import cache, checkpoint, distributed, quantize, sharding
from embeddinggemma import progress as progress_lib
from embeddinggemma.data import loader
from embeddinggemma.losses import collapse, objectives
from embeddinggemma.training import (
  checkpoints,
  guard,
  hooks,
  prepare,
  probing,
  resuming,
  stages,
  start,
  step,
)
from embeddinggemma.training import fit as fit_lib
from embeddinggemma.training import workdir as workdir_lib
from embeddinggemma.training.config import TrainConfig
from embeddinggemma.training.inputs import Inputs
from embeddinggemma.training.stages import common
from embeddinggemma.types import (
  BadBatch,
  Stage,
  Stopped,
  TrainState,
)

_AFTER_A_FAULT = (
  "look at those rows; guard.skips=1 (or more) goes on without such batches, and"
  " a lower optimizer.lr, in another --workdir, often has none"
)


@dataclasses.dataclass(frozen=True)
class _Run:
  """The objects with which one call of `train` works."""

  config: TrainConfig
  made: Inputs
  workdir: pathlib.Path
  console: Console
  steps: int  # at which this call ends
  mesh: jax.sharding.Mesh
  stage: Stage
  stream: loader.Stream
  store: checkpoints.Checkpoints
  content: checkpoint.Files

  def say(self, line: str) -> None:
    """Print a line for the user."""
    self.console.print(
      f"{self.config.stage}: {line}",
      highlight=False,
      markup=False,
      soft_wrap=True,
    )


def train(
  config: TrainConfig,
  made: Inputs,
  workdir: pathlib.Path,
  console: Console,
  until: int | None = None,
) -> dict[str, Any]:
  """Train to the end, from the workdir's last checkpoint or from the start.

  Args:
    config: of the stage.
    made: its inputs.
    workdir: for checkpoints, metrics and config.json.
    console: for progress and notes.
    until: stop after this many of the config's steps; a later call continues.

  Returns:
    The final checkpoint (relative to the workdir), its content hash and
    metrics; in processes other than the first, {}.
  """
  resuming.check(config, workdir)
  steps = config.steps if until is None else min(until, config.steps)
  mesh = sharding.make_mesh(config.mesh.data, config.mesh.fsdp)
  say = lambda line: console.print(line, highlight=False)
  stages.kind_of(config).examine(config, made, say)
  data, truncated = prepare.dataset(config, made, mesh.size, say)
  distributed.barrier("data")
  regular = functools.partial(common.is_regular, config, steps)
  run = _Run(
    config,
    made,
    workdir,
    console,
    steps,
    mesh,
    stages.make(config, mesh),
    loader.Stream(data, mesh),
    checkpoints.Checkpoints(workdir, config.keep_checkpoints, regular),
    workdir_lib.files(config, made),
  )
  try:
    state = _trained(run)
  finally:
    run.store.close()

  def finish() -> dict[str, Any]:
    params = state.params
    if distributed.count() > 1:  # this process may hold only a part of them
      params = checkpoint.read_params(
        workdir / checkpoint.CHECKPOINTS / str(steps)
      )
    final, params = stages.kind_of(config).result(
      config, params, steps, run.content, workdir, run.say
    )
    rows = hooks.read_metrics(workdir / hooks.METRICS)
    return {
      "checkpoint": final,
      "hash": checkpoint.content_hash(params),
      "truncated": truncated,
      **summary_of(rows),
    }

  return distributed.first_does("result", finish) or {}


def _trained(run: _Run) -> TrainState:
  """The state after the last step.

  When the guard rejects a batch, training returns to the last checkpoint and
  leaves the batch out, as often as the config allows.
  """
  beginning, skipped = run.stream.state(), ()
  while True:
    state, said = _start(run)
    before = int(state.step)
    run.stream.skip(*skipped)
    run.say(said)
    if distributed.is_first():
      tree = workdir_lib.resolved(run.config)
      cache.write_json(run.workdir / workdir_lib.CONFIG_FILE, tree)
    try:
      return _fit(run, state)
    except BadBatch as error:
      skipped = (*run.stream.skipped, error.index)
      most = run.config.guard.skips
      if len(skipped) > most:
        if not before or error.step != before + 1:
          raise BadBatch(
            f"{error}; {_AFTER_A_FAULT}", error.step, error.index
          ) from None
        place = run.workdir / checkpoint.CHECKPOINTS / str(before)
        raise Stopped(
          f"{error}; it was the first after {place}: if that is damaged, delete"
          " it, and the same command goes on from the one before"
        ) from None
      run.say(f"{error}; goes back, leaves it out ({len(skipped)} of {most})")
    # Back to the start, of which there may be no checkpoint, then to the last.
    run.store.wait()
    run.stream.restore(beginning)


def summary_of(rows: list[dict[str, Any]]) -> dict[str, float]:
  """Totals and last values of metrics.jsonl, for summary.json."""
  if not rows:
    return {}
  tokens = sum(row["tokens"] for row in rows)
  seconds = sum(row["seconds"] for row in rows)
  positions = sum(row["tokens"] / (1 - row["padding"]) for row in rows)
  losses = [row["loss"] for row in rows if row["loss"] is not None]
  tail = losses[-max(1, len(losses) // 10) :]
  alone = [row.get(objectives.WITHOUT_NEGATIVES, 0) for row in rows]
  share = round(float(np.mean(alone)), 4)
  collapsed = collapse.raised(rows)
  return {
    **({"loss": float(np.mean(tail))} if tail else {}),
    **({objectives.WITHOUT_NEGATIVES: share} if share else {}),
    **({"collapsed_at": collapsed[0]} if collapsed else {}),
    "tokens": tokens,
    "tokens_per_s": round(tokens / max(seconds, 1e-9), 1),
    "data_wait_s": round(sum(row["data_wait_s"] for row in rows), 2),
    "padding": round(1 - tokens / positions, 4),
  }


def _start(run: _Run) -> tuple[TrainState, str]:
  """The initial state, and a sentence that says where it comes from.

  The order is: the workdir's last checkpoint, init_from, the LSA table, random.
  """
  params, fresh, dropped = start.params(run.config, run.made)
  state = step.init_state(run.stage, run.config.seed, run.mesh, params)
  restored = run.store.restore(state)
  if restored is None:
    source = workdir_lib.source(run.config, run.made)
    if source is None:
      return state, "starts from random weights"
    precision = quantize.precision_of(
      stages.kind_of(run.config).view(run.config)
    )
    plain = precision in (None, quantize.FLOAT)
    seen = "" if plain else f", seen in {precision}"
    left = f"; left out: {_some(dropped)}" if dropped else ""
    return state, f"starts from {source}{seen}; fresh: {_some(fresh)}{left}"
  state, position, damaged = restored
  run.stream.restore(position)
  over = "".join(f"; stepped over: {line}" for line in damaged)
  return state, f"continues at step {int(state.step)} of {run.workdir}{over}"


def _some(names: list[str]) -> str:
  more = f" and {len(names) - 3} more" if len(names) > 3 else ""
  return (", ".join(names[:3]) or "nothing") + more


def program(
  config: TrainConfig, stage: Stage, mesh: jax.sharding.Mesh
) -> step.ByShape:
  """The compiled step, shared by runs that differ only in data and start."""
  options = start.compiler_options(config, mesh)
  return cache.share(
    "program",
    _program_key(config),
    lambda: step.ByShape(step.compile_step(stage, config.seed, mesh, options)),
  )


def _program_key(config: TrainConfig) -> dict[str, Any]:
  """All of a config that decides its programs."""
  tree = workdir_lib.resolved(config)
  other = {"init", "data", *stages.kind_of(config).folders}
  return {k: v for k, v in tree.items() if k not in other}


def _look(run: _Run) -> fit_lib.Look:
  """What adds the figures of the stage's probe to the metrics, if it has one."""
  stage, config = run.stage, run.config
  looks = stage.probe
  if looks is None:
    return fit_lib.no_look
  options = start.compiler_options(config, run.mesh)
  compiling = cache.share(
    "probe",
    _program_key(config),
    lambda: step.ByShape(step.compile_probe(looks, options)),
  )
  every = stages.kind_of(config).probed(config)
  return probing.Prober(_together(compiling), every, config.steps)


def _together(compiling: step.ByShape) -> Callable[[Any, Any], Any]:
  """A program, which all processes begin only when all have compiled it.

  Otherwise a collective that waits for a process that still compiles would look
  like one that hangs.
  """
  compiled: set[int] = set()

  def program(state: Any, batch: Any) -> Any:
    ready = compiling.compiled(state, batch)
    if id(ready) not in compiled:
      distributed.barrier("compiled")
      compiled.add(id(ready))
    return ready(state, batch)

  return program


def _fit(run: _Run, state: TrainState) -> TrainState:
  config, first = run.config, int(state.step)
  rows = hooks.read_metrics(run.workdir / hooks.METRICS)
  norms = [
    row["grad_norm"]
    for row in rows
    if row["step"] <= first and row["loss"] is not None
  ]
  timer = distributed.EveryMinutes(config.every_minutes, time.monotonic)

  def save(number: int, state: TrainState, stream: fit_lib.Stream) -> None:
    run.store.save(number, state, stream.state(), run.content)
    timer.done()

  with contextlib.ExitStack() as stack:
    observers = []
    if distributed.is_first():
      alarm = collapse.Alarm(config.optimizer.warmup_steps)
      log = hooks.MetricsLog(run.workdir, first, alarm, run.say)
      stack.callback(log.close)
      progress = progress_lib.Progress(run.console, config.stage, run.steps)
      stack.enter_context(progress).start_at(first)
      observers = [log, hooks.progress_observer(progress)]
    return fit_lib.fit(
      _together(program(config, run.stage, run.mesh)),
      state,
      run.stream,
      run.steps,
      [fit_lib.Hook(config.every_checkpoint, save, timer)],
      observers,
      guard.Guard(config.guard, norms),
      stack.enter_context(distributed.preemption(first)),
      _look(run),
    )
