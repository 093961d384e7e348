"""The recipe: raw text to a model that answers questions, each stage cached.

`run` does what changed and continues what was killed; it ends with
summary.json, report.html and the command that asks the model something.
"""

import dataclasses
import pathlib
import shlex
import shutil
import sys
import time
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
from rich.console import Console

from embeddinggemma import (
  ablation,
  cache,
  finetuning,
  initialise,
  inputs,
  train,
)
from embeddinggemma.cache import Done, Step
from embeddinggemma.evaluate import report
from embeddinggemma.recipe import RecipeConfig, Run, check
from embeddinggemma.steps import steps as steps_of
from embeddinggemma.training import hooks

TRAINED = ("pretrain", "adapt", "prefinetune")


def run(
  recipe: RecipeConfig, workdir: pathlib.Path, console: Console
) -> dict[str, Any]:
  """Runs or continues the recipe; returns what summary.json holds."""
  began = time.perf_counter()
  check(recipe)
  inputs.check_place(recipe.adapt, workdir)
  steps = steps_of(Run(recipe, workdir, console))
  with cache.locked(workdir):
    done: dict[str, Done] = {}
    _print_plan(recipe, workdir, steps, console)
    for name, make in steps.items():
      step = make(done)
      cached = cache.is_done(step, workdir)
      console.rule(name, align="left")
      done[name] = cache.perform(step, workdir)
      note = (
        "done before, nothing changed"
        if cached
        else f"{done[name].seconds:.0f} s"
      )
      console.print(f"{name}: {note}", highlight=False)
    summary = _summary(workdir, done, time.perf_counter() - began)
    cache.write_json(workdir / "summary.json", summary)
  _print_end(summary, workdir, console)
  return summary


def gflops() -> float:
  """This machine's speed at a float32 matrix product, in 0.2 s."""
  a = np.ones((1024, 1024), np.float32)
  a @ a
  began = time.perf_counter()
  for _ in range(4):
    a @ a
  return 4 * 2 * 1.024**3 / (time.perf_counter() - began)


def _print_plan(
  recipe: RecipeConfig,
  workdir: pathlib.Path,
  steps: Mapping[str, Callable[[Mapping[str, Done]], Step]],
  console: Console,
) -> None:
  """A line a stage: done before, or an estimate scaled to this machine.

  A stage without a measured figure (a larger preset) has no estimate.
  """
  slower = recipe.gflops / gflops()
  done: dict[str, Done] = {}
  estimates: list[float | None] = []
  console.print(f"workdir {workdir}", highlight=False, soft_wrap=True)
  for number, (name, make) in enumerate(steps.items()):
    # What a stage depends on is known once those before it are done.
    if len(done) == number and cache.is_done(make(done), workdir):
      done[name] = cache.perform(make(done), workdir)
      console.print(f"  {name:<12} done before", highlight=False)
      continue
    before = cache.read_json(workdir / name / cache.STAGE_FILE).get("seconds")
    measured = recipe.seconds.get(name)
    scaled = None if measured is None else measured * slower
    estimates.append(scaled if before is None else before)
    known = "" if before is None else ", as last time"
    _print_estimate(console, name, estimates[-1], known)
  summed = [estimate for estimate in estimates if estimate is not None]
  whole = sum(summed) if len(summed) == len(estimates) else None
  _print_estimate(console, "in all", whole, "")


def _print_estimate(
  console: Console, name: str, seconds: float | None, note: str
) -> None:
  text = "no estimate" if seconds is None else f"about {seconds:4.0f} s"
  console.print(f"  {name:<12} {text}{note}", highlight=False)


def _summary(
  workdir: pathlib.Path, done: Mapping[str, Done], seconds: float
) -> dict[str, Any]:
  rows = []
  for item in done.values():
    row = dataclasses.asdict(item)
    if item.checkpoint:
      place = workdir.resolve() / item.name / item.checkpoint
      row["checkpoint"] = str(place)
    rows.append(row)
  final = next(row for row in reversed(rows) if row["checkpoint"])
  compared = workdir / "initialise" / initialise.RESULT_FILE
  quality = cache.read_json(workdir / "evaluate" / "quality.json")
  return {
    "stages": rows,
    "final": {k: final[k] for k in ("checkpoint", "hash")}
    | {"metrics": done["evaluate"].metrics},
    "seconds": round(seconds, 2),
    "quality": quality,
    "initialisation": cache.read_json(compared),
    "mixtures": cache.read_json(workdir / "mixture" / finetuning.TRIALS_FILE)
    | {"picked": done["mixture"].metrics["picked"]},
    "souped": cache.read_json(workdir / "evaluate" / "souped.json"),
    "ablation": cache.read_json(workdir / "ablation" / ablation.RESULT_FILE)
    if "ablation" in done
    else {},
    "data_hash": done["tokenizer"].metrics["data_hash"],
    "command": query_command(workdir),
    "versions": train.versions(),
  }


def query_command(workdir: pathlib.Path) -> str:
  """What to type next, by a name that works in this shell."""
  program = pathlib.Path(sys.argv[0])
  if shutil.which("embeddinggemma") or program.name != "embeddinggemma":
    program = pathlib.Path("embeddinggemma")
  elif program.is_relative_to(pathlib.Path.cwd()):
    program = program.relative_to(pathlib.Path.cwd())
  return shlex.join(
    [
      str(program),
      "query",
      f"--model={workdir}",
      f"--index={workdir / 'index'}",
      "how do I parse a date",
    ]
  )


def _print_end(
  summary: Mapping[str, Any], workdir: pathlib.Path, console: Console
) -> None:
  finetunes = sorted((workdir / "finetune").glob(f"*/{hooks.METRICS}"))
  places = {name: workdir / name / hooks.METRICS for name in TRAINED}
  places |= {f"finetune {path.parent.name}": path for path in finetunes}
  curves = {name: hooks.read_metrics(path) for name, path in places.items()}
  quality = summary["quality"].get("test", {})
  shown = {**summary, "quality": quality, "curves": curves}
  report.write_report(workdir / "report.html", shown)
  console.rule("result", align="left")
  console.print(report.terminal_table(shown))
  console.print(
    f"report  {workdir / 'report.html'}", highlight=False, soft_wrap=True
  )
  console.print(
    f"ask it  {summary['command']}",
    highlight=False,
    soft_wrap=True,
    markup=False,
  )
