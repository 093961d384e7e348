"""One stage of training in a workdir: its start, its loop, what it leaves."""

import contextlib
import dataclasses
import functools
import pathlib
import re
import time
from collections.abc import Callable, Iterator
from typing import Any

import jax
import numpy as np
from rich.console import Console

from embeddinggemma import (
  cache,
  checkpoint,
  distributed,
  inputs,
  quantize,
  record,
  result,
  sharding,
  stages,
  streams,
)
from embeddinggemma import config as config_lib
from embeddinggemma.data import (
  denoisers,
  loader,
  mixture,
)
from embeddinggemma.inputs import Inputs
from embeddinggemma.model import adapt
from embeddinggemma.model.config import ModelConfig
from embeddinggemma.tpu import generations
from embeddinggemma.training import checkpoints, guard, hooks, step
from embeddinggemma.training import fit as fit_lib
from embeddinggemma.training.config import (
  AdaptConfig,
  LanguageConfig,
  PairConfig,
  QatConfig,
  TrainConfig,
)
from embeddinggemma.types import (
  BadBatch,
  BadInput,
  Metrics,
  Params,
  Stage,
  Stopped,
  TrainState,
)

_STARTS = ("init", "init_from", "decoder_from")
# What decides, beside shapes, what tensors compute: where there are any; in an
# encoder, which a decoder may become with another mask; in an embedder.
_FUNCTION = {
  "": (
    "num_layers",
    "pattern",
    "window",
    "local_rope_base",
    "global_rope_base",
    "global_rope_factor",
    "norm_eps",
    "qk_norm",
    "attention_softcap",
  ),
  "encoder": ("window_rule",),
  "up": ("pooling",),
}
# What the compiled step does not depend on.
_NOT_COMPILED = (*_STARTS, "data", "teacher", "average")


def check(config: TrainConfig) -> None:
  """Fails on what no data can mend: the mesh, the groups, the start.

  Before any work, since the rest of a run may take minutes to get there.
  """
  mesh = sharding.make_mesh(config.mesh.data, config.mesh.fsdp)
  stages.groups(config, mesh.size)
  _compiler_options(config, mesh)
  stage = stages.make(config, mesh)
  shapes = step.abstract_state(stage, config.seed, mesh).params
  _check_frozen(config, shapes)
  jax.eval_shape(stage.view, shapes)  # fails on sizes that it cannot show
  _check_start(config, shapes)
  if isinstance(config, PairConfig):
    weights = config.data.weights
    mixture.shares(
      dict.fromkeys(weights, 1), weights, config.data.size_exponent
    )
  if isinstance(config, LanguageConfig):
    inputs.check_text(config)
  tokenizer = inputs.given_tokenizer(config)
  if isinstance(config, AdaptConfig) and tokenizer:
    denoisers.sentinels_of(tokenizer)


def _check_start(config: TrainConfig, shapes: Params) -> None:
  check_folders(config)
  if config.init_from:
    with _named("init_from", config.init_from) as path:
      _adopt(config, shapes, checkpoint.find(path), _read_shapes)


def check_folders(config: TrainConfig) -> None:
  """BadInput where a key names the address of a bucket, not a folder."""
  for key in ("init_from", "decoder_from", "teacher"):
    require_folder(key, getattr(config, key, ""))
  require_folder("data.path", config.data.path)


def require_folder(key: str, path: str) -> None:
  """The same of one key or flag."""
  with _named(key, path):
    cache.as_folder(path)


@contextlib.contextmanager
def _named(key: str, value: str) -> Iterator[str]:
  """What is wrong with a key's value names both."""
  try:
    yield value
  except BadInput as error:
    words = str(error)
    name = key if value in words else f"{key}={value}"
    raise BadInput(f"{name}: {words}") from None


def _check_frozen(config: TrainConfig, shapes: Params) -> None:
  leaves = jax.tree_util.tree_leaves_with_path(shapes)
  names = [sharding.path_name(path) for path, _ in leaves]
  for pattern in config.frozen:
    if not any(re.search(pattern, name) for name in names):
      raise BadInput(
        f"frozen: {pattern!r} matches no parameter; such are"
        f" {', '.join(names[:3])}"
      )
  if all(any(re.search(p, name) for p in config.frozen) for name in names):
    raise BadInput("frozen: every parameter is; leave something to train")


