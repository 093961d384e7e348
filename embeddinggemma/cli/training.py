"""The verbs on a single stage: `train` and `prepare`."""

from typing import Any

from absl import flags

from embeddinggemma import cache, distributed
from embeddinggemma.cli.flags import (
  console,
  folder_of,
  say,
  show,
  tree_of,
  with_data,
)
from embeddinggemma.training import alone, stages
from embeddinggemma.types import BadInput


def train(values: flags.FlagValues) -> None:
  """Train one stage in a workdir, or continue it."""
  with distributed.together():
    config = train_config(values)
    alone.train(config, cache.as_folder(values.workdir), console())


def prepare(values: flags.FlagValues) -> None:
  """Make the inputs of a training, or show the batches that it will read."""
  config = train_config(values)
  workdir = folder_of(values.workdir) if values.workdir else None
  if values.show is None:
    if workdir is None:
      raise BadInput(
        "prepare: give --workdir=DIR to fill, --show=0:20 to look, or both"
      )
    alone.prepare(config, workdir, console())
    return
  first, last = _range(values.show)
  for row in alone.batches(config, workdir, first, last, console()):
    if values.json:
      say(row)
      continue
    show(f"step {row['step']}  task {row['task']}  {len(row['rows'])} rows")
    for origin, *sides in row["texts"]:
      show(f"  {origin}", *(f"    {side!r}" for side in sides))


def train_config(values: flags.FlagValues) -> Any:
  """The config of one stage; of a recipe, that of its pre-finetuning."""
  tree = tree_of(values)
  tree = tree.get("prefinetune", tree)
  with_data(values, tree)
  return stages.build(tree)


def _range(text: str) -> tuple[int, int]:
  first, colon, last = text.partition(":")
  if not (
    colon and first.isdigit() and last.isdigit() and int(first) < int(last)
  ):
    raise BadInput(f"--show={text}: give FIRST:LAST, such as 0:20")
  return int(first), int(last)
