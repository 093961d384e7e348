"""What training reads, made once: pairs, tokenizer, LSA table, text shards."""

import dataclasses
import importlib.metadata
import json
import pathlib
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

import numpy as np
from jaxtyping import Int
from rich.console import Console

from embeddinggemma import checkpoint
from embeddinggemma.checkpoint import TOKENIZER_FILE
from embeddinggemma.data import corpus, lsa, prompts, sources, text
from embeddinggemma.data.tokenizer import Tokenizer, train_tokenizer
from embeddinggemma.mining import negatives, teacher
from embeddinggemma.training.config import (
  LanguageConfig,
  PairConfig,
  TrainConfig,
)
from embeddinggemma.types import BadInput, Pair


@dataclasses.dataclass(frozen=True)
class Inputs:
  """A folder that `make` filled."""

  directory: pathlib.Path
  shards: pathlib.Path  # of running text; made by language-model stages
  mined: pathlib.Path | None = None  # hard negatives of its training pairs

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


def of(config: TrainConfig, directory: pathlib.Path) -> Inputs:
  """The inputs in a folder; shards that `prepare` made stay where they are."""
  prepared = isinstance(config, LanguageConfig) and _prepared(config)
  return Inputs(directory, prepared or directory / "text")


def about(config: TrainConfig, made: Inputs) -> dict[str, Any]:
  """What a stage's data says of itself, its content hash among it."""
  if isinstance(config, LanguageConfig):
    return text.about(made.shards)
  found = corpus.about(made.corpus)
  if made.mined:
    found["mined"] = negatives.opened(made.mined)["hash"]
  if isinstance(config, PairConfig) and config.teacher:
    found["teacher"] = _teacher(config)
  return found


def _teacher(config: TrainConfig) -> str:
  """The content hash of the teacher's vectors, or ""."""
  path = getattr(config, "teacher", "")
  return teacher.open_vectors(pathlib.Path(path)).about["hash"] if path else ""


def prompts_of(files: checkpoint.Files) -> dict[str, str]:
  """The prompts among a checkpoint's files, by name; {}: none are there."""
  return json.loads(files.get("prompts.json", b"{}"))


def other_prompts(known: Mapping[str, str]) -> str:
  """The first name under which prompts are not those that we train with."""
  ours = prompts.PROMPTS
  return next((k for k in known if k in ours and known[k] != ours[k]), "")


def parent(path: str) -> str:
  """The content hash of the weights that a path names, or ""."""
  return hash_of(checkpoint.find(path)) if path else ""


def hash_of(source: pathlib.Path) -> str:
  """The content hash of a checkpoint's weights."""
  return checkpoint.content_hash(checkpoint.read_params(source))


def dependencies(config: TrainConfig) -> dict[str, Any]:
  """All that `make` depends on, for the cache; fails on bad paths."""
  tokenizer = given_tokenizer(config)
  table = _needs_table(config)
  return {
    "data": _fingerprint(config),
    "skip_bad_rows": config.data.skip_bad_rows,
    "tokenizer": tokenizer.hash if tokenizer else "",
    "init_from": parent(config.init_from),
    "decoder_from": parent(getattr(config, "decoder_from", "")),
    "teacher": _teacher(config),
    "init": config.init,
    "table": [config.model.vocab_size, config.model.width if table else 0],
    "max_length": config.model.max_length if table else 0,
    "version": importlib.metadata.version("embeddinggemma"),
    **checkpoint.AS_WRITTEN,
  }


def _fingerprint(config: TrainConfig) -> Any:
  if not isinstance(config, LanguageConfig):
    return corpus.fingerprint(config.data.path)
  data: dict[str, Any] = {"fewest": config.fewest}
  if config.data.seqio:
    from embeddinggemma.data import seqio_tasks

    found = seqio_tasks.fingerprint(config.data.seqio, config.data.seqio_module)
    return data | {"feature": config.data.seqio_feature, **found}
  if shards := _prepared(config):
    return {"prepared": text.about(shards)["hash"]}
  if from_pairs(config):
    return data | corpus.fingerprint(config.data.path)
  return data | {"texts": text.fingerprint(pathlib.Path(config.data.path))}


