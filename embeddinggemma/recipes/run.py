"""A recipe run: stages in their order, each cached; a plan before, a page after.

`run` does what changed and continues what was killed. What is particular to a
recipe is its `Plan`; `whole` is that of raw text to a model that answers.
"""

import dataclasses
import pathlib
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
from rich.console import Console

from embeddinggemma import cache
from embeddinggemma.cache import Done, Step
from embeddinggemma.training import workdir as record


@dataclasses.dataclass(frozen=True)
class Plan:
  """A recipe in a workdir: its stages, and what becomes of their results."""

  steps: Mapping[str, Callable[[Mapping[str, Done]], Step]]
  # The stages' results, and whether each is new -> what summary.json holds
  # besides stages, seconds and versions; "final" and "command" among it.
  summary: Callable[[Mapping[str, Done]], dict[str, Any]]
  # What is printed, and added to the page, of a summary.
  show: Callable[[Mapping[str, Any]], None]
  about: Sequence[str] = ()  # lines that stand before the plan
  seconds: Mapping[str, float] = dataclasses.field(default_factory=dict)
  gflops: float = 0.0  # of the machine that these were measured on


def run(plan: Plan, workdir: pathlib.Path, console: Console) -> dict[str, Any]:
  """Runs or continues a recipe; returns what summary.json holds."""
  began = time.perf_counter()
  with cache.locked(workdir):
    done: dict[str, Done] = {}
    _print_plan(plan, workdir, console)
    for name, make in plan.steps.items():
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
    summary = {
      "stages": _rows(workdir, done),
      "seconds": round(time.perf_counter() - began, 2),
      **plan.summary(done),
      "versions": record.versions(),
    }
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


def gflops() -> float:
  """This machine's speed at a float32 matrix product, in 0.2 s."""
  a = np.ones((1024, 1024), np.float32)
  a @ a
  began = time.perf_counter()
  for _ in range(4):
    a @ a
  return 4 * 2 * 1.024**3 / (time.perf_counter() - began)


def _print_plan(plan: Plan, workdir: pathlib.Path, console: Console) -> None:
  """A line a stage: done before, or an estimate scaled to this machine.

  A stage without a measured figure (a larger preset) has no estimate.
  """
  slower = plan.gflops / gflops() if plan.gflops else 1.0
  done: dict[str, Done] = {}
  estimates: list[float | None] = []
  console.print(f"workdir {workdir}", highlight=False, soft_wrap=True)
  for line in plan.about:
    console.print(line, highlight=False, soft_wrap=True, markup=False)
  for number, (name, make) in enumerate(plan.steps.items()):
    # What a stage depends on is known once those before it are done.
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
  """The stages as summary.json has them, with absolute paths."""
  rows = []
  for item in done.values():
    row = dataclasses.asdict(item)
    row["checkpoint"] = cache.checkpoint_of(workdir, item)
    rows.append(row)
  return rows
