"""The verbs `run` and `sweep`: recipes, and a config at many points."""

import pathlib
import sys
from typing import Any

from absl import flags

from embeddinggemma import cache
from embeddinggemma.cli import verbs
from embeddinggemma.cli.flags import console, parse, tree_of
from embeddinggemma.recipes import pairs, whole
from embeddinggemma.recipes import run as recipes
from embeddinggemma.sweep import page, points
from embeddinggemma.sweep import run as runs
from embeddinggemma.types import BadInput


def run(values: flags.FlagValues) -> None:
  """Runs or continues a recipe."""
  tree = tree_of(values)
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
    plan = pairs.plan(pairs.build(tree), workdir, shown)
  else:
    plan = whole.plan(whole.build(tree), workdir, shown)
  recipes.run(plan, workdir, shown)


def sweep(values: flags.FlagValues) -> int:
  """Runs a config at every point, or prints the commands that do."""
  given: Any = values["config"]  # a flag of ml_collections
  file = pathlib.Path(given.config_filename.partition(":")[0])
  found = points.points(values.sweep) if values.sweep else None
  found = points.read_config(file) if found is None else found
  tree = tree_of(values)
  verb = "run" if _is_recipe(tree) else "train"
  config = f"--config={given.config_filename}"
  fixed = dict(given.override_values)
  for point in {tuple(point): point for point in found}.values():
    # A key that the config lacks is refused before any run.
    argv = points.with_overrides([verb, config])(point, pathlib.Path("unused"))
    parse(verb, verbs.VERBS[verb], argv[1:])
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


def _is_recipe(tree: dict[str, Any]) -> bool:
  """Whether a config has several stages: from raw text, or of own pairs."""
  return "prefinetune" in tree or "base" in tree
