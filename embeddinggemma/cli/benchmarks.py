"""`evaluate --mteb`: tasks of the mteb package, scored by mteb itself."""

from collections.abc import Mapping
from typing import Any

from absl import flags

from embeddinggemma.cli.flags import folder_of
from embeddinggemma.evaluation.mteb_suite import about, names, running, scores
from embeddinggemma.evaluation.published import compare
from embeddinggemma.evaluation.published import scores as published
from embeddinggemma.loading import load
from embeddinggemma.report import prompting
from embeddinggemma.terminal.console import Terminal

OF_MTEB = ("cache", "hybrid", "titles")  # flags that need --mteb
# Flags that it excludes, and why.
WITHOUT_MTEB = {
  "data": "mteb has its own data",
  "fields": "mteb has its own data",
  "prompts": "what prompts are worth is asked of --data",
}


def score(
  values: flags.FlagValues, result: dict[str, Any], shown: Terminal
) -> None:
  """Put a model's scores on tasks of mteb into `result`."""
  results = folder_of(values.cache, "--cache") if values.cache else None
  tasks = names.tasks_of(values.mteb)
  if values.compare:
    given = [task.metadata.name for task in tasks]
    given = [published.OF_MTEB.get(name, name) for name in given]
    compare.require_tasks(given, f"--mteb={values.mteb}", values.mteb)
  setup = about.Setup(
    values.dim,
    about.OWN if values.titles else about.JOINED,
    about.HYBRID if values.hybrid else about.DENSE,
  )
  model = load(values.model, precision=values.precision)
  found = running.evaluate(model, tasks, setup, results, shown)
  result |= {"suite": values.mteb, **found}


def show(result: Mapping[str, Any], shown: Terminal) -> None:
  """Print what mteb found."""
  rows = result["tasks"]
  shown.print(scores.table(result))
  if rows:
    prompts = {n: published.by_side(row["prompts"]) for n, row in rows.items()}
    shown.print(prompting.used({n: p or {} for n, p in prompts.items()}))
  lines = [
    f"note: {name}: {'; '.join(row['notes'])}"
    for name, row in rows.items()
    if row["notes"]
  ]
  lines += [f"failed: {name}: {why}" for name, why in result["failed"].items()]
  lines.append(f"mteb's results: {result['mteb']['results']}")
  for line in lines:
    shown.print(line)
