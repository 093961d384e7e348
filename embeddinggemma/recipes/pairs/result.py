"""What a run on own pairs leaves: summary, page, and what is printed."""

import pathlib
from collections.abc import Mapping
from typing import Any

from rich.console import Console

from embeddinggemma import cache
from embeddinggemma.cache import Done
from embeddinggemma.data import corpus
from embeddinggemma.recipes import index
from embeddinggemma.recipes.pairs import scores
from embeddinggemma.recipes.pairs.config import PairsConfig, about
from embeddinggemma.recipes.pairs.stages import SCORES_FILE, Run, steps
from embeddinggemma.recipes.run import Plan
from embeddinggemma.report import forgetting, report
from embeddinggemma.training import hooks

FORECAST = ("before", "finetune", "choose", "index")  # what it is of
_QUESTION = 60  # characters


def plan(config: PairsConfig, workdir: pathlib.Path, console: Console) -> Plan:
  """A model tuned on the user's pairs; fails on what no data can mend."""
  run = Run(config, workdir, console)
  return Plan(
    steps(run),
    lambda done: summary(run, done),
    lambda found: show(found, run),
    about(config),
  )


def summary(run: Run, done: Mapping[str, Done]) -> dict[str, Any]:
  """What summary.json holds besides the stages."""
  chosen = done["choose"]
  of = lambda name: cache.read_json(run.workdir / name / SCORES_FILE)
  took = {name: done[name].seconds for name in FORECAST}
  # What a kill ended has its steps in the log, not in the stage's seconds.
  rows = hooks.read_metrics(run.workdir / "finetune" / hooks.METRICS)
  took["finetune"] = max(took["finetune"], sum(row["seconds"] for row in rows))
  after = of("choose")
  return {
    "final": {
      "checkpoint": str(run.workdir.resolve() / chosen.metrics["place"]),
      "hash": chosen.hash,
      "metrics": scores.means(after),
    },
    "base": {"path": run.config.base, "hash": run.config.base_hash},
    "forgetting": {
      "before": of("before"),
      "after": after,
      "points": chosen.metrics["points"],
      "chosen": chosen.metrics["chosen"],
      "reason": chosen.metrics["reason"],
    },
    "forecast": {**done["forecast"].metrics, "took": sum(took.values())},
    "data_hash": done["inputs"].metrics["data_hash"],
    "command": index.query_command(run.workdir, _question(run)),
  }


def _question(run: Run) -> str:
  """A query of the user's own, held out where there are such."""
  own = run.suites.get(scores.TEST) or run.suites.get(scores.VALIDATION)
  if own:
    text = own[0].queries[0]
  else:
    text = corpus.read_train(run.made.corpus)[0].query
  return text.strip().splitlines()[0][:_QUESTION].strip()


def show(found: Mapping[str, Any], run: Run) -> None:
  """Writes report.html and prints the tables of a summary."""
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
