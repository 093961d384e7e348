"""One stage of training in a workdir: its inputs, its start, its loop."""

import dataclasses
import importlib.metadata
import json
import pathlib
import sys
from collections.abc import Iterator
from typing import Any

import grain
import jax
import numpy as np
from rich.console import Console

from embeddinggemma import cache, checkpoint, sharding, stages
from embeddinggemma.data import corpus, loader, lsa, mixture, packing, prompts
from embeddinggemma.data.tokenizer import Tokenizer, train_tokenizer
from embeddinggemma.model import adapt
from embeddinggemma.stages import TrainConfig
from embeddinggemma.training import fit as fit_lib
from embeddinggemma.training import hooks, step
from embeddinggemma.types import BadInput, Pair, Params, TrainState

CONFIG_FILE = "config.json"
TOKENIZER_FILE = "tokenizer.model"
# What may differ when a workdir's training goes on: the same weights come out.
_FREE = (
  "mesh",
  "groups_per_device",
  "every_checkpoint",
  "keep_checkpoints",
  "compiler_options",
)
_LICENSE = (
  "These weights derive from the data and parents that recipe.json names;\n"
  "their licences apply. embeddinggemma, which made them, is Apache-2.0.\n"
)


@dataclasses.dataclass(frozen=True)
class Inputs:
  """What training reads: a folder that `make_inputs` filled."""

  directory: pathlib.Path

  @property
  def corpus(self) -> pathlib.Path:
    """The folder of pairs and evaluations."""
    return self.directory / "corpus"

  @property
  def table(self) -> pathlib.Path:
    """The workdir of the checkpoint that holds the LSA table, if any."""
    return self.directory / "table"

  def tokenizer(self) -> Tokenizer:
    """The tokenizer that was given or trained."""
    return Tokenizer(self.directory / TOKENIZER_FILE)


def check(config: TrainConfig) -> None:
  """Fails on what no data can mend: the mesh, the groups, the start.

  Before any work, since the rest of a run may take minutes to get there.
  """
  mesh = sharding.make_mesh(config.mesh.data, config.mesh.fsdp)
  packing.check_groups(config.batch_size, mesh.size * config.groups_per_device)
  shapes = jax.eval_shape(stages.init(config), jax.random.key(0))
  sharding.tree_shardings(shapes, mesh)
  weights = config.data.weights
  mixture.shares(dict.fromkeys(weights, 1), weights, config.data.size_exponent)
  _given_tokenizer(config)


def parent(config: TrainConfig) -> str:
  """The content hash of the weights that `init_from` names, or ""."""
  if not config.init_from:
    return ""
  return _hash_of(checkpoint.find(config.init_from))


def _hash_of(source: pathlib.Path) -> str:
  return checkpoint.content_hash(checkpoint.read_params(source))


def inputs_of(config: TrainConfig) -> dict[str, Any]:
  """All that `make_inputs` depends on, for the cache; fails on bad paths."""
  tokenizer = _given_tokenizer(config)
  lsa_table = config.init == "lsa" and not config.init_from
  return {
    "data": corpus.fingerprint(config.data.path),
    "skip_bad_rows": config.data.skip_bad_rows,
    "tokenizer": tokenizer.hash if tokenizer else "",
    "init_from": parent(config),
    "init": config.init,
    "table": [config.model.vocab_size, config.model.width if lsa_table else 0],
    "max_length": config.model.max_length if lsa_table else 0,
    "version": version(),
  }


def _given_tokenizer(config: TrainConfig) -> Tokenizer | None:
  """The configured tokenizer, or that of `init_from`; None: train one.

  A table's rows mean what its tokenizer says, so the two may not differ.
  """
  given = config.data.tokenizer
  chosen = Tokenizer(pathlib.Path(given)) if given else None
  if not config.init_from:
    return chosen
  found = checkpoint.find(config.init_from)
  model = checkpoint.read_files(found).get(TOKENIZER_FILE)
  own = Tokenizer(model) if model else None
  if chosen and own and chosen.hash != own.hash:
    raise BadInput(
      f"data.tokenizer={given} is not the tokenizer of init_from={found};"
      " leave it empty to use that one"
    )
  return chosen or own


