"""The search: what it runs, what it never runs again, and what it picks."""

import json
import math
import pathlib
import signal
import subprocess
import sys

import numpy as np
import pytest
from rich.console import Console

from embeddinggemma.mixture import optimizer, search, space
from embeddinggemma.mixture.optimizer import MixtureOptimizerConfig
from embeddinggemma.mixture.study import Trial
from embeddinggemma.types import BadInput, Stopped

TASKS = ("code", "qa", "sts")
GIVEN = ({"code": 0.5, "qa": 0.3, "sts": 0.2}, {"qa": 1.0})
RANDOM = MixtureOptimizerConfig("random", 1.0, 100)


class Killed(BaseException):
  """Stands for a process that ends here."""


class Trainer:
  """Scores a mixture; notes its calls."""

  def __init__(self, killed_at: int = -1):
    self.calls: list[tuple[dict, pathlib.Path]] = []
    self._killed_at = killed_at

  def __call__(self, weights, folder):
    assert folder.is_dir()
    self.calls.append((dict(weights), folder))
    if len(self.calls) == self._killed_at:
      raise Killed
    return {"a": weights["code"], "b": 1 - weights["qa"] ** 2}


def run(
  directory: pathlib.Path,
  evaluate,
  given=GIVEN,
  dirichlet: int = 2,
  proposed: int = 3,
  console: Console | None = None,
  **key: str,
) -> list[Trial]:
  return search.search(
    evaluate,
    TASKS,
    given,
    dirichlet,
    proposed,
    RANDOM,
    7,
    {"data": "abc", **key},
    directory,
    console or Console(quiet=True),
  )


def plain(trials: list[Trial]) -> list[tuple]:
  return [(t.number, t.source, t.weights, t.scores) for t in trials]


def test_the_order_and_the_scores(tmp_path):
  trainer = Trainer()
  trials = run(tmp_path, trainer)
  sources = ["given"] * 2 + ["dirichlet"] * 2 + ["random"] * 3
  assert [t.source for t in trials] == sources
  assert [t.number for t in trials] == list(range(1, 8))
  assert trials[0].weights == GIVEN[0]
  assert trials[1].weights == {"code": 0.0, "qa": 1.0, "sts": 0.0}
  assert len({t.folder for t in trials}) == 7
  for trial, (weights, folder) in zip(trials, trainer.calls, strict=True):
    assert (trial.weights, trial.folder) == (weights, folder)
    expected = (weights["code"] + 1 - weights["qa"] ** 2) / 2
    assert trial.score == pytest.approx(expected)


def test_the_time_of_a_suggestion(tmp_path):
  trials = run(tmp_path, Trainer())
  proposed = [t.suggest_seconds for t in trials[4:]]
  assert search.median_suggestion(trials) == sorted(proposed)[1] > 0
  assert search.median_suggestion(trials[:4]) == 0


def test_a_finished_search_runs_nothing(tmp_path):
  first = run(tmp_path, Trainer())
  again = Trainer()
  assert run(tmp_path, again) == first
  assert not again.calls


def test_more_trials_are_added(tmp_path):
  first = run(tmp_path, Trainer())
  again = Trainer()
  trials = run(tmp_path, again, given=GIVEN[:1], dirichlet=3, proposed=4)
  assert trials[:7] == first
  assert [t.source for t in trials[7:]] == ["dirichlet", "random"]
  assert len(again.calls) == 2


@pytest.mark.parametrize("killed_at", range(1, 8))
def test_a_kill_loses_one_call(tmp_path, killed_at):
  whole = run(tmp_path / "whole", Trainer())
  trainer, again = Trainer(killed_at), Trainer()
  with pytest.raises(Killed):
    run(tmp_path / "killed", trainer)
  trials = run(tmp_path / "killed", again)
  assert plain(trials) == plain(whole)
  assert again.calls[0] == trainer.calls[-1]  # same weights, same folder
  assert len(trainer.calls) + len(again.calls) == 8


SCRIPT = """
import json, os, pathlib, signal, sys
from rich.console import Console
from embeddinggemma.mixture import search
from embeddinggemma.mixture.optimizer import MixtureOptimizerConfig

def evaluate(weights, folder):
  with open(sys.argv[2], "a") as log:
    log.write(folder.name + "\\n")
  if sys.argv[3] == folder.name:
    os.kill(os.getpid(), signal.SIGKILL)
  return {"a": weights["code"]}

trials = search.search(
  evaluate, ["code", "qa", "sts"], [], 2, 2, MixtureOptimizerConfig("random", 1.0, 100),
  0, {}, pathlib.Path(sys.argv[1]), Console())
print(json.dumps([[t.weights, t.score] for t in trials]))
"""


def test_a_killed_process(tmp_path):
  def call(directory: str, die_at: str) -> subprocess.CompletedProcess:
    return subprocess.run(
      [sys.executable, "-c", SCRIPT, directory, tmp_path / "log", die_at],
      capture_output=True,
      text=True,
    )

  killed = call(tmp_path / "a", "trial-03")
  assert killed.returncode == -signal.SIGKILL
  ended = call(tmp_path / "a", "")
  calls = (tmp_path / "log").read_text().split()
  assert calls == ["trial-01", "trial-02", "trial-03", "trial-03", "trial-04"]
  assert "2 trials found in" in ended.stdout
  whole = call(tmp_path / "b", "")
  last = lambda done: json.loads(done.stdout.splitlines()[-1])
  assert last(ended) == last(whole)


