"""One stage of training in a workdir: its start, its loop, what it leaves."""

import contextlib
import dataclasses
import importlib.metadata
import json
import pathlib
import re
import sys
from collections.abc import Callable
from typing import Any

import jax
import numpy as np
from rich.console import Console

from embeddinggemma import (
  cache,
  checkpoint,
  inputs,
  sharding,
  soup,
  stages,
  streams,
)
from embeddinggemma import config as config_lib
from embeddinggemma.convert import folder as folders
from embeddinggemma.data import (
  denoisers,
  loader,
  mixture,
  packing,
  prompts,
)
from embeddinggemma.inputs import TOKENIZER_FILE, Inputs
from embeddinggemma.model import adapt, lora
from embeddinggemma.model.config import ModelConfig
from embeddinggemma.stages import (
  AdaptConfig,
  LanguageConfig,
  PairConfig,
  TrainConfig,
)
from embeddinggemma.training import fit as fit_lib
from embeddinggemma.training import hooks, step
from embeddinggemma.types import BadInput, Params, Stage, TrainState

CONFIG_FILE = "config.json"
# What may differ when a workdir's training goes on: the same weights come out.
# Parents count by their weights, which `inputs.dependencies` holds.
_FREE = (
  "mesh",
  "groups_per_device",
  "every_checkpoint",
  "keep_checkpoints",
  "compiler_options",
  "init_from",
  "decoder_from",
  "teacher",
)
_STARTS = ("init", "init_from", "decoder_from")
# What the compiled step does not depend on.
_NOT_COMPILED = (*_STARTS, "data", "teacher", "average")
_LICENSE = (
  "These weights derive from the data and parents that recipe.json names;\n"
  "their licences apply. embeddinggemma, which made them, is Apache-2.0.\n"
)


def check(config: TrainConfig) -> None:
  """Fails on what no data can mend: the mesh, the groups, the start.

  Before any work, since the rest of a run may take minutes to get there.
  """
  mesh = sharding.make_mesh(config.mesh.data, config.mesh.fsdp)
  groups = mesh.size * config.groups_per_device
  packing.check_groups(config.batch_size, groups, config.stage)
  shapes = jax.eval_shape(stages.init(config), jax.random.key(0))
  sharding.tree_shardings(shapes, mesh)
  _check_frozen(config, shapes)
  if config.init_from:
    parent = checkpoint.find(config.init_from)
    _adopt(config, shapes, parent, _read_shapes)
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
  return _adopt(config, fresh, _source(config, made), checkpoint.read_params)


def _adopt(
  config: TrainConfig,
  fresh: Params,
  source: pathlib.Path | None,
  read: Callable[[pathlib.Path], Params],
) -> tuple[Params, list[str], list[str]]:
  """The same with what `read` makes of a checkpoint: tensors, or shapes."""
  if source is None:
    return fresh, [], []
  _require_plain(source)
  given = read(source)
  other = config.decoder_from if isinstance(config, AdaptConfig) else ""
  decoder = read(checkpoint.find(other)) if other else None
  moved = stages.adopt(config, given, decoder)
  params, new = adapt.graft(fresh, moved)
  return params, new, adapt.dropped(given, moved)


def _require_plain(source: pathlib.Path) -> None:
  """Refuses weights that are to be seen through a view, not as they are."""
  view = checkpoint.view_of(checkpoint.read_files(source))
  if view != "identity":
    raise BadInput(
      f"checkpoint {source} needs the view {view!r} of its weights; start from"
      " the final one of its training"
    )


def _read_shapes(path: pathlib.Path) -> Params:
  return {"model": checkpoint.nest(checkpoint.read_shapes(path)), "aux": {}}


def _source(config: TrainConfig, made: Inputs) -> pathlib.Path | None:
  if config.init_from:
    return checkpoint.find(config.init_from)
  return checkpoint.find(made.table) if config.init == "lsa" else None


def relevant(config: TrainConfig) -> dict[str, Any]:
  """The part of a config that decides the weights, as JSON."""
  tree = _resolved(config)
  return {key: tree[key] for key in tree if key not in _free(config)}


def _free(config: TrainConfig) -> set[str]:
  # Where checkpoints are averaged, it matters which there are.
  averaged = isinstance(config, AdaptConfig) and config.average > 1
  return set(_FREE) - ({"every_checkpoint"} if averaged else set())