def make_inputs(
  config: TrainConfig, directory: pathlib.Path, console: Console
) -> dict[str, Any]:
  """Builds corpus, tokenizer and LSA table in `directory`."""
  inputs = Inputs(directory)
  data = config.data
  about = corpus.write(data.path, data.skip_bad_rows, inputs.corpus)
  for line in about["skipped"]:
    console.print(
      f"skipped {line}", highlight=False, markup=False, soft_wrap=True
    )
  if about["skipped"]:
    console.print(f"skipped {len(about['skipped'])} bad rows", highlight=False)
  pairs = corpus.read_train(inputs.corpus)
  console.print(
    f"corpus: {len(pairs)} pairs, {len(about['tasks'])} tasks", highlight=False
  )
  target = directory / TOKENIZER_FILE
  given = _given_tokenizer(config)
  if given:
    target.write_bytes(given.model)
  else:
    train_tokenizer(_texts(pairs), target, config.model.vocab_size)
  tokenizer = inputs.tokenizer()
  _check_vocabulary(tokenizer, config)
  if config.init == "lsa" and not config.init_from:
    _write_table(config, tokenizer, pairs, inputs.table)
  return {
    "pairs": len(pairs),
    "pieces": tokenizer.vocab_size,
    "data_hash": about["hash"],
    "skipped_rows": len(about["skipped"]),
  }


def _texts(pairs: list[Pair]) -> Iterator[str]:
  for pair in pairs:
    yield pair.query
    yield pair.positive


def _write_table(
  config: TrainConfig,
  tokenizer: Tokenizer,
  pairs: list[Pair],
  workdir: pathlib.Path,
) -> None:
  """A checkpoint of the table alone, which `_source` finds to graft.

  A pair is one document: its two sides mean the same. What stands in prompts
  says nothing, so it gets no weight.
  """
  ids, _ = tokenizer.encode_batch(list(_texts(pairs)), config.model.max_length)
  documents = [np.concatenate(pair) for pair in zip(ids[::2], ids[1::2])]
  words = [tokenizer.encode(prompt) for prompt in prompts.PROMPTS.values()]
  table = lsa.lsa_table(
    documents,
    tokenizer.pieces,
    config.model.vocab_size,
    config.model.width,
    sorted({int(i) for ids in words for i in ids}),
  )
  params = {"model": {"encoder": {"embedding": table}}, "aux": {}}
  checkpoint.write(workdir, params, {})


def _check_vocabulary(tokenizer: Tokenizer, config: TrainConfig) -> None:
  if tokenizer.vocab_size > config.model.vocab_size:
    raise BadInput(
      f"the tokenizer has {tokenizer.vocab_size} pieces, model.vocab_size is"
      f" {config.model.vocab_size}; raise it to at least that"
    )


def initial_params(
  config: TrainConfig, inputs: Inputs
) -> tuple[Params, list[str]]:
  """Parameters with those of `init_from` or the LSA table grafted.

  Also returns the paths of the tensors that are fresh.
  """
  fresh = stages.init(config)(jax.random.key(config.seed))
  source = _source(config, inputs)
  given = checkpoint.read_params(source) if source else {}
  return adapt.graft(fresh, given)


def _source(config: TrainConfig, inputs: Inputs) -> pathlib.Path | None:
  if config.init_from:
    return checkpoint.find(config.init_from)
  return checkpoint.find(inputs.table) if config.init == "lsa" else None


def relevant(config: TrainConfig) -> dict[str, Any]:
  """The part of a config that decides the weights, as JSON."""
  tree = _resolved(config)
  return {key: value for key, value in tree.items() if key not in _FREE}


