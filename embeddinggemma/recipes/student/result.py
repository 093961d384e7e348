"""The plan, summary and page of a run that makes a student."""

import pathlib
from collections.abc import Mapping
from typing import Any

from rich.console import Console

from embeddinggemma import cache
from embeddinggemma.cache import Done
from embeddinggemma.mining import teacher
from embeddinggemma.recipes import export, index, shared
from embeddinggemma.recipes.own import choice, scores
from embeddinggemma.recipes.run import Plan
from embeddinggemma.recipes.student import compare, texts
from embeddinggemma.recipes.student import tasks as tasks_lib
from embeddinggemma.recipes.student.config import STAGES, StudentConfig, about
from embeddinggemma.recipes.student.tasks import INT4, Run
from embeddinggemma.report import report, students
from embeddinggemma.training import hooks
from embeddinggemma.types import IDENTITY

# What the forecast covers.
FORECAST = ("teach", "head", *STAGES, "choose", "evaluate", "index")
_QUESTION = 60  # characters of a suggested query, at most
_FLOAT = 4  # bytes of a weight in a checkpoint


def plan(
  config: StudentConfig, workdir: pathlib.Path, console: Console
) -> Plan:
  """The plan of a run that makes a student.

  Raises BadInput for what would make a task fail whatever the data.
  """
  shared.require_own(workdir, tasks_lib.TASKS)
  run = Run(config, workdir, console)
  return Plan(
    tasks_lib.tasks(run),
    lambda done: summary(run, done),
    lambda found: show(found, run),
    about(config),
  )


def summary(run: Run, done: Mapping[str, Done]) -> dict[str, Any]:
  """What summary.json holds besides the rows of the tasks."""
  final, exports = done["qat"], done["export"].result(export.Exported).exports
  found = done["evaluate"].metrics
  place, digest = tasks_lib.models(run, done)["student"]
  took = {name: done[name].seconds for name in FORECAST if name in done}
  return {
    "final": {
      "checkpoint": cache.checkpoint_of(run.workdir, final),
      "hash": final.hash,
      "metrics": found[INT4],
    },
    "float": {"checkpoint": str(pathlib.Path(place).resolve()), "hash": digest},
    "base": {
      "path": run.config.base,
      "hash": run.config.base_hash,
      IDENTITY: run.config.base_identity,
    },
    "students": {
      "rows": rows(run, done),
      "own": "overlap" if run.config.kind == texts.TEXTS else scores.TEST,
      "base": compare.BASE,
      "chosen": _chosen(done),
      "teacher": _teacher(run),
    },
    "exports": [
      {**row, "place": str((run.workdir / "export").resolve() / row["place"])}
      for row in exports
    ],
    "cut": done["shrink"].result(tasks_lib.Cut)._asdict(),
    "forecast": {
      "seconds": done["forecast"].metrics["whole"],
      "took": sum(took.values()),
      "tasks": took,
    },
    "data_hash": done["inputs"].result(texts.Own).data_hash,
    "command": index.query_command(run.workdir, _question(run)),
  }


def rows(run: Run, done: Mapping[str, Done]) -> list[dict[str, Any]]:
  """A row for each model: its name, bytes, timing and figures."""
  cut = done["shrink"].result(tasks_lib.Cut)
  timed = done["time"].metrics if "time" in done else {}
  packed = [
    row["bytes"]
    for row in done["export"].result(export.Exported).exports
    if row["model"] == INT4
  ]
  size = dict.fromkeys(done["evaluate"].metrics, _FLOAT * cut.parameters)
  size |= {compare.BASE: _FLOAT * cut.before}
  size[INT4] = min(packed, default=0)  # 0: in no file of four bits
  return [
    {
      "name": name,
      "bytes": size[name],
      "figures": figures,
      "timing": timed.get(name, {}),
    }
    for name, figures in done["evaluate"].metrics.items()
  ]


def _teacher(run: Run) -> str:
  """Who taught the student, unless the base did."""
  if run.config.itself:
    return ""
  about = teacher.open_vectors(run.vectors).about
  return str(about.get("origin", {}).get("name", run.config.teach.teacher))


def _chosen(done: Mapping[str, Done]) -> str:
  """Which candidate is the student, and why, as a sentence; "" of one alone."""
  if "choose" not in done:
    return ""
  found = done["choose"].result(choice.Choice)
  return f"student: {found.chosen} ({found.reason})."


def _question(run: Run) -> str:
  """A query to suggest, a held-out one if there is any."""
  own = run.suites.get(scores.TEST) or run.suites.get(scores.VALIDATION)
  text = own[0].queries[0] if own else run.pairs[0].query
  return text.strip().splitlines()[0][:_QUESTION].strip()


def show(found: Mapping[str, Any], run: Run) -> None:
  """Write report.html and print the tables of a summary."""
  curves = {
    name: hooks.read_metrics(run.workdir / name / hooks.METRICS)
    for name in STAGES
    if (run.workdir / name / hooks.METRICS).is_file()
  }
  report.write_report(run.workdir / "report.html", {**found, "curves": curves})
  for table in students.tables(found["students"]):
    run.console.print(table)
  for line in (
    *filter(None, (found["students"]["chosen"],)),
    students.verdict(found["students"]),
    students.forecast(found["forecast"]),
    f"result  {found['final']['checkpoint']}  weights"
    f" {found['final']['hash'][:12]}",
    *(f"export  {row['place']}  {row['verdict']}" for row in found["exports"]),
  ):
    run.say(line)