def given_tokenizer(config: TrainConfig) -> Tokenizer | None:
  """The tokenizer of the config, of `init_from` or of shards; None: train one.

  A table's rows mean what its tokenizer says, so they may not differ.
  """
  found: dict[str, Tokenizer] = {}
  if config.data.tokenizer:
    name = f"data.tokenizer={config.data.tokenizer}"
    found[name] = Tokenizer(pathlib.Path(config.data.tokenizer))
  for name in ("init_from", "decoder_from"):
    if path := getattr(config, name, ""):
      place = checkpoint.find(path)
      model = checkpoint.read_files(place).get(TOKENIZER_FILE)
      if model:
        found[f"{name}={place}"] = Tokenizer(model, f"{name}={place}")
  if isinstance(config, LanguageConfig) and (shards := _prepared(config)):
    found[f"data.path={shards}"] = Tokenizer(shards / TOKENIZER_FILE)
  for name, other in list(found.items())[1:]:
    first = next(iter(found))
    if other.hash != found[first].hash:
      raise BadInput(
        f"{first} and {name} have different tokenizers; use one of them, or"
        " prepare the text again"
      )
  return next(iter(found.values()), None)


def make(
  config: TrainConfig, directory: pathlib.Path, console: Console
) -> dict[str, Any]:
  """Builds corpus, tokenizer, shards and LSA table in `directory`."""
  made = of(config, directory)
  about: dict[str, Any] = {}
  pairs: list[Pair] = []
  if isinstance(config, PairConfig) or from_pairs(config):
    about = _write_corpus(config, made, console)
    pairs = corpus.read_train(made.corpus)
  given = given_tokenizer(config)
  target = directory / TOKENIZER_FILE
  if given:
    target.write_bytes(given.model)
  else:
    texts = _sides(pairs) if pairs else _running_texts(config, made)
    train_tokenizer(texts, target, config.model.vocab_size)
  tokenizer = made.tokenizer()
  if tokenizer.vocab_size > config.model.vocab_size:
    raise BadInput(
      f"the tokenizer has {tokenizer.vocab_size} pieces, model.vocab_size is"
      f" {config.model.vocab_size}; raise it to at least that"
    )
  if isinstance(config, LanguageConfig):
    about |= write_text(config, made, made.shards, console)
  if _needs_table(config):
    documents = _documents(config, made, tokenizer, pairs)
    _write_table(config, tokenizer, documents, made.table)
  return {"pieces": tokenizer.vocab_size, **about}


def _write_corpus(
  config: TrainConfig, made: Inputs, console: Console
) -> dict[str, Any]:
  data = config.data
  about = corpus.write(data.path, data.skip_bad_rows, made.corpus)
  _say_skipped(about["skipped"], console)
  count = sum(about["tasks"].values())
  console.print(
    f"corpus: {count} pairs, {len(about['tasks'])} tasks", highlight=False
  )
  return {
    "pairs": count,
    "data_hash": about["hash"],
    "skipped_rows": len(about["skipped"]),
  }


def _say_skipped(skipped: list[str], console: Console) -> None:
  for line in skipped:
    console.print(
      f"skipped {line}", highlight=False, markup=False, soft_wrap=True
    )
  if skipped:
    console.print(f"skipped {len(skipped)} bad rows", highlight=False)


