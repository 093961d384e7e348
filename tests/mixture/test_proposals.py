"""The optimizers: valid proposals that depend on the evidence alone."""

import functools
import itertools
import math
import os
import pathlib
import signal
import subprocess
import sys
import threading
import time

import numpy as np
import pytest
from rich.console import Console

from embeddinggemma.mixture import optimizer, search, space
from embeddinggemma.mixture.optimizer import MixtureOptimizerConfig
from embeddinggemma.mixture.study import Trial
from embeddinggemma.types import BadInput

TASKS = ("code", "qa", "sts")
BEST = np.array([0.6, 0.3, 0.1])
VIZIER = MixtureOptimizerConfig("vizier", 1.0, 2000)


def score(weights, folder: pathlib.Path) -> dict[str, float]:
  """Best at BEST; one mixture, the third, cannot be trained."""
  if folder.name == "trial-03":
    return {"all": math.nan}
  return {"all": -float(((space.vector(weights, TASKS) - BEST) ** 2).sum())}


def run(directory: pathlib.Path, proposed: int) -> list[Trial]:
  # What was compiled in an earlier call of the tests serves this one.
  shared = pathlib.Path(__file__).parents[2] / ".pytest_cache" / "vizier"
  shared.mkdir(parents=True, exist_ok=True)
  directory.mkdir(exist_ok=True)
  if not (directory / "compiled").exists():
    (directory / "compiled").symlink_to(shared)
  quiet = Console(quiet=True)
  return search.search(
    score, TASKS, [], 6, proposed, VIZIER, 0, {}, directory, quiet
  )


@pytest.fixture(scope="module")
def whole(tmp_path_factory) -> list[Trial]:
  """The trials of a search that was not interrupted."""
  return run(tmp_path_factory.mktemp("whole"), 3)


def test_vizier_proposes_valid_mixtures(whole):
  proposals = [t for t in whole if t.source == "vizier"]
  assert len(proposals) == 3
  for trial in proposals:
    values = space.vector(trial.weights, TASKS)
    assert (values >= 0).all() and values.sum() == pytest.approx(1)
    assert trial.suggest_seconds > 0
  assert len({tuple(t.weights.values()) for t in whole}) == len(whole)
  best = lambda source: max(
    t.score for t in whole if t.source == source and t.feasible
  )
  assert best("vizier") > best("dirichlet")


def die(directory: str, proposal: int, delay: float) -> None:
  """Searches, and is killed so many seconds into that proposal."""
  ask, count = optimizer._Server.ask, itertools.count(1)

  def timed(server, request):
    if next(count) == proposal:
      print(server._process.pid, flush=True)
      kill = functools.partial(os.kill, os.getpid(), signal.SIGKILL)
      threading.Timer(delay, kill).start()
    return ask(server, request)

  optimizer._Server.ask = timed
  run(pathlib.Path(directory), 3)
  time.sleep(600)  # The timer ends it, if it was so fast.


# While Vizier starts, and while its GP is at work.
@pytest.mark.slow
@pytest.mark.parametrize(("proposal", "delay"), [(1, 1.0), (2, 0.3)])
def test_a_kill_while_proposing(whole, tmp_path, capfd, proposal, delay):
  code = (
    f"import sys; sys.path.insert(0, {str(pathlib.Path(__file__).parent)!r});"
    " import test_proposals as t;"
    f" t.die({str(tmp_path)!r}, {proposal}, {delay})"
  )
  killed = subprocess.run(
    [sys.executable, "-c", code], stdout=subprocess.PIPE, text=True
  )
  assert killed.returncode == -signal.SIGKILL
  state = pathlib.Path(f"/proc/{int(killed.stdout)}/stat")
  ended = lambda: not state.exists() or state.read_text().split()[2] == "Z"
  until = time.monotonic() + 120
  while not ended():
    assert time.monotonic() < until
    time.sleep(0.05)
  again = run(tmp_path, 3)
  plain = lambda trials: [(t.weights, t.scores or {}) for t in trials]
  assert plain(again) == plain(whole)
  assert capfd.readouterr() == ("", "")
  assert "vizier" not in sys.modules


def test_a_failure_shows_what_vizier_printed(tmp_path, monkeypatch):
  monkeypatch.setattr(sys, "executable", "false")
  made = optimizer.make(VIZIER, TASKS, 0, tmp_path)
  with pytest.raises(RuntimeError, match="Vizier ended with status 1"):
    made.suggest()
  made.close()
  monkeypatch.undo()
  monkeypatch.setitem(optimizer._ENVIRONMENT, "JAX_ENABLE_X64", "perhaps")
  made = optimizer.make(VIZIER, TASKS, 0, tmp_path)
  with pytest.raises(RuntimeError, match=r"(?s)Traceback.*perhaps"):
    made.suggest()
  made.close()


def test_random_search_depends_on_seed_and_evidence():
  made = lambda seed: optimizer.make(
    MixtureOptimizerConfig("random", 0.5, 100),
    TASKS,
    seed,
    pathlib.Path("unused"),
  )
  one, same, other = made(0), made(0), made(1)
  first = one.suggest()
  assert first == one.suggest() == same.suggest() != other.suggest()
  assert sum(first.values()) == pytest.approx(1)
  for each in (one, same):
    each.observe(first, 0.5)
  assert one.suggest() == same.suggest() != first


@pytest.mark.parametrize(
  ("name", "alpha", "evaluations", "message"),
  [
    ("vizer", 1.0, 1000, "'vizer' is unknown; did you mean 'vizier'"),
    ("vizier", 0.0, 1000, "optimizer.alpha=0.0 must be above 0"),
    ("vizier", 1.0, 10, "optimizer.evaluations=10 must be at least 100"),
  ],
)
def test_bad_config(name, alpha, evaluations, message):
  with pytest.raises(BadInput, match=message):
    MixtureOptimizerConfig(name, alpha, evaluations)
