"""`evaluate --mteb`: tasks of the mteb package, scored by mteb itself."""

from absl import flags

from embeddinggemma import cache
from embeddinggemma.cli.flags import console, file_of, folder_of
from embeddinggemma.evaluation.mteb_suite import about, names, running, scores
from embeddinggemma.loading import load
from embeddinggemma.types import BadInput

_OURS = ("cache", "hybrid", "titles")  # flags that need --mteb
_OTHERS = ("data", "fields")  # and those that it excludes


def evaluate(values: flags.FlagValues) -> int:
  """Score a model on tasks of mteb; returns 1 if one of them failed."""
  for flag in _OTHERS:
    if values[flag].value is not None:
      raise BadInput(
        f"evaluate: --mteb and --{flag} exclude each other; mteb has its own"
        " data"
      )
  output, shown = file_of(values.output), console()
  results = folder_of(values.cache, "--cache") if values.cache else None
  tasks = names.tasks_of(values.mteb)
  setup = about.Setup(
    values.dim,
    about.OWN if values.titles else about.JOINED,
    about.HYBRID if values.hybrid else about.DENSE,
  )
  model = load(values.model, precision=values.precision)
  found = running.evaluate(model, tasks, setup, results, shown)
  output.parent.mkdir(parents=True, exist_ok=True)
  cache.write_json(output, {"suite": values.mteb, **found})
  shown.print(scores.table(found))
  lines = [
    f"note: {name}: {'; '.join(row['notes'])}"
    for name, row in found["tasks"].items()
    if row["notes"]
  ]
  lines += [f"failed: {name}: {why}" for name, why in found["failed"].items()]
  lines.append(f"mteb's results: {found['mteb']['results']}")
  for line in lines:
    shown.print(line, highlight=False, markup=False, soft_wrap=True)
  return 1 if found["failed"] else 0


def require_none(values: flags.FlagValues) -> None:
  """Raise BadInput for a flag that counts with --mteb alone."""
  for flag in _OURS:
    if values[flag].value:
      raise BadInput(f"evaluate: --{flag} needs --mteb")
