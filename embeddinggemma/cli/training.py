"""The verbs of one stage: `train`, `prepare` and `compile`."""

import pathlib
from typing import Any

from absl import flags

from embeddinggemma import cache, distributed
from embeddinggemma.aot import examine, page
from embeddinggemma.cli.flags import console, say, tree_of
from embeddinggemma.training import alone, stages
from embeddinggemma.types import BadInput


def train(values: flags.FlagValues) -> None:
  """Trains one stage in a workdir, or continues it."""
  with distributed.together():
    config = train_config(values)
    alone.train(config, cache.as_folder(values.workdir), console())


def prepare(values: flags.FlagValues) -> None:
  """Makes what training reads, and shows the batches that it will see."""
  config = train_config(values)
  workdir = pathlib.Path(values.workdir) if values.workdir else None
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
    print(f"step {row['step']}  task {row['task']}  {len(row['rows'])} rows")
    for origin, *sides in row["texts"]:
      print("\n    ".join([f"  {origin}", *map(repr, sides)]))


def compile_(values: flags.FlagValues) -> int:
  """Compiles a stage for TPUs that are not here; 1: it does not fit."""
  found = examine.examine(
    examine.config_of(tree_of(values), values.stage),
    values.topology,
    values.num_slices,
    values.fit,
    values.shardings,
  )
  if values.json:
    say(found)
  else:
    print(page.as_page(found))
  return 0 if found["fits"] else 1


def train_config(values: flags.FlagValues) -> Any:
  """One stage; of a recipe, its pre-finetuning."""
  tree = tree_of(values)
  tree = tree.get("prefinetune", tree)
  if values.skip_bad_rows and "data" in tree:
    tree["data"]["skip_bad_rows"] = True
  return stages.build(tree)


def _range(text: str) -> tuple[int, int]:
  first, colon, last = text.partition(":")
  if not (
    colon and first.isdigit() and last.isdigit() and int(first) < int(last)
  ):
    raise BadInput(f"--show={text}: give FIRST:LAST, such as 0:20")
  return int(first), int(last)
