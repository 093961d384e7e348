"""The verb `sweep`: one config at many points, each a process of its own."""

import pathlib
import sys
from typing import Any

from absl import flags

from embeddinggemma import cache
from embeddinggemma.cli import verbs
from embeddinggemma.cli.flags import console, is_recipe, parse, tree_of
from embeddinggemma.sweep import points, table
from embeddinggemma.sweep import run as runs


def sweep(values: flags.FlagValues) -> int:
  """Run a config at every point of a sweep, or print the commands that do."""
  given: Any = values["config"]  # a flag of ml_collections
  file = pathlib.Path(given.config_filename.partition(":")[0])
  found = points.points(values.sweep) if values.sweep else None
  found = points.read_config(file) if found is None else found
  tree = tree_of(values)
  verb = "run" if is_recipe(tree) else "train"
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
  cache.require_place(workdir, folder=True)
  results = runs.run(
    found,
    command,
    workdir,
    values.jobs,
    console(),
    values.metric or "",
    cache.key_of(tree),
  )
  return table.exit_code(results)
