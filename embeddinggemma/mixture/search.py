"""The mixture search (paper section 3.3): propose, train, score.

First come the given mixtures, then samples of a Dirichlet distribution, then
the optimizer's proposals based on all of these. The paper starts from one
mixture of a grid search and 10 Dirichlet samples and continues with Bayesian
optimisation; kernel, acquisition function, number of trials and objective are
not published.
"""

import contextlib
import math
import pathlib
import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

from rich.console import Console

from embeddinggemma.config import at_least
from embeddinggemma.mixture import optimizer, space
from embeddinggemma.mixture.optimizer import (
  MixtureOptimizer,
  MixtureOptimizerConfig,
)
from embeddinggemma.mixture.study import Study, Trial
from embeddinggemma.types import BadInput, Stopped, Weights

# (weights, folder to work in) -> score by task type, after training.
Evaluate = Callable[[Weights, pathlib.Path], dict[str, float]]


class Picked(NamedTuple):
  """A trial that was chosen, and why, as a sentence."""

  trial: Trial
  reason: str


def search(
  evaluate: Evaluate,
  tasks: Sequence[str],
  given: Sequence[Weights],
  dirichlet: int,
  proposed: int,
  config: MixtureOptimizerConfig,
  seed: int,
  key: Mapping[str, Any],
  directory: pathlib.Path,
  console: Console,
) -> list[Trial]:
  """Run the trials that DIRECTORY/study.sqlite lacks; return all, by number.

  Args:
    evaluate: trains and scores a mixture. It must continue or redo what it
      finds in its folder. If it raises Stopped or returns a score that is not
      finite, the trial is infeasible.
    tasks: names of the tasks to weigh.
    given: mixtures to try first.
    dirichlet: the number of Dirichlet samples to try next.
    proposed: the number of proposals of the optimizer.
    config: of the optimizer.
    seed: of samples and proposals.
    key: all that a score depends on besides the weights, as JSON. Trials with
      the same key and tasks are never run again, whichever search began them;
      an unfinished one is finished first, with its weights and folder.
    directory: of the study, the trials and compiled programs.
    console: for a line about each trial.

  Raises:
    BadInput: weights or counts are wrong.
  """
  tasks = sorted(tasks)
  plan = _plan(tasks, given, dirichlet, proposed, config, seed)
  with contextlib.ExitStack() as stack:
    study = Study(directory, {**key, "tasks": tasks})
    stack.callback(study.close)
    proposer = optimizer.make(config, tasks, seed, directory / "compiled")
    stack.callback(proposer.close)
    run = _Run(evaluate, study, proposer, console)
    for weights, source in plan:
      if not run.tried(weights):
        run.new(weights, source, 0.0)
    while sum(t.source == config.name for t in run.trials) < proposed:
      began = time.perf_counter()
      weights = proposer.suggest()
      took = time.perf_counter() - began
      run.new(run.untried(weights, tasks, config, seed), config.name, took)
    return run.trials


def _plan(
  tasks: Sequence[str],
  given: Sequence[Weights],
  dirichlet: int,
  proposed: int,
  config: MixtureOptimizerConfig,
  seed: int,
) -> list[tuple[Weights, str]]:
  """The trials that do not depend on others, as (weights, source)."""
  if len(tasks) < 2:
    raise BadInput(
      "a mixture search needs two tasks or more; the data has"
      f" {', '.join(tasks) or 'none'}; name several in the pairs' field `task`,"
      " or train without a search"
    )
  at_least("mixture.dirichlet", dirichlet, 0)
  at_least("mixture.proposed", proposed, 0)
  at_least("trials of the mixture search", len(given) + dirichlet + proposed, 1)
  samples = space.dirichlet(len(tasks), dirichlet, config.alpha, seed)
  return [
    (_rounded(space.check_weights(weights, tasks), tasks), "given")
    for weights in given
  ] + [(space.named(sample, tasks), "dirichlet") for sample in samples]


def _rounded(weights: Weights, tasks: Sequence[str]) -> Weights:
  return space.named(space.vector(weights, tasks), tasks)


