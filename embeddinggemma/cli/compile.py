"""The verb `compile`: a stage for TPUs that are not here."""

from absl import flags

from embeddinggemma.aot import examine, printed
from embeddinggemma.cli.flags import say, show, tree_of


def compile_(values: flags.FlagValues) -> int:
  """Compile a stage for absent TPUs; returns 1 if it does not fit."""
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
    show(*printed.as_page(found).splitlines())
  return 0 if found["fits"] else 1
