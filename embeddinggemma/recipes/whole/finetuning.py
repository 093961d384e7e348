"""The finetuning half of the recipe (paper sections 2.2, 2.3, 3.3 and 3.4).

The search for mixtures of tasks, a finetuning with each mixture that is picked,
and the soup of those: functions of plain arguments, of which all but the soup
can continue in their folder.
"""

import dataclasses
import pathlib
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from rich.console import Console

from embeddinggemma import cache, checkpoint
from embeddinggemma import soups as soup_lib
from embeddinggemma.config import TEXTS, at_least
from embeddinggemma.data import corpus, mixture
from embeddinggemma.evaluation import suite
from embeddinggemma.evaluation.models import score
from embeddinggemma.loading import load
from embeddinggemma.mixture import search as search_lib
from embeddinggemma.mixture.optimizer import MixtureOptimizerConfig
from embeddinggemma.training import run
from embeddinggemma.training import workdir as workdir_lib
from embeddinggemma.training.inputs import Inputs
from embeddinggemma.training.stages.pairs import PairConfig, weights
from embeddinggemma.types import BadInput, Stopped, Weights

TRIALS_FILE = "trials.json"


class Mixtures(NamedTuple):
  """The result of the task `mixture`: the mixtures to finetune with.

  Each is {"weights", "reason", "trial"}.
  """

  picked: list[dict[str, Any]]


class Finetuned(NamedTuple):
  """The result of the task `finetune`.

  Of each finetuning, the content hash of its weights and its last loss.
  """

  ingredients: list[dict[str, Any]]


@dataclasses.dataclass(frozen=True)
class SearchConfig:
  """Which mixtures are tried, and how many of them are picked."""

  steps: int  # updates of a trial
  given: tuple[dict[str, float], ...]  # tried first, after the config's own
  dirichlet: int  # how many are drawn at random
  proposed: int  # how many the optimizer proposes after those
  pick: int  # how many are finetuned with
  diversity: float  # weight of the distance to those picked before
  seed: int
  optimizer: MixtureOptimizerConfig

  def __post_init__(self) -> None:
    at_least("search.steps", self.steps, 1)
    for name in ("dirichlet", "proposed", "diversity", "seed"):
      at_least(f"search.{name}", getattr(self, name), 0)
    at_least("search.pick", self.pick, 1)


def own_mixture(config: PairConfig, made: Inputs) -> Weights:
  """Task -> its share of the batches under the config's own weights."""
  about = corpus.about(made.corpus)
  sizes = {**about["tasks"], TEXTS: about.get("texts", 0)}
  return mixture.shares(sizes, weights(config), config.data.size_exponent)


def with_mixture(config: PairConfig, weights: Weights) -> PairConfig:
  """The same finetuning with these shares of the batches."""
  data = dataclasses.replace(
    config.data, weights=dict(weights), size_exponent=0.0
  )
  return dataclasses.replace(config, data=data)


def search(
  config: PairConfig,
  choice: SearchConfig,
  made: Inputs,
  key: Mapping[str, Any],
  directory: pathlib.Path,
  console: Console,
) -> list[dict[str, Any]]:
  """Try mixtures and pick some: [{"weights", "reason", ...}].

  A trial is the first `choice.steps` of a finetuning, scored on the held-out
  validation tasks. All share the compiled step, since the shares belong to the
  data. With one task, or without validation, the config's own mixture is the
  only one.

  Args:
    config: the finetuning.
    choice: what is tried and picked.
    made: what it reads.
    key: what a trial's scores depend on besides its mixture.
    directory: keeps the trials, so that a call can continue.
    console: for progress.
  """
  count = 1 + len(choice.given) + choice.dirichlet + choice.proposed
  if count < choice.pick:
    raise BadInput(
      f"search.pick={choice.pick} of {count} trials; pick fewer, or raise"
      " search.dirichlet or search.proposed"
    )
  own = own_mixture(config, made)
  tasks = suite.held_out(made.corpus, "validation")
  if len(own) < 2 or not tasks:
    why = "there is one task" if len(own) < 2 else "no task is held out"
    reason = f"the config's own mixture: {why}"
    console.print(f"mixture: {reason}", highlight=False)
    return [{"weights": dict(own), "reason": reason}]

  def evaluate(weights: Weights, folder: pathlib.Path) -> dict[str, float]:
    whole = with_mixture(config, weights)
    run.train(whole, made, folder, console, until=choice.steps)
    return score(load(folder), tasks)

  trials = search_lib.search(
    evaluate,
    list(own),
    [own, *choice.given],
    choice.dirichlet,
    choice.proposed,
    choice.optimizer,
    choice.seed,
    {**key, "config": _without_mixture(config), "steps": choice.steps},
    directory,
    console,
  )
  cache.write_json(
    directory / TRIALS_FILE,
    {
      "trials": [_row(trial) for trial in trials],
      "suggestion_s": search_lib.median_suggestion(trials),
    },
  )
  scored = sum(trial.feasible for trial in trials)
  if not scored:
    raise Stopped(f"no trial has a score; the first: {trials[0].infeasible}")
  picked = search_lib.pick(trials, min(choice.pick, scored), choice.diversity)
  for item in picked:
    console.print(f"picked {item.reason}", highlight=False, soft_wrap=True)
  return [
    {
      "weights": dict(item.trial.weights),
      "reason": item.reason,
      "trial": str(item.trial.folder.relative_to(directory)),
    }
    for item in picked
  ]


def _without_mixture(config: PairConfig) -> dict[str, Any]:
  """What a trial's score depends on besides its shares."""
  return workdir_lib.relevant(with_mixture(config, {}))


def _row(trial: search_lib.Trial) -> dict[str, Any]:
  return {
    "number": trial.number,
    "source": trial.source,
    "weights": dict(trial.weights),
    "scores": dict(trial.scores or {}),
    "score": trial.score if trial.feasible else None,
    "infeasible": trial.infeasible,
    "seconds": trial.seconds,
    "suggest_seconds": trial.suggest_seconds,
  }


def finetune(
  config: PairConfig,
  picked: Sequence[Mapping[str, Any]],
  made: Inputs,
  searched: pathlib.Path,
  directory: pathlib.Path,
  console: Console,
) -> Finetuned:
  """Finetune with each picked mixture, in DIRECTORY/1, 2, ...

  `searched` is the search's folder: a finetuning continues from its trial,
  which is its first steps.
  """
  results = []
  for number, item in enumerate(picked, 1):
    console.print(f"finetune {number} of {len(picked)}", highlight=False)
    workdir = directory / str(number)
    workdir.mkdir(exist_ok=True)
    if "trial" in item:
      workdir_lib.go_on(searched / item["trial"], workdir)
    own = with_mixture(config, item["weights"])
    results.append(run.train(own, made, workdir, console))
  return Finetuned(
    [
      {key: result[key] for key in ("hash", "loss") if key in result}
      for result in results
    ]
  )


def soup(
  paths: Sequence[pathlib.Path], workdir: pathlib.Path
) -> dict[str, Any]:
  """The unweighted mean of the finetuned models' weights (section 3.4)."""
  place = soup_lib.soup(paths, None, workdir, least=1)
  return {
    "checkpoint": str(place.relative_to(workdir)),
    "hash": checkpoint.hash_of(place),
  }
