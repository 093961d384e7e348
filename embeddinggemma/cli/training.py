"""Verbs that train, and what prepares training."""

import dataclasses
import pathlib
import sys
from collections.abc import Sequence
from typing import Any

from absl import flags

from embeddinggemma.cli.flags import Verb, console, parse, say
from embeddinggemma.mining import mine as mine_lib
from embeddinggemma.mining import teach as teach_lib
from embeddinggemma.recipes.pairs import result as result_lib
from embeddinggemma.recipes.whole import result
from embeddinggemma.training import alone

FLAGS = ("config", "workdir"), ("skip_bad_rows",)  # of `run` and `train`


def run(values: flags.FlagValues) -> None:
  """Runs or continues a recipe."""
  from embeddinggemma.recipes import pairs
  from embeddinggemma.recipes import run as pipeline
  from embeddinggemma.recipes.whole import config as recipe
  from embeddinggemma.types import BadInput

  tree = _config(values)
  if not _is_recipe(tree):
    raise BadInput(
      "run: --config is no recipe; give configs/recipe.py, or use"
      " `train` for one stage"
    )
  if values.skip_bad_rows:
    for stage in tree.values():
      if isinstance(stage, dict) and "data" in stage:
        stage["data"]["skip_bad_rows"] = True

  workdir, shown = pathlib.Path(values.workdir), console()
  if "base" in tree:
    plan = result_lib.own_pairs(pairs.build(tree), workdir, shown)
  else:
    plan = result.whole(recipe.build(tree), workdir, shown)
  pipeline.run(plan, workdir, shown)


def train(values: flags.FlagValues) -> None:
  """Trains one stage in a workdir, or continues it."""
  from embeddinggemma import cache, distributed

  with distributed.together():
    config = train_config(values)

    alone.train_alone(config, cache.as_folder(values.workdir), console())


def prepare(values: flags.FlagValues) -> None:
  """Makes what training reads, and shows the batches that it will see."""
  config = train_config(values)
  from embeddinggemma.types import BadInput

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


def teach(values: flags.FlagValues) -> None:
  """Writes a teacher's vectors of all texts of a folder of pairs."""
  from embeddinggemma import config
  from embeddinggemma.recipes.whole import finetuning

  finetuning.teach_alone(
    pathlib.Path(values.data),
    config.build(teach_lib.TeachConfig, _config(values)),
    pathlib.Path(values.output),
    console(),
  )


def mine(values: flags.FlagValues) -> None:
  """Finds hard negatives, or says what became of a query's candidates."""
  from embeddinggemma import config
  from embeddinggemma.load import load
  from embeddinggemma.mining.candidates import MiningConfig

  choice = config.build(MiningConfig, _config(values))
  data, output = pathlib.Path(values.data), pathlib.Path(values.output)
  if values.explain is not None:
    print(mine_lib.explain_alone(data, output, values.explain))
    return
  model = load(values.model) if values.model else None
  mine_lib.mine_alone(data, model, choice, output, console())


def mixture(values: flags.FlagValues) -> None:
  """Searches mixtures of tasks to finetune on."""
  from embeddinggemma import config
  from embeddinggemma.cli import library
  from embeddinggemma.recipes.whole import finetuning
  from embeddinggemma.training import stages
  from embeddinggemma.training.config import PairConfig
  from embeddinggemma.types import BadInput

  tree = _config(values)
  if "search" not in tree or "finetune" not in tree:
    raise BadInput("mixture: give --config=configs/mixture.py, or one like it")
  choice = config.build(finetuning.SearchConfig, tree["search"])
  if values.pick is not None:
    choice = dataclasses.replace(choice, pick=values.pick)
  workdir = pathlib.Path(values.workdir)
  base = stages.build(tree["finetune"])
  if not isinstance(base, PairConfig):
    raise BadInput(f"mixture: {base.stage!r} is no training on pairs")
  picked = library.search_mixtures(base, choice, workdir, console())
  if values.json:
    say(picked)