def start(
  config: TrainConfig, made: Inputs
) -> tuple[Params, list[str], list[str]]:
  """Parameters with those of `init_from` or the LSA table grafted.

  Also the paths of tensors that are fresh, and of the parent's that have no
  place in this stage's model.
  """
  fresh = stages.init(config)(jax.random.key(config.seed))
  return _adopt(
    config, fresh, record.source(config, made), checkpoint.read_params
  )


def _adopt(
  config: TrainConfig,
  fresh: Params,
  source: pathlib.Path | None,
  read: Callable[[pathlib.Path], Params],
) -> tuple[Params, list[str], list[str]]:
  """The same with what `read` makes of a checkpoint: tensors, or shapes."""
  if source is None:
    return fresh, [], []
  _require_view(config, source)
  given, decoder = read(source), None
  _require_function("model", config.model, source, given)
  if isinstance(config, AdaptConfig) and config.decoder_from:
    other = checkpoint.find(config.decoder_from)
    decoder = read(other)
    _require_function("decoder", config.decoder, other, decoder)
  moved = stages.adopt(config, given, decoder)
  params, new = adapt.graft(fresh, moved)
  return params, new, adapt.dropped(given, moved)


def _require_view(config: TrainConfig, source: pathlib.Path) -> None:
  """Refuses weights that are to be seen through a view, but for the same one.

  Raw weights of quantisation-aware training are good on their grid alone.
  """
  view = checkpoint.view_of(checkpoint.read_files(source))
  precision = quantize.precision_of(view)
  if precision == quantize.FLOAT:
    return
  if precision is None:
    raise BadInput(
      f"checkpoint {source} needs the view {view!r} of its weights; start from"
      " the final one of its training"
    )
  if view != stages.view_of(config):
    raise BadInput(
      f"checkpoint {source} was trained to be seen in {precision}; start from"
      " its own parent, or go on with stage qat and"
      f" --config.quantize.spec={precision}"
    )
  if isinstance(config, QatConfig) and config.teaches_itself:
    raise BadInput(
      f"checkpoint {source} is quantised, so no teacher of itself; give"
      " --config.teacher=DIR, vectors of its float parent that `teach` wrote,"
      " or --config.loss.distill=0"
    )


def _require_function(
  key: str, model: ModelConfig, source: pathlib.Path, given: Params
) -> None:
  """Refuses weights that would compute something else here.

  More layers would be random ones in the middle of what was trained; another
  base of rotary positions, another model of the same shapes.
  """
  files = checkpoint.read_files(source)
  if "model.json" not in files:
    return
  theirs = config_lib.build(
    ModelConfig, checkpoint.json_of(files, "model.json")
  )
  parts = ("", *given["model"])
  for name in (n for part in parts for n in _FUNCTION.get(part, ())):
    own, parents = getattr(model, name), getattr(theirs, name)
    if own != parents:
      raise BadInput(
        f"{key}.{name}={own}, where the checkpoint {source} was trained with"
        f" {parents}; set it to that"
      )


def _read_shapes(path: pathlib.Path) -> Params:
  return {"model": checkpoint.nest(checkpoint.read_shapes(path)), "aux": {}}


