"""The choice of where contrastive training starts from (paper section 4.3).

Every candidate gets the same first steps of the very pre-finetuning that is to
come, which then continues from the winner's. Scores on validation decide.
"""

import dataclasses
import pathlib
import statistics
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from rich.console import Console

from embeddinggemma import cache
from embeddinggemma.config import at_least, suggest
from embeddinggemma.evaluation import suite
from embeddinggemma.evaluation.suite import SIDES
from embeddinggemma.loading import load
from embeddinggemma.report.starts import STARTS
from embeddinggemma.training import run
from embeddinggemma.training.inputs import Inputs
from embeddinggemma.training.stages.pairs import PairConfig
from embeddinggemma.training.workdir import SCORES_FILE
from embeddinggemma.types import BadInput

RESULT_FILE = "initialisation.json"


class Chosen(NamedTuple):
  """The start that was chosen, and every candidate's median score."""

  chosen: str
  median: dict[str, float]


@dataclasses.dataclass(frozen=True)
class InitialiseConfig:
  """Which starts are compared, and how."""

  inits: tuple[str, ...]  # starts, names of STARTS
  seeds: tuple[int, ...]  # of contrastive training
  steps: int  # of pre-finetuning, after which they are compared
  tasks: tuple[str, ...]  # held-out tasks that decide; if there is none: all

  def __post_init__(self) -> None:
    at_least("initialise.steps", self.steps, 1)
    for name in self.inits:
      if name not in STARTS:
        raise BadInput(
          f"initialise.inits: unknown {name!r}{suggest(name, list(STARTS))}"
        )
    for name in ("inits", "seeds"):
      if not getattr(self, name):
        raise BadInput(f"initialise.{name} is empty; give at least one")


def start_from(
  config: PairConfig, name: str, parents: Mapping[str, pathlib.Path]
) -> PairConfig:
  """The pre-finetuning's config with another start.

  `parents` are the workdirs of starts that a stage trained.
  """
  if name in parents:
    return dataclasses.replace(config, init_from=str(parents[name]))
  return dataclasses.replace(config, init=name, init_from="")


def trial(directory: pathlib.Path, name: str, seed: int) -> pathlib.Path:
  """The workdir of one candidate."""
  return directory / f"{name}-{seed}"


def compare(
  config: PairConfig,
  choice: InitialiseConfig,
  parents: Mapping[str, pathlib.Path],
  made: Inputs,
  directory: pathlib.Path,
  console: Console,
) -> Chosen:
  """Train and score every candidate with every seed, and choose one.

  It writes initialisation.json: {"metric", "task", "steps", "of", "chosen",
  "rows": [{"init", "seed", "validation", "test"}]}; the score of a side without
  texts is None.
  """
  tasks = {side: _tasks(made.corpus, side, choice.tasks) for side in SIDES}
  rows, metric = [], ""
  for seed in choice.seeds:
    for name in choice.inits:
      workdir = trial(directory, name, seed)
      scores = cache.read_json(workdir / SCORES_FILE)
      if not scores:
        start = dataclasses.replace(
          start_from(config, name, parents), seed=seed
        )
        run.train(start, made, workdir, console, until=choice.steps)
        scores = _scores(workdir, config, tasks)
        cache.write_json(workdir / SCORES_FILE, scores)
      metric = scores["metric"]
      rows.append({"init": name, "seed": seed, **scores["sides"]})
      said = ", ".join(f"{k} {v:.3f}" for k, v in scores["sides"].items() if v)
      console.print(f"{name}, seed {seed}: {said}", highlight=False)
  result = {
    "metric": metric,
    "task": ", ".join(task.name for task in tasks["validation"]),
    "steps": min(choice.steps, config.steps),
    "of": config.steps,
    "chosen": choose(rows, choice.inits),
    "rows": rows,
  }
  cache.write_json(directory / RESULT_FILE, result)
  console.print(f"starts from: {result['chosen']}", highlight=False)
  return Chosen(result["chosen"], medians(rows))


def choose(rows: Sequence[Mapping[str, Any]], inits: Sequence[str]) -> str:
  """The start with the best median on validation; without one, the last."""
  found = medians(rows)
  return max(found, key=lambda name: found[name]) if found else inits[-1]


def medians(rows: Sequence[Mapping[str, Any]]) -> dict[str, float]:
  """Start -> its median score over seeds, on validation."""
  by_init: dict[str, list[float]] = {}
  for row in rows:
    if row["validation"] is not None:
      by_init.setdefault(row["init"], []).append(row["validation"])
  return {name: statistics.median(found) for name, found in by_init.items()}


def _tasks(
  corpus: pathlib.Path, side: str, names: Sequence[str]
) -> Sequence[suite.EvalTask]:
  tasks = suite.held_out(corpus, side)
  return [task for task in tasks if task.name in names] or tasks


def _scores(
  workdir: pathlib.Path,
  config: PairConfig,
  tasks: Mapping[str, Sequence[suite.EvalTask]],
) -> dict[str, Any]:
  """The mean of the tasks' main metrics on each side, computed once."""
  model = load(workdir)
  metric, sides = "", dict.fromkeys(SIDES)
  for side, held_out in tasks.items():
    if held_out:
      dim = config.model.embed_dim
      found = suite.evaluate(model, held_out, [dim])
      sides[side] = found["mean_task"][str(dim)]
      names = set(found["main"].values())
      metric = names.pop() if len(names) == 1 else "mean of main metrics"
  return {"metric": metric, "sides": sides}
