"""The verbs that make training data: `teach`, `mine` and `mixture`."""

import dataclasses
import itertools
import pathlib
from collections.abc import Iterable
from typing import cast

from absl import flags
from rich.console import Console

from embeddinggemma import cache, config
from embeddinggemma.cli.flags import (
  console,
  folder_of,
  say,
  show,
  tree_of,
  with_data,
)
from embeddinggemma.data import sources
from embeddinggemma.data.tables.pairs import Pairs
from embeddinggemma.loading import load
from embeddinggemma.mining import mine as mining
from embeddinggemma.mining import negatives, teachers
from embeddinggemma.mining import teach as teaching
from embeddinggemma.mining.candidates import MiningConfig
from embeddinggemma.mining.teachers.kind import TeachConfig
from embeddinggemma.recipes.whole import finetuning
from embeddinggemma.training import alone, inputs, prepare, stages
from embeddinggemma.training.stages.pairs import PairConfig
from embeddinggemma.types import BadInput, Pair, SingleText


def teach(values: flags.FlagValues) -> None:
  """Write a teacher's vectors of all texts of a folder, pairs or single."""
  choice = _choice(values)
  output, shown = folder_of(values.output, "--output"), console()
  texts = _texts(values, shown)
  with cache.locked(output):
    model = teachers.teacher_of(choice)
    taught = teaching.teach(texts, model, choice.dtype, output, shown)
  shown.print(
    f"{output}: {taught.texts} vectors of width {taught.width}",
    highlight=False,
    soft_wrap=True,
  )


def _choice(values: flags.FlagValues) -> TeachConfig:
  """The teacher of the config, or the vectors that --vectors names."""
  choice = config.build(TeachConfig, tree_of(values))
  given, ids = values.vectors, values.ids
  if given is not None:
    if choice.teacher not in (teachers.tfidf.NAME, given):
      raise BadInput(
        f"--vectors={given} and teacher={choice.teacher} are two teachers; give"
        " one of them"
      )
    if not given.endswith(".npy"):
      raise BadInput(f"--vectors={given} is no .npy; write one by np.save")
    choice = dataclasses.replace(choice, teacher=given)
  if ids is not None:
    choice = dataclasses.replace(choice, ids=ids)
  if choice.ids and not choice.teacher.endswith(".npy"):
    raise BadInput(
      f"ids={choice.ids} are those of a file of vectors; give --vectors=FILE.npy"
    )
  if values.yes:
    service = dataclasses.replace(choice.service, yes=True)
    choice = dataclasses.replace(choice, service=service)
  return choice


def mine(values: flags.FlagValues) -> None:
  """Write OUTPUT/TASK/pairs.jsonl with hard negatives, and a ledger.

  The ledger says what became of every candidate; with --explain=ROW, print it
  for the query of one pair.
  """
  choice = config.build(MiningConfig, tree_of(values))
  data, output = pathlib.Path(values.data), pathlib.Path(values.output)
  ledger, shown = output / mining.LEDGER, console()
  if values.explain is not None:
    pairs = _pairs(values, shown)
    show(*negatives.explain_row(pairs, ledger, values.explain))
    return
  cache.require_place(output, folder=True)
  model = load(values.model) if values.model else None
  if choice.search == "dense" and model is None:
    raise BadInput(
      "mine: dense search needs --model=DIR; or set --config.search=stemmed"
    )
  if output.resolve() == data.resolve():
    raise BadInput(f"--output={output} is --data; name another folder")
  pairs = _pairs(values, shown)
  with cache.locked(output):
    mining.mine(pairs, model, choice, ledger, shown)
    count = max(choice.negatives, pairs.most_negatives)
    sources.write_pairs(output, negatives.with_negatives(pairs, ledger, count))
  shown.print(f"{output}", highlight=False, soft_wrap=True)


def _texts(
  values: flags.FlagValues, shown: Console
) -> Iterable[Pair | SingleText]:
  """The pairs of --data, and its single texts, or these alone."""
  path, fields = pathlib.Path(values.data), values.fields or ""
  files = sources.texts_of(path, fields)
  if not files:
    return _pairs(values, shown)
  say = lambda line: _say(line, shown)
  has_pairs = sources.pairs_beside(path, files, fields, say)
  pairs = _pairs(values, shown) if has_pairs else ()
  single, skipped = sources.read_texts(files, values.skip_bad_rows, say)
  found = list(single)
  inputs.say_skipped(skipped, shown)
  return itertools.chain(pairs, found)


def _say(line: str, shown: Console) -> None:
  shown.print(line, highlight=False, markup=False, soft_wrap=True)


def _pairs(values: flags.FlagValues, shown: Console) -> Pairs:
  """The pairs of --data; what was read as what, and what was not, is said."""
  path, skips = pathlib.Path(values.data), values.skip_bad_rows
  say = lambda line: _say(line, shown)
  pairs, skipped = sources.read_pairs(path, skips, values.fields or "", say)
  inputs.say_skipped(skipped, shown)
  return pairs


def mixture(values: flags.FlagValues) -> None:
  """Try mixtures of the data's tasks for finetuning, and pick some."""
  tree = tree_of(values)
  if "search" not in tree or "finetune" not in tree:
    raise BadInput("mixture: give --config=configs/mixture.py, or one like it")
  choice = config.build(finetuning.SearchConfig, tree["search"])
  if values.pick is not None:
    choice = dataclasses.replace(choice, pick=values.pick)
  workdir, shown = folder_of(values.workdir), console()
  with_data(values, tree["finetune"])
  stage = stages.build(tree["finetune"])
  if not stages.kind_of(stage).embeds:
    raise BadInput(f"mixture: {stage.stage!r} is no training on pairs")
  stage = cast(PairConfig, stage)
  alone.check(stage)
  dependencies = prepare.dependencies(stage)
  with cache.locked(workdir):
    made = alone.make_inputs(stage, dependencies, workdir, shown)
    key = {"data": dependencies, "base": inputs.parent(stage.init_from)}
    directory = workdir / "mixture"
    picked = finetuning.search(stage, choice, made, key, directory, shown)
  if values.json:
    say(picked)