def test_changed_data_reuses_nothing_and_loses_nothing(tmp_path, capsys):
  first = run(tmp_path, Trainer())
  changed = Trainer()
  other = run(tmp_path, changed, data="xyz", console=Console(width=300))
  assert len(changed.calls) == 7
  assert "7 trials of another data in" in capsys.readouterr().out
  assert {t.folder for t in first}.isdisjoint(t.folder for t in other)
  back = Trainer()
  assert run(tmp_path, back) == first
  assert not back.calls


def test_bad_trials_are_infeasible(tmp_path, capsys):
  def evaluate(weights, folder):
    if folder.name == "trial-01":
      raise Stopped("loss is nan at step 3")
    if folder.name == "trial-02":
      return {"a": 1.0, "b": math.nan}
    return {"a": 0.5}

  told = []
  observe = optimizer.Random.observe
  with pytest.MonkeyPatch.context() as patch:
    patch.setattr(
      optimizer.Random,
      "observe",
      lambda self, w, s: (told.append(s), observe(self, w, s))[1],
    )
    trials = run(tmp_path, evaluate, console=Console(width=300))
  assert [t.feasible for t in trials] == [False] * 2 + [True] * 5
  assert trials[0].infeasible == "loss is nan at step 3"
  assert trials[1].infeasible == "b is nan" and trials[1].scores == {}
  assert [math.isnan(score) for score in told] == [True] * 2 + [False] * 5
  assert (
    "trial 1 (given): code 0.5, qa 0.3, sts 0.2: no score: loss is nan"
    in (capsys.readouterr().out)
  )
  again = Trainer()
  assert run(tmp_path, again) == trials
  assert not again.calls


def test_a_mixture_is_tried_once(tmp_path, monkeypatch):
  class Stubborn(optimizer.Random):
    def suggest(self):
      return dict(GIVEN[0])

  monkeypatch.setitem(optimizer.OPTIMIZERS, "random", Stubborn)
  trials = run(tmp_path, Trainer(), given=[*GIVEN, GIVEN[0]])
  mixtures = {tuple(t.weights.values()) for t in trials}
  assert len(mixtures) == len(trials) == 7


@pytest.mark.parametrize(
  ("changed", "message"),
  [
    ({"given": [{"cod": 1.0}]}, "unknown task 'cod'; did you mean 'code'"),
    ({"given": [{"qa": 0.5}]}, "sum to 0.5"),
    ({"dirichlet": -1}, "mixture.dirichlet=-1 must be at least 0"),
    ({"proposed": -1}, "mixture.proposed=-1"),
    ({"given": [], "dirichlet": 0, "proposed": 0}, "trials of the mixture"),
  ],
)
def test_bad_input(tmp_path, changed, message):
  trainer = Trainer()
  with pytest.raises(BadInput, match=message):
    run(tmp_path, trainer, **changed)
  assert not trainer.calls and not list(tmp_path.iterdir())


def test_one_task_is_no_mixture(tmp_path):
  with pytest.raises(BadInput, match="two tasks or more; the data has code"):
    search.search(
      Trainer(), ["code"], [], 2, 1, RANDOM, 0, {}, tmp_path, Console()
    )


def test_no_score_is_an_error(tmp_path):
  with pytest.raises(ValueError, match="no task type"):
    run(tmp_path, lambda weights, folder: {})


def trial(number: int, score: float, *weights: float) -> Trial:
  scores = {"a": score} if math.isfinite(score) else {}
  named = dict(zip(TASKS, weights))
  return Trial(number, "given", named, pathlib.Path("x"), 0.0, scores, "", 0.0)


TRIALS = (
  trial(1, 0.40, 0.1, 0.1, 0.8),
  trial(2, 0.50, 0.8, 0.1, 0.1),
  trial(3, 0.49, 0.78, 0.11, 0.11),
  trial(4, math.nan, 0.3, 0.3, 0.4),
  trial(5, 0.48, 0.1, 0.8, 0.1),
  trial(6, 0.45, 0.2, 0.2, 0.6),
)


def numbers(picked: list[search.Picked]) -> list[int]:
  return [p.trial.number for p in picked]


def test_pick_by_score_alone():
  assert numbers(search.pick(TRIALS, 3, 0.0)) == [2, 3, 5]


def test_pick_by_score_and_diversity():
  picked = search.pick(TRIALS, 3, 2.0)
  assert numbers(picked) == [2, 5, 3]
  assert picked[0].reason == "trial 2 (given): the best score, 0.5000"
  far = space.hellinger(np.array([0.1, 0.8, 0.1]), np.array([0.8, 0.1, 0.1]))
  near = space.hellinger(
    np.array([0.78, 0.11, 0.11]), np.array([0.8, 0.1, 0.1])
  )
  assert picked[1].reason == (
    f"trial 5 (given): 0.4800, 0.0200 below the best, and {far:.2f}"
    " (Hellinger) from trial 2; trial 3 has 0.4900, but is only"
    f" {near:.2f} from trial 2"
  )
  assert picked[2].reason == (
    "trial 3 (given): 0.4900, 0.0100 below the best, and"
    f" {near:.2f} (Hellinger) from trial 2"
  )


def test_pick_of_equal_scores_is_by_diversity():
  equal = [trial(t.number, 0.5, *t.weights.values()) for t in TRIALS]
  assert numbers(search.pick(equal, 2, 0.1)) == [1, 2]


def test_pick_of_too_few():
  with pytest.raises(BadInput, match="pick=6, but only 5 of 6 trials have a"):
    search.pick(TRIALS, 6, 0.5)
  with pytest.raises(BadInput, match="pick=0 must be at least 1"):
    search.pick(TRIALS, 0, 0.5)
  assert len(search.pick(TRIALS, 5, 0.5)) == 5
