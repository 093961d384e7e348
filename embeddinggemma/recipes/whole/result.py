"""The plan, summary and page of the whole recipe."""

import dataclasses
import pathlib
from collections.abc import Mapping
from typing import Any

from rich.console import Console

from embeddinggemma import cache
from embeddinggemma.cache import Done
from embeddinggemma.recipes import export, index
from embeddinggemma.recipes.run import Plan
from embeddinggemma.recipes.whole import (
  ablation,
  finetuning,
  initialise,
  qat,
  scoring,
)
from embeddinggemma.recipes.whole import config as recipe
from embeddinggemma.recipes.whole import tasks as tasks_lib
from embeddinggemma.recipes.whole.config import RecipeConfig
from embeddinggemma.report import report
from embeddinggemma.training import hooks, inputs, prepare

TRAINED = ("pretrain", "adapt", "prefinetune")
QUESTION = "how do I parse a date"


def plan(config: RecipeConfig, workdir: pathlib.Path, console: Console) -> Plan:
  """The plan of the whole recipe; BadInput for what no data can mend."""
  recipe.check(config)
  prepare.check_place(config.adapt, workdir)
  return Plan(
    tasks_lib.tasks(recipe.Run(config, workdir, console)),
    lambda done: _summary(workdir, done),
    lambda summary: _show(summary, workdir, console),
    seconds=config.seconds,
    gflops=config.gflops,
  )


def _summary(workdir: pathlib.Path, done: Mapping[str, Done]) -> dict[str, Any]:
  final = done["soup"]
  compared = workdir / "initialise" / initialise.RESULT_FILE
  scores = {
    name: cache.read_json(workdir / "evaluate" / file)
    for name, file in scoring.FILES.items()
  }
  return {
    "final": {
      "checkpoint": cache.checkpoint_of(workdir, final),
      "hash": final.hash,
      "metrics": done["evaluate"].metrics,
    },
    **scores,
    "initialisation": cache.read_json(compared),
    "mixtures": cache.read_json(workdir / "mixture" / finetuning.TRIALS_FILE)
    | {"picked": done["mixture"].result(finetuning.Mixtures).picked},
    "quantised": _quantised(workdir, done),
    "ablation": cache.read_json(workdir / "ablation" / ablation.RESULT_FILE)
    if "ablation" in done
    else {},
    "exports": done["export"].result(export.Exported).exports,
    "data_hash": done["tokenizer"].result(inputs.Corpus).data_hash,
    "command": index.query_command(workdir, QUESTION),
  }


def _quantised(
  workdir: pathlib.Path, done: Mapping[str, Done]
) -> dict[str, Any]:
  """Spec -> the checkpoint and hash of the model that was trained for it."""
  if "qat" not in done:
    return {}
  stage = done["qat"]
  place = lambda row: dataclasses.replace(stage, checkpoint=row["checkpoint"])
  return {
    spec: {
      "checkpoint": cache.checkpoint_of(workdir, place(row)),
      "hash": row["hash"],
    }
    for spec, row in stage.result(qat.Trained).models.items()
  }


def _show(
  summary: Mapping[str, Any], workdir: pathlib.Path, console: Console
) -> None:
  finetunes = sorted((workdir / "finetune").glob(f"*/{hooks.METRICS}"))
  places = {name: workdir / name / hooks.METRICS for name in TRAINED}
  places |= {f"finetune {path.parent.name}": path for path in finetunes}
  curves = {name: hooks.read_metrics(path) for name, path in places.items()}
  quality = summary["quality"].get("test", {})
  shown = {**summary, "quality": quality, "curves": curves}
  report.write_report(workdir / "report.html", shown)
  console.print(report.terminal_table(shown))