def check_workdir(config: TrainConfig, workdir: pathlib.Path) -> None:
  """Refuses a workdir that holds a run of another config, key by key."""
  path = workdir / CONFIG_FILE
  if not path.is_file():
    return
  saved, resolved = json.loads(path.read_text()), _resolved(config)
  with contextlib.suppress(BadInput):  # what cannot be built, differs
    saved = _resolved(stages.build(saved))
  changed = [
    f"{key}={_get(saved, key)!r} there, {_get(resolved, key)!r} now"
    for key in sorted(_flat(saved) | _flat(resolved))
    if key.split(".")[0] not in _free(config)
    and _get(saved, key) != _get(resolved, key)
  ]
  if changed:
    raise BadInput(
      f"{workdir} was trained with another config ({'; '.join(changed)});"
      " use another --workdir or the same config"
    )


def _resolved(config: TrainConfig) -> dict[str, Any]:
  return json.loads(json.dumps(dataclasses.asdict(config)))


def _flat(tree: Any, prefix: str = "") -> set[str]:
  if not isinstance(tree, dict) or not tree:
    return {prefix[:-1]}
  return {k for key, v in tree.items() for k in _flat(v, f"{prefix}{key}.")}


def _get(tree: Any, path: str) -> Any:
  for key in path.split("."):
    tree = tree.get(key) if isinstance(tree, dict) else None
  return tree


def train(
  config: TrainConfig,
  made: Inputs,
  workdir: pathlib.Path,
  console: Console,
  until: int | None = None,
) -> dict[str, Any]:
  """Trains from the workdir's last checkpoint, or from the start, to the end.

  `until`: only so many of the config's steps; a later call goes on.
  Returns the final checkpoint (relative), its content hash and metrics.
  """
  check_workdir(config, workdir)
  steps = config.steps if until is None else min(until, config.steps)
  mesh = sharding.make_mesh(config.mesh.data, config.mesh.fsdp)
  stage = stages.make(config, mesh)
  say = lambda line: console.print(line, highlight=False)
  data, truncated = streams.dataset(config, made, mesh.size, say)
  stream = loader.Stream(data, mesh)
  content = files(config, made)
  store = checkpoint.Checkpoints(workdir, config.keep_checkpoints)
  try:
    state, said = _start(config, made, stage, mesh, store, stream, workdir)
    console.print(
      f"{config.stage}: {said}", highlight=False, markup=False, soft_wrap=True
    )
    cache.write_json(workdir / CONFIG_FILE, _resolved(config))
    save = lambda n, state, stream: store.save(
      n, state, stream.state(), content
    )
    hook = fit_lib.Hook(config.every_checkpoint, save)
    compiled = program(config, stage, mesh)
    state = _fit(config, compiled, state, stream, steps, hook, workdir, console)
  finally:
    store.close()
  rows = hooks.read_metrics(workdir / hooks.METRICS)
  final, params = _result(config, state, steps, content, workdir, console)
  return {
    "checkpoint": final,
    "hash": checkpoint.content_hash(params),
    "truncated": truncated,
    **summary_of(rows),
  }


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


def _start(
  config: TrainConfig,
  made: Inputs,
  stage: Stage,
  mesh: jax.sharding.Mesh,
  store: checkpoint.Checkpoints,
  stream: loader.Stream,
  workdir: pathlib.Path,
) -> tuple[TrainState, str]:
  """Start order: the workdir's latest, init_from, the LSA table, random."""
  params, fresh, dropped = start(config, made)
  state = step.init_state(stage, config.seed, mesh, params)
  restored = store.restore(state)
  if restored is None:
    source = _source(config, made)
    if source is None:
      return state, "starts from random weights"
    left = f"; left out: {_some(dropped)}" if dropped else ""
    return state, f"starts from {source}; fresh: {_some(fresh)}{left}"
  state, position, damaged = restored
  stream.restore(position)
  skipped = "".join(f"; stepped over: {line}" for line in damaged)
  return state, f"continues at step {int(state.step)} of {workdir}{skipped}"


def _some(names: list[str]) -> str:
  more = f" and {len(names) - 3} more" if len(names) > 3 else ""
  return (", ".join(names[:3]) or "nothing") + more


def program(
  config: TrainConfig, stage: Stage, mesh: jax.sharding.Mesh
) -> step.ByShape:
  """The compiled step; runs that differ in data and start share it."""
  tree = _resolved(config)
  key = {k: v for k, v in tree.items() if k not in _NOT_COMPILED}
  options = config.compiler_options.get(jax.default_backend())
  return cache.share(
    "program",
    key,
    lambda: step.ByShape(step.compile_step(stage, config.seed, mesh, options)),
  )


def _fit(
  config: TrainConfig,
  compiled: step.Program,
  state: TrainState,
  stream: loader.Stream,
  steps: int,
  save: fit_lib.Hook,
  workdir: pathlib.Path,
  console: Console,
) -> TrainState:
  first = int(state.step)
  log = hooks.MetricsLog(workdir, first)
  with hooks.Progress(console, config.stage, steps) as progress:
    progress.start_at(first)
    observers = [log, hooks.progress_observer(progress)]
    try:
      return fit_lib.fit(compiled, state, stream, steps, [save], observers)
    finally:
      log.close()