class _Run:
  """The trials so far, kept in the study, the optimizer and a list.

  Trials of the study that did not end are finished at the start.
  """

  def __init__(
    self,
    evaluate: Evaluate,
    study: Study,
    proposer: MixtureOptimizer,
    console: Console,
  ):
    self._evaluate, self._study = evaluate, study
    self._proposer, self._console = proposer, console
    self.trials: list[Trial] = []
    found = study.trials()
    self._report_found(found)
    for trial in found:
      if trial.scores is None:
        self._perform(trial)
      else:
        self._add(trial)

  def _report_found(self, found: list[Trial]) -> None:
    if found:
      ended = sum(trial.scores is not None for trial in found)
      self._say(f"{ended} trials found in {self._study.path}")
    for names, count in self._study.others().items():
      self._say(
        f"{count} trials of another {names} in {self._study.path} are kept,"
        " not used"
      )

  def tried(self, weights: Weights) -> bool:
    """Whether a trial had these weights."""
    return any(trial.weights == weights for trial in self.trials)

  def untried(
    self,
    weights: Weights,
    tasks: Sequence[str],
    config: MixtureOptimizerConfig,
    seed: int,
  ) -> Weights:
    """The weights, or else the first Dirichlet sample that was not tried."""
    count = 0
    while self.tried(weights):
      count += 1
      sample = space.dirichlet(len(tasks), count, config.alpha, seed)[-1]
      weights = space.named(sample, tasks)
    return weights

  def new(self, weights: Weights, source: str, took: float) -> None:
    """Run a new trial to its end; `took` is the proposal's seconds."""
    self._perform(self._study.begin(weights, source, took))

  def _perform(self, trial: Trial) -> None:
    trial.folder.mkdir(parents=True, exist_ok=True)
    began = time.perf_counter()
    try:
      scores, infeasible = _checked(self._evaluate(trial.weights, trial.folder))
    except Stopped as error:
      scores, infeasible = {}, str(error)
    seconds = time.perf_counter() - began
    trial = self._study.end(trial, scores, infeasible, seconds)
    self._add(trial)
    said = f"{trial.score:.4f}" if trial.feasible else f"no score: {infeasible}"
    self._say(
      f"trial {trial.number} ({trial.source}):"
      f" {space.printed(trial.weights)}: {said}"
    )

  def _add(self, trial: Trial) -> None:
    self._proposer.observe(trial.weights, trial.score)
    self.trials.append(trial)

  def _say(self, text: str) -> None:
    self._console.print(text, highlight=False, markup=False, soft_wrap=True)


def median_suggestion(trials: Sequence[Trial]) -> float:
  """Median seconds that a proposal of the optimizer took; 0 without any."""
  seconds = [t.suggest_seconds for t in trials if t.suggest_seconds]
  return statistics.median(seconds) if seconds else 0.0


def _checked(scores: dict[str, float]) -> tuple[dict[str, float], str]:
  """(scores, ""), or ({}, the reason) if a score is not finite."""
  if not scores:
    raise ValueError("a trial was evaluated on no task type")
  wrong = {k: v for k, v in scores.items() if not math.isfinite(v)}
  if wrong:
    return {}, ", ".join(f"{name} is {value}" for name, value in wrong.items())
  return {name: float(value) for name, value in scores.items()}, ""


def pick(trials: Sequence[Trial], count: int, diversity: float) -> list[Picked]:
  """Choose the best trial, then trials that are good and unlike those chosen.

  The value of a trial is its score, in units of the distance between the best
  trial and the median one, minus `diversity` times its similarity (1 -
  Hellinger distance) to the nearest trial already chosen. With `diversity` 0
  the score alone decides. The soup is made of experts for different domains
  (paper section 3.3). Raises BadInput if fewer than `count` trials have a
  score.
  """
  at_least("pick", count, 1)
  at_least("diversity", diversity, 0)
  rest = sorted((t for t in trials if t.feasible), key=lambda t: -t.score)
  if len(rest) < count:
    raise BadInput(
      f"pick={count}, but only {len(rest)} of {len(trials)} trials have a"
      " score; pick fewer, or raise mixture.dirichlet or mixture.proposed"
    )
  best = rest.pop(0)
  chosen = [Picked(best, f"{_name(best)}: the best score, {best.score:.4f}")]
  below = [best.score - trial.score for trial in rest]
  unit = statistics.median([0.0, *below]) or max(below, default=0.0) or 1.0
  while len(chosen) < count:
    value = lambda t: (
      (t.score - best.score) / unit
      + diversity * min(_distance(t, c.trial) for c in chosen)
    )
    taken = max(rest, key=value)
    chosen.append(Picked(taken, _reason(taken, rest[0], chosen)))
    rest.remove(taken)
  return chosen


def _reason(taken: Trial, passed: Trial, chosen: Sequence[Picked]) -> str:
  """Why a trial was chosen, and why not the best of the remaining ones."""
  best = chosen[0].trial
  away = lambda t: min((_distance(t, c.trial), c.trial.number) for c in chosen)
  distance, near = away(taken)
  said = (
    f"{_name(taken)}: {taken.score:.4f}, {best.score - taken.score:.4f} below"
    f" the best, and {distance:.2f} (Hellinger) from trial {near}"
  )
  if passed == taken:
    return said
  distance, near = away(passed)
  return (
    f"{said}; trial {passed.number} has {passed.score:.4f}, but is only"
    f" {distance:.2f} from trial {near}"
  )


def _name(trial: Trial) -> str:
  return f"trial {trial.number} ({trial.source})"


def _distance(a: Trial, b: Trial) -> float:
  tasks = sorted(a.weights.keys() | b.weights.keys())
  return space.hellinger(
    space.vector(a.weights, tasks), space.vector(b.weights, tasks)
  )
