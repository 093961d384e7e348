"""From a stage's config and inputs to its stream of batches."""

import dataclasses
import pathlib
from collections.abc import Callable, Mapping, Sequence

import grain
import numpy as np

from embeddinggemma import cache, inputs, stages
from embeddinggemma.data import (
  corpus,
  denoisers,
  loader,
  mixture,
  prompts,
  sources,
  text,
)
from embeddinggemma.inputs import Inputs
from embeddinggemma.retrieval import negatives, teacher
from embeddinggemma.stages import (
  AdaptConfig,
  LanguageConfig,
  PairConfig,
  TrainConfig,
)
from embeddinggemma.types import BadInput, Pair


def dataset(
  config: TrainConfig,
  made: Inputs,
  devices: int,
  say: Callable[[str], None] = lambda line: None,
) -> tuple[grain.MapDataset, int]:
  """Step -> Loaded for a mesh of so many devices, and the truncated texts.

  Runs share what their weights do not change: tokenised texts, and how they
  are packed. What is noticed while they are made is said once.
  """
  key = {
    "inputs": inputs.about(config, made),
    "tokenizer": made.tokenizer().hash,
    "groups": devices * stages.groups(config, devices),
    "size": [config.batch_size, config.max_length, config.seed],
  }
  if isinstance(config, LanguageConfig):
    mixed = getattr(config, "denoisers", None)
    key |= {"stage": config.stage, "denoisers": mixed}
    return cache.share("text", key, lambda: _text(config, made, devices)), 0
  assert isinstance(config, PairConfig)
  key |= {"negatives": config.negatives}
  tasks, packer, truncated = cache.share(
    "pairs", key, lambda: _pairs(config, made, devices, say)
  )
  weights = shares(config, tasks)
  size, seed = config.batch_size, config.seed
  return loader.load(tasks, weights, size, seed, packer), truncated


def _text(
  config: LanguageConfig, made: Inputs, devices: int
) -> grain.MapDataset:
  groups = devices * stages.groups(config, devices)
  windows, example = read_windows(config, made), example_of(config, made)
  return loader.load_text(
    windows, example, config.batch_size, groups, config.seed
  )


def _pairs(
  config: PairConfig,
  made: Inputs,
  devices: int,
  say: Callable[[str], None],
) -> tuple[dict[str, mixture.Rows], loader.Packer, int]:
  pairs = read_pairs(config, made)
  tasks, truncated = _tokenised(config, made, pairs)
  if truncated:
    say(
      f"{truncated} texts are longer than max_length={config.max_length}"
      " tokens and were cut"
    )
  if config.negatives:
    say(_about_negatives(tasks))
  vectors = None
  if config.teacher:
    vectors = teacher.open_vectors(pathlib.Path(config.teacher))
    members = sources.by_task(pairs)
    tasks = {t: _taught(r, members[t], vectors) for t, r in tasks.items()}
  packer = loader.Packer(
    tasks,
    config.batch_size,
    devices * stages.groups(config, devices),
    config.seed,
    None if vectors is None else vectors.vectors,
  )
  return tasks, packer, truncated


def _about_negatives(tasks: Mapping[str, mixture.Rows]) -> str:
  """How many pairs have hard negatives; the others are kept without."""
  having = sum(int((r.lengths[:, 2:] > 0).any(1).sum()) for r in tasks.values())
  whole = sum(map(len, tasks.values()))
  return f"{having} of {whole} pairs have hard negatives"


def shares(
  config: PairConfig, tasks: Mapping[str, mixture.Rows]
) -> dict[str, float]:
  """Task -> share of the batches."""
  sizes = {task: len(rows) for task, rows in tasks.items()}
  data = config.data
  return mixture.shares(sizes, data.weights, data.size_exponent)


def read_tasks(
  config: PairConfig, made: Inputs
) -> tuple[dict[str, mixture.Rows], int]:
  """Tokenised rows by task, and the number of truncated texts."""
  return _tokenised(config, made, read_pairs(config, made))


def _tokenised(
  config: PairConfig, made: Inputs, pairs: Sequence[Pair]
) -> tuple[dict[str, mixture.Rows], int]:
  return mixture.tokenise(
    pairs, made.tokenizer(), config.max_length, config.negatives
  )


def read_pairs(config: PairConfig, made: Inputs) -> list[Pair]:
  """The training pairs; with mined negatives where there are."""
  pairs = corpus.read_train(made.corpus)
  if made.mined and config.negatives:
    return negatives.with_negatives(pairs, made.mined, config.negatives)
  return pairs


def _taught(
  rows: mixture.Rows, pairs: Sequence[Pair], vectors: teacher.Vectors
) -> mixture.Rows:
  """A task's rows with a teacher's row for each text of its pairs."""
  document = prompts.document_prompt(rows.task)
  places = np.full((len(rows), 2 + rows.negatives), -1)
  items: list[teacher.Item] = []
  there: list[tuple[int, int]] = []
  for row, pair in enumerate(pairs):
    given = mixture.titled_negatives(pair, rows.negatives)
    sides = [(pair.positive, pair.title), *given]
    items.append(teacher.Item(rows.task, pair.query, ""))
    items += [teacher.Item(document, *side) for side in sides]
    there += [(row, place) for place in range(1 + len(sides))]
  places[tuple(np.array(there).T)] = vectors.places(teacher.keys_of(items))
  return dataclasses.replace(rows, taught=places)


def check_teacher(config: TrainConfig) -> None:
  """Fails on a teacher that is missing, unused, or of another width."""
  if not isinstance(config, PairConfig):
    return
  if not config.teacher:
    if config.loss.distill:
      raise BadInput(
        f"loss.distill={config.loss.distill} needs a teacher; name the folder"
        " that `teach` wrote in --config.teacher, or set it to 0"
      )
    return
  if not config.loss.distill:
    raise BadInput(
      f"teacher={config.teacher} is given, but loss.distill is 0; set the"
      " weight of distillation"
    )
  found = teacher.open_vectors(pathlib.Path(config.teacher))
  wanted = config.loss.teacher_width or config.model.embed_dim
  if found.width != wanted:
    raise BadInput(
      f"{config.teacher} holds vectors of width {found.width}, not {wanted}; set"
      f" loss.teacher_width={found.width}"
    )


def read_windows(config: LanguageConfig, made: Inputs) -> text.Windows:
  """Running text, cut so that BOS and EOS fit beside a window's tokens."""
  longest = config.max_length - 2
  return text.Windows(made.shards, made.tokenizer(), longest, config.fewest)


def example_of(config: LanguageConfig, made: Inputs) -> loader.Example:
  """(tokens, row id) -> what the model reads of a window: one side or two."""
  if not isinstance(config, AdaptConfig):
    return denoisers.causal
  sentinels = denoisers.sentinels_of(made.tokenizer())
  return lambda tokens, row: denoisers.denoise(
    tokens, row, config.seed, config.mixture, sentinels
  )
