"""From a stage's config and inputs to its stream of batches."""

import dataclasses
import pathlib
from collections.abc import Callable, Mapping, Sequence
from typing import cast

import grain
import numpy as np
from jaxtyping import Int

from embeddinggemma import cache
from embeddinggemma.data import (
  corpus,
  denoisers,
  loader,
  mixture,
  prompts,
  sources,
  text,
)
from embeddinggemma.mining import negatives, teacher
from embeddinggemma.training import inputs, stages
from embeddinggemma.training.config import (
  AdaptConfig,
  LanguageConfig,
  PairConfig,
  QatConfig,
  TrainConfig,
)
from embeddinggemma.training.inputs import Inputs
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
  key |= {"negatives": config.negatives, "read": _reading(config)}
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
  tasks, truncated = read_tasks(config, made)
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
    members = sources.by_task(read_pairs(config, made))
    read = rows_read(config, tasks)
    tasks = {
      task: _taught(rows, members[task], read[task], vectors)
      for task, rows in tasks.items()
    }
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
  about = inputs.about(config, made)
  key = {
    "inputs": {k: v for k, v in about.items() if k != "teacher"},
    "tokenizer": made.tokenizer().hash,
    "size": [config.max_length, config.negatives],
  }
  tokenise = lambda: mixture.tokenise(
    read_pairs(config, made),
    made.tokenizer(),
    config.max_length,
    config.negatives,
  )
  return cache.share("tokens", key, tokenise)


def rows_read(
  config: PairConfig, tasks: Mapping[str, mixture.Rows]
) -> dict[str, Int[np.ndarray, "_"]]:
  """Task -> the rows whose teacher's vectors are needed: of those that read
  all, all; of quantisation-aware training, those of its own batches."""
  if not isinstance(config, QatConfig):
    return {task: np.arange(len(rows)) for task, rows in tasks.items()}
  weights = shares(config, tasks)
  drawn = mixture.draws(tasks, weights, config.batch_size, config.seed)
  read: dict[str, list[np.ndarray]] = {task: [] for task in tasks}
  for index in range(config.steps + config.guard.skips):
    draw = cast(mixture.Draw, drawn[index])
    read[draw.task].append(draw.rows)
  none = np.zeros(0, np.int64)
  return {t: np.unique(np.concatenate([none, *r])) for t, r in read.items()}


def pairs_read(config: QatConfig, made: Inputs) -> list[Pair]:
  """The pairs of its batches."""
  tasks, _ = read_tasks(config, made)
  read = rows_read(config, tasks)
  members = sources.by_task(read_pairs(config, made))
  return [members[task][i] for task in read for i in read[task].tolist()]


def _reading(config: PairConfig) -> Sequence[object]:
  """What `rows_read` depends on, besides the tasks."""
  if not isinstance(config, QatConfig):
    return ()
  data = config.data
  steps = config.steps + config.guard.skips
  return [steps, dict(data.weights), data.size_exponent]


def read_pairs(config: PairConfig, made: Inputs) -> list[Pair]:
  """The training pairs; with mined negatives where there are."""
  pairs = corpus.read_train(made.corpus)
  if made.mined and config.negatives:
    return negatives.with_negatives(pairs, made.mined, config.negatives)
  return pairs


def _taught(
  rows: mixture.Rows,
  pairs: Sequence[Pair],
  read: Int[np.ndarray, "_"],
  vectors: teacher.Vectors,
) -> mixture.Rows:
  """A task's rows with a teacher's row for each text of those that are read."""
  document = prompts.document_prompt(rows.task)
  places = np.full((len(rows), 2 + rows.negatives), -1)
  items: list[teacher.Item] = []
  there: list[tuple[int, int]] = []
  for row in read.tolist():
    pair = pairs[row]
    given = mixture.titled_negatives(pair, rows.negatives)
    sides = [(pair.positive, pair.title), *given]
    items.append(teacher.Item(rows.task, pair.query, ""))
    items += [teacher.Item(document, *side) for side in sides]
    there += [(row, place) for place in range(1 + len(sides))]
  if there:
    places[tuple(np.array(there).T)] = vectors.places(teacher.keys_of(items))
  return dataclasses.replace(rows, taught=places)


def check_teacher(config: TrainConfig) -> None:
  """Fails on a teacher that is missing, unused, or of another width."""
  if not isinstance(config, PairConfig):
    return
  if isinstance(config, QatConfig) and config.teaches_itself:
    if not config.init_from:
      raise BadInput(
        f"loss.distill={config.loss.distill} matches the vectors of the start,"
        " and there is none; set --config.init_from=DIR, the model to quantise"
      )
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