def _result(
  config: TrainConfig,
  state: TrainState,
  steps: int,
  content: checkpoint.Files,
  workdir: pathlib.Path,
  console: Console,
) -> tuple[str, Params]:
  """The final checkpoint: the last one, or what is made of the last ones."""
  if isinstance(config, AdaptConfig) and config.average > 1:
    return _averaged(config, steps, content, workdir, console)
  if isinstance(config, PairConfig) and config.lora.rank:
    return _merged(config, state, steps, content, workdir)
  final = f"{checkpoint.CHECKPOINTS}/{steps}"
  return final, jax.device_get(state.params)


def _merged(
  config: PairConfig,
  state: TrainState,
  steps: int,
  content: checkpoint.Files,
  workdir: pathlib.Path,
) -> tuple[str, Params]:
  """An ordinary model, for readers that know nothing of factors."""
  params = jax.device_get(lora.merge(config.lora, state.params))
  recipe = json.loads(content["recipe.json"]) | {"view": "identity"}
  content = {**content, "recipe.json": cache.to_json(recipe)}
  checkpoint.write(workdir / checkpoint.MERGED, params, content, steps)
  return f"{checkpoint.MERGED}/{checkpoint.CHECKPOINTS}/{steps}", params


def _averaged(
  config: AdaptConfig,
  steps: int,
  content: checkpoint.Files,
  workdir: pathlib.Path,
  console: Console,
) -> tuple[str, Params]:
  """The mean of the last checkpoints."""
  last = checkpoint.steps(workdir)[-config.average :]
  places = [workdir / checkpoint.CHECKPOINTS / str(n) for n in last]
  try:
    params = soup.mean(places)
  except BadInput as error:
    raise BadInput(
      f"{error}; the result is a mean that takes it: delete it and the later"
      " steps beside it, and start again"
    ) from error
  recipe = json.loads(content["recipe.json"]) | {"mean_of_steps": last}
  content = {**content, "recipe.json": cache.to_json(recipe)}
  checkpoint.write(workdir / checkpoint.AVERAGE, params, content, steps)
  console.print(
    f"{config.stage}: the mean of steps {', '.join(map(str, last))}",
    highlight=False,
  )
  final = f"{checkpoint.AVERAGE}/{checkpoint.CHECKPOINTS}/{steps}"
  return final, params


def files(config: TrainConfig, made: Inputs) -> dict[str, bytes]:
  """The small files of a checkpoint: all that any verb needs.

  A parent's are kept where they say the same as ours, so that it can be
  averaged with what it became; and so are its terms.
  """
  source = _source(config, made)
  given = checkpoint.read_files(source) if source else {}
  parents = {}
  if source is not None:
    parents["init"] = inputs.hash_of(source)
  if isinstance(config, AdaptConfig) and config.decoder_from:
    parents["decoder"] = inputs.parent(config.decoder_from)
  recipe = {
    "stage": config.stage,
    "parents": parents,
    "data": inputs.about(config, made),
    "config": dataclasses.asdict(config),
    "view": stages.view_of(config),
    "versions": versions(),
    "command": sys.argv,
  }
  return {
    "model.json": cache.to_json(dataclasses.asdict(config.model.portable)),
    "prompts.json": cache.to_json(dict(prompts.PROMPTS)),
    "recipe.json": cache.to_json(recipe),
    TOKENIZER_FILE: made.tokenizer().model,
    "LICENSE": _LICENSE.encode(),
    **_inherited(config, given),
  }


def _inherited(
  config: TrainConfig, given: checkpoint.Files
) -> dict[str, bytes]:
  """What of a parent's files is as good as ours, byte for byte."""
  kept = {name: given[name] for name in given if folders.is_terms(name)}
  known = inputs.prompts_of(given)
  if known and not inputs.other_prompts(known):
    kept["prompts.json"] = given["prompts.json"]
  with contextlib.suppress(BadInput, KeyError):
    # One that an earlier version wrote may lack what has a default.
    tree = json.loads(given["model.json"])
    if config_lib.build(ModelConfig, tree) == config.model.portable:
      kept["model.json"] = given["model.json"]
  return kept


def versions() -> dict[str, str]:
  """Versions of what decides the numbers."""
  names = (
    "embeddinggemma",
    "jax",
    "flax",
    "optax",
    "orbax-checkpoint",
    "numpy",
  )
  found = {name: importlib.metadata.version(name) for name in names}
  return {"python": sys.version.split()[0], **found}