def write_text(
  config: LanguageConfig,
  made: Inputs,
  directory: pathlib.Path,
  console: Console,
) -> dict[str, Any]:
  """Tokenised shards of the configured text, with the tokenizer beside them.

  Shards that `prepare` made are used where they are.
  """
  tokenizer = made.tokenizer()
  if shards := _prepared(config):
    text.Windows(shards, tokenizer, config.max_length - 2, config.fewest)
    return {}
  skipped: list[str] = []
  found = running_text(config, made, skipped)
  about = text.write(found, tokenizer, directory, config.fewest)
  (directory / TOKENIZER_FILE).write_bytes(tokenizer.model)
  _say_skipped(skipped, console)
  tokens = sum(task["tokens"] for task in about["tasks"])
  texts = sum(task["texts"] for task in about["tasks"])
  short = about["short"]
  console.print(
    f"text: {texts} texts, {tokens} tokens"
    + (f"; left out {short} shorter than {config.fewest}" if short else ""),
    highlight=False,
  )
  return {"texts": texts, "text_tokens": tokens, "short_texts": short}


def running_text(
  config: LanguageConfig, made: Inputs, skipped: list[str]
) -> list[text.Source]:
  """Where running text comes from; bad rows that were skipped are listed."""
  data = config.data
  if data.seqio:
    from embeddinggemma.data import seqio_tasks

    return seqio_tasks.sources(
      data.seqio, data.seqio_module, data.seqio_feature
    )
  if from_pairs(config):
    pairs = corpus.read_train(made.corpus)
    return [text.Source("text", 1.0, text.pair_texts(pairs))]
  texts = text.read_texts(pathlib.Path(data.path), data.skip_bad_rows, skipped)
  return [text.Source("text", 1.0, texts)]


def check_text(config: LanguageConfig) -> None:
  """Fails on an unknown seqio task before any work."""
  if config.data.seqio:
    running_text(config, Inputs(pathlib.Path(), pathlib.Path()), [])


def _running_texts(config: TrainConfig, made: Inputs) -> Iterator[str]:
  assert isinstance(config, LanguageConfig)
  for source in running_text(config, made, []):
    for _, content in source.texts:
      yield content


def _sides(pairs: list[Pair]) -> Iterator[str]:
  for pair in pairs:
    yield pair.query
    yield pair.positive


def from_pairs(config: TrainConfig) -> bool:
  """Whether running text is that of pairs."""
  if not isinstance(config, LanguageConfig) or config.data.seqio:
    return False
  path = config.data.path
  return not path or (
    not _prepared(config) and sources.has_pairs(pathlib.Path(path))
  )


def _prepared(config: LanguageConfig) -> pathlib.Path | None:
  """The shards under data.path: its own, a workdir's, or its inputs'."""
  if not config.data.path:
    return None
  path = pathlib.Path(config.data.path)
  places = (path, path / "text", path / "inputs" / "text")
  return next((p for p in places if text.is_prepared(p)), None)


def check_place(config: TrainConfig, workdir: pathlib.Path) -> None:
  """Refuses shards that making this workdir's own inputs would replace."""
  shards = _prepared(config) if isinstance(config, LanguageConfig) else None
  if shards and shards.resolve().is_relative_to(workdir.resolve()):
    raise BadInput(
      f"data.path={config.data.path} holds its shards in {workdir}, whose"
      " inputs would be replaced; use another --workdir"
    )


def _needs_table(config: TrainConfig) -> bool:
  return config.init == "lsa" and not config.init_from


def _documents(
  config: TrainConfig, made: Inputs, tokenizer: Tokenizer, pairs: list[Pair]
) -> list[Int[np.ndarray, "_"]]:
  """What the table's rows are made from.

  A pair is one document: its two sides mean the same.
  """
  longest = config.model.max_length
  if pairs:
    ids, _ = tokenizer.encode_batch(list(_sides(pairs)), longest)
    return [np.concatenate(pair) for pair in zip(ids[::2], ids[1::2])]
  windows = text.Windows(made.shards, tokenizer, longest)
  return [windows.tokens(row) for row in range(len(windows))]


def _write_table(
  config: TrainConfig,
  tokenizer: Tokenizer,
  documents: Iterable[Int[np.ndarray, "_"]],
  workdir: pathlib.Path,
) -> None:
  """A checkpoint of the table alone, to be grafted.

  What stands in prompts says nothing, so it gets no weight.
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
