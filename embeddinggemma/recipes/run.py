"""Run a recipe: its tasks in order, each cached.

A run starts with a plan of what is still to do and ends with a summary and a
page. It repeats only tasks whose inputs changed and continues one that was
killed. What differs between recipes is in their `Plan`.
"""

import dataclasses
import pathlib
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
from rich.console import Console

from embeddinggemma import cache
from embeddinggemma.cache import Done, Task
from embeddinggemma.evaluation.long_context import run as long_context
from embeddinggemma.training import workdir as workdir_lib


@dataclasses.dataclass(frozen=True)
class Plan:
  """A recipe in a workdir: its tasks, and what becomes of their results."""

  tasks: Mapping[str, Callable[[Mapping[str, Done]], Task]]
  # The tasks' results, by name -> what summary.json holds besides stages,
  # seconds and versions: "final" and "command", the next one to type, too.
  summary: Callable[[Mapping[str, Done]], dict[str, Any]]
  # Writes the page of a summary and prints its tables.
  show: Callable[[Mapping[str, Any]], None]
  about: Sequence[str] = ()  # lines printed before the plan
  # Measured seconds by task, and GFLOP/s of the machine that took them.
  seconds: Mapping[str, float] = dataclasses.field(default_factory=dict)
  gflops: float = 0.0


def run(plan: Plan, workdir: pathlib.Path, console: Console) -> dict[str, Any]:
  """Run or continue a recipe; returns what it writes to summary.json."""
  began = time.perf_counter()
  with cache.locked(workdir):
    done: dict[str, Done] = {}
    _print_plan(plan, workdir, console)
    for name, make in plan.tasks.items():
      task = make(done)
      cached = cache.is_done(task, workdir)
      console.rule(name, align="left")
      done[name] = cache.perform(task, workdir)
      note = _known(task, done[name])
      note = note if cached else f"{done[name].seconds:.0f} s"
      console.print(f"{name}: {note}", highlight=False)
    summary: dict[str, Any] = {
      "stages": _rows(workdir, done),
      "seconds": round(time.perf_counter() - began, 2),
      **plan.summary(done),
      "versions": workdir_lib.versions(),
    }
    summary |= _lengths(workdir, summary["final"]["hash"])
    cache.write_json(workdir / "summary.json", summary)
  console.rule("result", align="left")
  plan.show(summary)
  for name, said in (
    ("report", workdir / "report.html"),
    ("ask it", summary["command"]),
  ):
    console.print(
      f"{name}  {said}", highlight=False, soft_wrap=True, markup=False
    )
  return summary


def _lengths(workdir: pathlib.Path, weights: str) -> dict[str, Any]:
  """What `evaluate --suite=long` left in a workdir, of the final weights."""
  try:
    left = cache.read_json(workdir / long_context.FILE)
    found = left.get(long_context.FOUND) or {}
    return {long_context.FOUND: found} if found["weights"] == weights else {}
  except (ValueError, KeyError, TypeError, AttributeError):
    return {}  # a file of somebody else's


def _known(task: Task, done: Done) -> str:
  """What is known of a task that was done before."""
  if done.key == cache.key_of(task.inputs):
    return "done before, nothing changed"
  return (
    "done before, by a version that recorded only the weights of the base; its"
    " tokenizer, prompts and lengths cannot be compared"
  )


def gflops() -> float:
  """This machine's GFLOP/s in a float32 matrix product, measured in 0.2 s."""
  a = np.ones((1024, 1024), np.float32)
  a @ a
  began = time.perf_counter()
  for _ in range(4):
    a @ a
  return 4 * 2 * 1.024**3 / (time.perf_counter() - began)


def _print_plan(plan: Plan, workdir: pathlib.Path, console: Console) -> None:
  """Print a line per task: done before, or its time scaled to this machine.

  A task without a measured time (as with a larger preset) has no estimate.
  """
  slower = plan.gflops / gflops() if plan.gflops else 1.0
  done: dict[str, Done] = {}
  estimates: list[float | None] = []
  console.print(f"workdir {workdir}", highlight=False, soft_wrap=True)
  for line in plan.about:
    console.print(line, highlight=False, soft_wrap=True, markup=False)
  for number, (name, make) in enumerate(plan.tasks.items()):
    # What a task depends on is known once those before it are done.
    if len(done) == number and cache.is_done(make(done), workdir):
      done[name] = cache.perform(make(done), workdir)
      console.print(f"  {name:<12} done before", highlight=False)
      continue
    before = cache.read_json(workdir / name / cache.STAGE_FILE).get("seconds")
    measured = plan.seconds.get(name)
    scaled = None if measured is None else measured * slower
    estimates.append(scaled if before is None else before)
    known = "" if before is None else ", as last time"
    _print_estimate(console, name, estimates[-1], known)
  if not plan.seconds:
    return
  summed = [estimate for estimate in estimates if estimate is not None]
  whole = sum(summed) if len(summed) == len(estimates) else None
  _print_estimate(console, "in all", whole, "")


def _print_estimate(
  console: Console, name: str, seconds: float | None, note: str
) -> None:
  text = "no estimate" if seconds is None else f"about {seconds:4.0f} s"
  console.print(f"  {name:<12} {text}{note}", highlight=False)


def _rows(
  workdir: pathlib.Path, done: Mapping[str, Done]
) -> list[dict[str, Any]]:
  """The tasks as rows of summary.json, with absolute paths of checkpoints."""
  rows = []
  for item in done.values():
    row = dataclasses.asdict(item)
    row["checkpoint"] = cache.checkpoint_of(workdir, item)
    rows.append(row)
  return rows
