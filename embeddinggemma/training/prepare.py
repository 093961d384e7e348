"""Make a stage's inputs once, and open its stream of batches."""

import importlib.metadata
import pathlib
from collections.abc import Callable, Iterable
from typing import Any

import grain
import numpy as np
from jaxtyping import Int
from rich.console import Console

from embeddinggemma import checkpoint
from embeddinggemma.checkpoint import TOKENIZER_FILE
from embeddinggemma.data import lsa, prompts
from embeddinggemma.data.tokenizer import Tokenizer, train_tokenizer
from embeddinggemma.training import inputs, stages
from embeddinggemma.training.config import TrainConfig
from embeddinggemma.training.inputs import Inputs
from embeddinggemma.types import BadInput


def inputs_in(config: TrainConfig, directory: pathlib.Path) -> Inputs:
  """The inputs in a folder; shards made by the verb `prepare` stay in place."""
  shards = stages.kind_of(config).shards(config)
  return Inputs(directory, shards or directory / "text")


def dependencies(config: TrainConfig) -> dict[str, Any]:
  """All that the result of `make` depends on, as a key for the cache.

  Raises BadInput for paths that do not exist.
  """
  kind = stages.kind_of(config)
  tokenizer = given_tokenizer(config)
  table = needs_table(config)
  return {
    "data": kind.fingerprint(config),
    "skip_bad_rows": config.data.skip_bad_rows,
    "tokenizer": tokenizer.hash if tokenizer else "",
    "init_from": inputs.parent(config.init_from),
    "decoder_from": "",  # of every kind, so that keys made before still hold
    "teacher": "",
    "init": config.init,
    "table": [config.model.vocab_size, config.model.width if table else 0],
    "max_length": config.model.max_length if table else 0,
    "version": importlib.metadata.version("embeddinggemma"),
    **checkpoint.AS_WRITTEN,
    **kind.depends(config),
  }


def given_tokenizer(config: TrainConfig) -> Tokenizer | None:
  """The tokenizer of the config, of a parent or of shards; None: train one.

  Raises BadInput if these differ, since the rows of an embedding table belong
  to one tokenizer.
  """
  kind = stages.kind_of(config)
  given: dict[str, Tokenizer] = {}
  if config.data.tokenizer:
    name = f"data.tokenizer={config.data.tokenizer}"
    given[name] = Tokenizer(pathlib.Path(config.data.tokenizer))
  parents = {"init_from": config.init_from}
  parents |= {f"{key}_from": path for key, path in kind.parents(config).items()}
  for name, path in parents.items():
    if path:
      place = checkpoint.find(path)
      model = checkpoint.read_files(place).get(TOKENIZER_FILE)
      if model:
        given[f"{name}={place}"] = Tokenizer(model, f"{name}={place}")
  if shards := kind.shards(config):
    given[f"data.path={shards}"] = Tokenizer(shards / TOKENIZER_FILE)
  first, *others = given or [""]
  for name in others:
    if given[name].identity != given[first].identity:
      raise BadInput(
        f"{first} and {name} have different tokenizers; use one of them, or"
        " prepare the text again"
      )
  return given.get(first)


def make(
  config: TrainConfig, directory: pathlib.Path, console: Console
) -> dict[str, Any]:
  """Make corpus, tokenizer, shards and LSA table in `directory`."""
  kind, made = stages.kind_of(config), inputs_in(config, directory)
  about = kind.read(config, made, console)
  given = given_tokenizer(config)
  target = directory / TOKENIZER_FILE
  if given:
    target.write_bytes(given.model)
  else:
    train_tokenizer(kind.texts(config, made), target, config.model.vocab_size)
  tokenizer = made.tokenizer()
  if tokenizer.vocab_size > config.model.vocab_size:
    raise BadInput(
      f"the tokenizer has {tokenizer.vocab_size} pieces, model.vocab_size is"
      f" {config.model.vocab_size}; raise it to at least that"
    )
  about |= kind.write(config, made, console)
  if needs_table(config):
    documents = kind.documents(config, made, tokenizer)
    _write_table(config, tokenizer, documents, made.table)
  return {"pieces": tokenizer.vocab_size, **about}


def check_place(config: TrainConfig, workdir: pathlib.Path) -> None:
  """Raise BadInput if making inputs in the workdir would replace its shards."""
  shards = stages.kind_of(config).shards(config)
  if shards and shards.resolve().is_relative_to(workdir.resolve()):
    raise BadInput(
      f"data.path={config.data.path} holds its shards in {workdir}, whose"
      " inputs would be replaced; use another --workdir"
    )


def dataset(
  config: TrainConfig,
  made: Inputs,
  devices: int,
  say: Callable[[str], None] = lambda line: None,
) -> tuple[grain.MapDataset, int]:
  """The dataset step -> Loaded for so many devices, and the truncated texts.

  `say` is called with notes about the data.
  """
  groups = devices * stages.groups(config, devices)
  return stages.kind_of(config).dataset(config, made, groups, say)


def needs_table(config: TrainConfig) -> bool:
  """Whether the table starts from latent semantic vectors."""
  return config.init == "lsa" and not config.init_from


def _write_table(
  config: TrainConfig,
  tokenizer: Tokenizer,
  documents: Iterable[Int[np.ndarray, "_"]],
  workdir: pathlib.Path,
) -> None:
  """Write a checkpoint that holds only the LSA embedding table.

  Pieces of the prompts get no weight, since every text has them.
  """
  words = [tokenizer.encode(prompt) for prompt in prompts.PROMPTS.values()]
  table = lsa.lsa_table(
    list(documents),
    tokenizer.pieces,
    config.model.vocab_size,
    config.model.width,
    sorted({int(i) for ids in words for i in ids}),
  )
  params = {"model": {"encoder": {"embedding": table}}, "aux": {}}
  checkpoint.write(workdir, params, {})