def soup(values: flags.FlagValues) -> None:
  """Averages checkpoints, or walks from one to another."""
  from embeddinggemma import soup as soups
  from embeddinggemma.cli import library
  from embeddinggemma.types import BadInput

  inputs = values.inputs.split(",")
  workdir = pathlib.Path(values.workdir)
  if values.last is not None:
    if len(inputs) != 1 or values.path is not None:
      raise BadInput(
        "soup: --last=N takes the checkpoints of one of --inputs, without"
        " --path"
      )
    inputs = soups.last(pathlib.Path(inputs[0]), values.last)
  if values.path is None:
    if values.data:
      raise BadInput("soup: --data is for --path=N; `evaluate` scores a soup")
    print(soups.soup(inputs, _weights(values.weights), workdir))
    return
  if values.weights is not None:
    raise BadInput("soup: --path and --weights exclude each other")
  if len(inputs) != 2:
    raise BadInput(f"--path goes between two --inputs, not {len(inputs)}")
  data = values.data.split(",") if values.data else []
  base, domain = inputs
  library.soup_path(base, domain, values.path, data, workdir, console())


def compile_(values: flags.FlagValues) -> int:
  """Compiles a stage for TPUs that are not here; 1: it does not fit."""
  from embeddinggemma.aot import examine, page

  found = examine.examine(
    examine.config_of(_config(values), values.stage),
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


def sweep(values: flags.FlagValues) -> int:
  """Runs a config at every point, or prints the commands that do."""
  from embeddinggemma import cache
  from embeddinggemma.sweep import page, points
  from embeddinggemma.sweep import run as runs

  given: Any = values["config"]  # a flag of ml_collections
  file = pathlib.Path(given.config_filename.partition(":")[0])
  found = points.points(values.sweep) if values.sweep else None
  found = points.read_config(file) if found is None else found
  tree = _config(values)
  verb = "run" if _is_recipe(tree) else "train"
  config = f"--config={given.config_filename}"
  fixed = dict(given.override_values)
  _check_points(verb, config, found)
  words = ["-m", "embeddinggemma", verb, config]
  command = points.with_overrides([sys.executable, *words], fixed)
  workdir = pathlib.Path(values.workdir)
  if values.print:
    command = points.with_overrides(["embeddinggemma", verb, config], fixed)
    print("\n".join(points.commands(found, command, workdir)))
    return 0
  results = runs.run(
    found,
    command,
    workdir,
    values.jobs,
    console(),
    values.metric or "",
    cache.key_of(tree),
  )
  return page.exit_code(results)


def _config(values: flags.FlagValues) -> dict[str, Any]:
  return values.config.to_dict()


def _is_recipe(tree: dict[str, Any]) -> bool:
  """Whether a config has several stages: from raw text, or of own pairs."""
  return "prefinetune" in tree or "base" in tree


def train_config(values: flags.FlagValues) -> Any:
  """One stage; of a recipe, its pre-finetuning."""
  from embeddinggemma.training import stages

  tree = _config(values)
  tree = tree.get("prefinetune", tree)
  if values.skip_bad_rows and "data" in tree:
    tree["data"]["skip_bad_rows"] = True
  return stages.build(tree)


def _weights(text: str | None) -> list[float] | None:
  from embeddinggemma.types import BadInput

  try:
    return None if text is None else [float(x) for x in text.split(",")]
  except ValueError:
    raise BadInput(
      f"--weights={text}: give numbers, such as 0.5,0.3,0.2"
    ) from None


def _check_points(
  verb: str, config: str, points: Sequence[dict[str, Any]]
) -> None:
  """Raises BadInput for a key that the config lacks, before any run."""
  from embeddinggemma.sweep.points import with_overrides

  one_each = {tuple(point): point for point in points}
  for point in one_each.values():
    argv = with_overrides([verb, config])(point, pathlib.Path("unused"))
    parse(verb, Verb("", train, *FLAGS), argv[1:])


def _range(text: str) -> tuple[int, int]:
  from embeddinggemma.types import BadInput

  first, colon, last = text.partition(":")
  if not (
    colon and first.isdigit() and last.isdigit() and int(first) < int(last)
  ):
    raise BadInput(f"--show={text}: give FIRST:LAST, such as 0:20")
  return int(first), int(last)
