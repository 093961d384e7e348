"""The plan, summary and page of a run on own pairs."""

import pathlib
from collections.abc import Mapping
from typing import Any

from rich.console import Console

from embeddinggemma import cache
from embeddinggemma.cache import Done
from embeddinggemma.data import corpus
from embeddinggemma.recipes import index
from embeddinggemma.recipes.own import choice, scores
from embeddinggemma.recipes.pairs.config import PairsConfig, about
from embeddinggemma.recipes.pairs.tasks import Run, tasks
from embeddinggemma.recipes.run import Plan
from embeddinggemma.report import forgetting, report
from embeddinggemma.training import hooks, inputs
from embeddinggemma.training.workdir import SCORES_FILE
from embeddinggemma.types import IDENTITY

FORECAST = ("before", "finetune", "choose", "index")  # tasks it covers
_QUESTION = 60  # characters of a suggested query, at most


def plan(config: PairsConfig, workdir: pathlib.Path, console: Console) -> Plan:
  """The plan of a run on own pairs.

  Raises BadInput for what would make a task fail whatever the data.
  """
  run = Run(config, workdir, console)
  return Plan(
    tasks(run),
    lambda done: summary(run, done),
    lambda found: show(found, run),
    about(config),
  )


def summary(run: Run, done: Mapping[str, Done]) -> dict[str, Any]:
  """What summary.json holds besides the rows of the tasks."""
  chosen = done["choose"].result(choice.Choice)
  of = lambda name: cache.read_json(run.workdir / name / SCORES_FILE)
  took = {name: done[name].seconds for name in FORECAST}
  # Steps before a kill are in the log, but not in the task's seconds.
  rows = hooks.read_metrics(run.workdir / "finetune" / hooks.METRICS)
  took["finetune"] = max(took["finetune"], sum(row["seconds"] for row in rows))
  after = of("choose")
  return {
    "final": {
      "checkpoint": str(run.workdir.resolve() / chosen.place),
      "hash": done["choose"].hash,
      "metrics": scores.means(after),
    },
    "base": {
      "path": run.config.base,
      "hash": run.config.base_hash,
      IDENTITY: run.config.base_identity,
    },
    "forgetting": {
      "before": of("before"),
      "after": after,
      "points": chosen.points,
      "chosen": chosen.chosen,
      "reason": chosen.reason,
    },
    "forecast": {**done["forecast"].metrics, "took": sum(took.values())},
    "data_hash": done["inputs"].result(inputs.Corpus).data_hash,
    "command": index.query_command(run.workdir, _question(run)),
  }


def _question(run: Run) -> str:
  """A query of the user's pairs to suggest, a held-out one if there is any."""
  own = run.suites.get(scores.TEST) or run.suites.get(scores.VALIDATION)
  if own:
    text = own[0].queries[0]
  else:
    text = corpus.read_train(run.made.corpus)[0].query
  return text.strip().splitlines()[0][:_QUESTION].strip()


def show(found: Mapping[str, Any], run: Run) -> None:
  """Write report.html and print the tables of a summary."""
  console = run.console
  metrics = run.workdir / "finetune" / hooks.METRICS
  curves = {"finetune": hooks.read_metrics(metrics)}
  report.write_report(run.workdir / "report.html", {**found, "curves": curves})
  for table in forgetting.tables(found["forgetting"]):
    console.print(table)
  lines = [
    forgetting.verdict(found["forgetting"]),
    forgetting.forecast(found["forecast"]),
    f"result  {found['final']['checkpoint']}  weights"
    f" {found['final']['hash'][:12]}",
  ]
  for line in lines:
    console.print(line, highlight=False, soft_wrap=True, markup=False)