@dataclasses.dataclass(frozen=True)
class _Run:
  """What one call of `train` works with."""

  config: TrainConfig
  made: Inputs
  workdir: pathlib.Path
  console: Console
  steps: int  # to do, in this call
  mesh: jax.sharding.Mesh
  stage: Stage
  stream: loader.Stream
  store: checkpoints.Checkpoints
  content: checkpoint.Files

  def say(self, line: str) -> None:
    """A line for the person."""
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
  """Trains from the workdir's last checkpoint, or from the start, to the end.

  `until`: only so many of the config's steps; a later call goes on.
  Returns the final checkpoint (relative), its content hash and metrics; in
  processes of a run that are not its first, nothing.
  """
  record.check_workdir(config, workdir)
  steps = config.steps if until is None else min(until, config.steps)
  mesh = sharding.make_mesh(config.mesh.data, config.mesh.fsdp)
  say = lambda line: console.print(line, highlight=False)
  data, truncated = streams.dataset(config, made, mesh.size, say)
  distributed.barrier("data")
  regular = functools.partial(result.is_regular, config, steps)
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
    record.files(config, made),
  )
  try:
    state = _trained(run)
  finally:
    run.store.close()

  def finish() -> dict[str, Any]:
    final, params = result.final(
      config, state.params, steps, run.content, workdir, run.say
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

  A batch that the guard refuses is left out, as often as the config allows,
  after going back to the last checkpoint.
  """
  beginning, skipped = run.stream.state(), ()
  while True:
    state, said = _start(run)
    before = int(state.step)
    run.stream.skip(*skipped)
    run.say(said)
    if distributed.is_first():
      tree = record.resolved(run.config)
      cache.write_json(run.workdir / record.CONFIG_FILE, tree)
    try:
      return _fit(run, state)
    except BadBatch as error:
      skipped = (*run.stream.skipped, error.index)
      most = run.config.guard.skips
      if len(skipped) > most and before and error.step == before + 1:
        place = run.workdir / checkpoint.CHECKPOINTS / str(before)
        raise Stopped(
          f"{error}; it was the first after {place}: if that is damaged, delete"
          " it, and the same command goes on from the one before"
        ) from None
      if len(skipped) > most:
        raise
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
  tail = rows[-max(1, len(rows) // 10) :]
  return {
    "loss": float(np.mean([row["loss"] for row in tail])),
    "tokens": tokens,
    "tokens_per_s": round(tokens / max(seconds, 1e-9), 1),
    "data_wait_s": round(sum(row["data_wait_s"] for row in rows), 2),
    "padding": round(1 - tokens / positions, 4),
  }


def _start(run: _Run) -> tuple[TrainState, str]:
  """Start order: the workdir's latest, init_from, the LSA table, random."""
  params, fresh, dropped = start(run.config, run.made)
  state = step.init_state(run.stage, run.config.seed, run.mesh, params)
  restored = run.store.restore(state)
  if restored is None:
    source = record.source(run.config, run.made)
    if source is None:
      return state, "starts from random weights"
    precision = quantize.precision_of(stages.view_of(run.config))
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
  """The compiled step; runs that differ in data and start share it."""
  tree = record.resolved(config)
  key = {k: v for k, v in tree.items() if k not in _NOT_COMPILED}
  options = _compiler_options(config, mesh)
  return cache.share(
    "program",
    key,
    lambda: step.ByShape(step.compile_step(stage, config.seed, mesh, options)),
  )


def _compiler_options(
  config: TrainConfig, mesh: jax.sharding.Mesh
) -> dict[str, Any]:
  device = mesh.devices.flat[0]
  return generations.compiler_options(
    config.compiler_options, device.platform, device.device_kind
  )


def _together(compiling: step.ByShape) -> step.Program:
  """The step, begun by all processes only when all have compiled it.

  A collective that waits for one that compiles looks like one that hangs.
  """
  compiled: set[int] = set()

  def program(state: TrainState, batch: Any) -> tuple[TrainState, Metrics]:
    ready = compiling.compiled(state, batch)
    if id(ready) not in compiled:
      distributed.barrier("compiled")
      compiled.add(id(ready))
    return ready(state, batch)

  return program


def _fit(run: _Run, state: TrainState) -> TrainState:
  config, first = run.config, int(state.step)
  rows = hooks.read_metrics(run.workdir / hooks.METRICS)
  norms = [row["grad_norm"] for row in rows if row["step"] <= first]
  timer = distributed.EveryMinutes(config.every_minutes, time.monotonic)

  def save(number: int, state: TrainState, stream: fit_lib.Stream) -> None:
    run.store.save(number, state, stream.state(), run.content)
    timer.done()

  with contextlib.ExitStack() as stack:
    observers = []
    if distributed.is_first():
      log = hooks.MetricsLog(run.workdir, first)
      stack.callback(log.close)
      progress = hooks.Progress(run.console, config.stage, run.steps)
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
    )