def check_workdir(config: TrainConfig, workdir: pathlib.Path) -> None:
  """Refuses a workdir that holds a run of another config, key by key."""
  path = workdir / CONFIG_FILE
  if not path.is_file():
    return
  saved, resolved = json.loads(path.read_text()), _resolved(config)
  changed = [
    f"{key}={_get(saved, key)!r} there, {_get(resolved, key)!r} now"
    for key in sorted(_flat(saved) | _flat(resolved))
    if key.split(".")[0] not in _FREE
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


def read_tasks(
  config: TrainConfig, inputs: Inputs
) -> tuple[dict[str, mixture.Rows], dict[str, float], int]:
  """Tokenised rows by task, shares of the tasks, number of truncated texts."""
  pairs = corpus.read_train(inputs.corpus)
  tasks, truncated = mixture.tokenise(
    pairs, inputs.tokenizer(), config.max_length
  )
  sizes = {task: len(rows) for task, rows in tasks.items()}
  data = config.data
  return (
    tasks,
    mixture.shares(sizes, data.weights, data.size_exponent),
    truncated,
  )


def dataset(
  config: TrainConfig, inputs: Inputs, devices: int
) -> tuple[grain.MapDataset, int]:
  """Step -> Loaded for a mesh of so many devices, and the truncated texts."""
  tasks, weights, truncated = read_tasks(config, inputs)
  groups = devices * config.groups_per_device
  return (
    loader.load(tasks, weights, config.batch_size, groups, config.seed),
    truncated,
  )


def train(
  config: TrainConfig, inputs: Inputs, workdir: pathlib.Path, console: Console
) -> dict[str, Any]:
  """Trains from the workdir's last checkpoint, or from the start, to the end.

  Returns the final checkpoint (relative), its content hash and metrics.
  """
  check_workdir(config, workdir)
  mesh = sharding.make_mesh(config.mesh.data, config.mesh.fsdp)
  stage = stages.STAGES[config.stage](config, mesh)
  data, truncated = dataset(config, inputs, mesh.size)
  if truncated:
    console.print(
      f"{truncated} texts are longer than max_length={config.max_length}"
      " tokens and were cut",
      highlight=False,
    )
  stream = loader.Stream(data, mesh)
  store = checkpoint.Checkpoints(workdir, config.keep_checkpoints)
  try:
    state, start = _start(config, inputs, stage, mesh, store, stream, workdir)
    console.print(
      f"{config.stage}: {start}", highlight=False, markup=False, soft_wrap=True
    )
    cache.write_json(workdir / CONFIG_FILE, _resolved(config))
    state = _fit(
      config, inputs, stage, mesh, state, stream, store, workdir, console
    )
  finally:
    store.close()
  rows = hooks.read_metrics(workdir / hooks.METRICS)
  final = f"{checkpoint.CHECKPOINTS}/{config.steps}"
  params = jax.device_get(state.params)
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
  inputs: Inputs,
  stage: Any,
  mesh: Any,
  store: checkpoint.Checkpoints,
  stream: loader.Stream,
  workdir: pathlib.Path,
) -> tuple[TrainState, str]:
  """Start order: the workdir's latest, init_from, the LSA table, random."""
  params, fresh = initial_params(config, inputs)
  state = step.init_state(stage, config.seed, mesh, params)
  restored = store.restore(state)
  if restored is None:
    source = _source(config, inputs)
    if source is None:
      return state, "starts from random weights"
    return (
      state,
      f"starts from {source}; fresh: {_some(fresh)}",
    )
  state, position, damaged = restored
  stream.restore(position)
  skipped = "".join(f"; stepped over: {line}" for line in damaged)
  return state, f"continues at step {int(state.step)} of {workdir}{skipped}"


def _some(names: list[str]) -> str:
  more = f" and {len(names) - 3} more" if len(names) > 3 else ""
  return (", ".join(names[:3]) or "nothing") + more


def _fit(
  config: TrainConfig,
  inputs: Inputs,
  stage: Any,
  mesh: Any,
  state: TrainState,
  stream: loader.Stream,
  store: checkpoint.Checkpoints,
  workdir: pathlib.Path,
  console: Console,
) -> TrainState:
  content = files(config, inputs)
  first = int(state.step)
  save = lambda n, state, stream: store.save(n, state, stream.state(), content)
  log = hooks.MetricsLog(workdir, first)
  with hooks.Progress(console, config.stage, config.steps) as progress:
    progress.start_at(first)
    try:
      return fit_lib.fit(
        step.compile_step(
          stage,
          config.seed,
          mesh,
          config.compiler_options.get(jax.default_backend()),
        ),
        state,
        stream,
        config.steps,
        [fit_lib.Hook(config.every_checkpoint, save)],
        [log, hooks.progress_observer(progress)],
      )
    finally:
      log.close()


def files(config: TrainConfig, inputs: Inputs) -> dict[str, bytes]:
  """The small files of a checkpoint: all that any verb needs."""
  source = _source(config, inputs)
  parents = {}
  if source is not None:
    parents["init"] = _hash_of(source)
  recipe = {
    "stage": config.stage,
    "parents": parents,
    "data": corpus.about(inputs.corpus),
    "config": dataclasses.asdict(config),
    "view": "identity",
    "versions": versions(),
    "command": sys.argv,
  }
  encoded = {
    "model.json": dataclasses.asdict(config.model),
    "prompts.json": dict(prompts.PROMPTS),
    "recipe.json": recipe,
  }
  return {
    **{
      k: (json.dumps(v, indent=1) + "\n").encode() for k, v in encoded.items()
    },
    TOKENIZER_FILE: inputs.tokenizer().model,
    "LICENSE": _LICENSE.encode(),
  }


def version() -> str:
  """The version of this package."""
  return importlib.metadata.version("embeddinggemma")


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
