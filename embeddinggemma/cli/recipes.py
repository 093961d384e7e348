"""The verb `run`: a recipe."""

from absl import flags

from embeddinggemma.cli.flags import (
  console,
  folder_of,
  is_recipe,
  tree_of,
  with_data,
)
from embeddinggemma.recipes import pairs, student, whole
from embeddinggemma.recipes import run as recipes
from embeddinggemma.types import BadInput


def run(values: flags.FlagValues) -> None:
  """Run or continue a recipe."""
  tree = tree_of(values)
  if not is_recipe(tree):
    raise BadInput(
      "run: --config is no recipe; give configs/recipe.py, or use"
      " `train` for one stage"
    )
  for stage in tree.values():
    if isinstance(stage, dict):
      with_data(values, stage)
  workdir, shown = folder_of(values.workdir), console()
  if "distil" in tree:
    plan = student.plan(student.build(tree), workdir, shown)
  elif "base" in tree:
    plan = pairs.plan(pairs.build(tree), workdir, shown)
  else:
    plan = whole.plan(whole.build(tree), workdir, shown)
  recipes.run(plan, workdir, shown)
