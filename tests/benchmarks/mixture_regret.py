"""The mixture search against random search, where the best mixture is known.

  python tests/benchmarks/mixture_regret.py [SEEDS] [EVALUATIONS]

Two smooth objectives over six tasks, without noise, each seed with its own
best mixture (interior): `bowl`, the squared distance from it, and `returns`,
where each task's part of the score grows with the root of its weight. Both
searches have 30 trials; Vizier's are the uniform mixture and 10 samples of the
Dirichlet, as in the paper (section 3.3), then 19 proposals. A search's regret
is how far its best trial stays below the best mixture.
"""

import functools
import pathlib
import resource
import statistics
import sys
import tempfile

import numpy as np
from rich.console import Console

from embeddinggemma.mixture import search, space
from embeddinggemma.mixture.optimizer import OptimizerConfig
from embeddinggemma.mixture.study import Trial
from embeddinggemma.types import Weights

TASKS = ("code", "language", "nli", "qa", "search", "sts")
TRIALS, SAMPLES = 30, 10
UNIFORM = dict.fromkeys(TASKS, 1 / len(TASKS))


def best_mixture(seed: int) -> np.ndarray:
  """No task below 2%."""
  sample = space.dirichlet(len(TASKS), 1, 4.0, seed + 1000)[0] + 0.025
  return sample / sample.sum()


def bowl(
  best: np.ndarray, weights: Weights, folder: pathlib.Path
) -> dict[str, float]:
  """0 at the best mixture."""
  del folder
  distance = space.vector(weights, TASKS) - best
  return {task: -float(d**2) * len(TASKS) for task, d in zip(TASKS, distance)}


def returns(
  best: np.ndarray, weights: Weights, folder: pathlib.Path
) -> dict[str, float]:
  """0 at the best mixture, by the inequality of Cauchy and Schwarz."""
  del folder
  roots = np.sqrt(space.vector(weights, TASKS) * best)
  return {
    task: float(root) * len(TASKS) - 1 for task, root in zip(TASKS, roots)
  }


def run(
  objective, name: str, seed: int, evaluations: int, compiled: pathlib.Path
) -> list[Trial]:
  """One search of 30 trials."""
  with tempfile.TemporaryDirectory() as folder:
    directory = pathlib.Path(folder)
    (directory / "compiled").symlink_to(compiled)
    first = SAMPLES if name == "vizier" else 0
    return search.search(
      functools.partial(objective, best_mixture(seed)),
      TASKS,
      [UNIFORM],
      first,
      TRIALS - 1 - first,
      OptimizerConfig(name, 1.0, evaluations),
      seed,
      {"objective": objective.__name__},
      directory,
      Console(quiet=True),
    )


def compare(
  objective, seed: int, evaluations: int, compiled: pathlib.Path
) -> tuple[float, float, list[float]]:
  """The regrets of random search and of Vizier; seconds of its proposals."""
  regret = lambda trials: -max(trial.score for trial in trials)
  random = run(objective, "random", seed, evaluations, compiled)
  vizier = run(objective, "vizier", seed, evaluations, compiled)
  proposals = [t.suggest_seconds for t in vizier if t.source == "vizier"]
  row = regret(random), regret(vizier), proposals
  print(
    f"{objective.__name__} {seed}: random {row[0]:.5f}, vizier {row[1]:.5f},"
    f" ratio {row[1] / row[0]:.2f}",
    flush=True,
  )
  return row


def main(seeds: int, evaluations: int) -> None:
  """Prints the regrets of each seed, their medians and the seconds taken."""
  first, later = [], []
  with tempfile.TemporaryDirectory() as compiled:
    for objective in (bowl, returns):
      random, vizier = [], []
      for seed in range(seeds):
        row = compare(objective, seed, evaluations, pathlib.Path(compiled))
        random.append(row[0])
        vizier.append(row[1])
        first.append(row[2][0])
        later += row[2][1:]
      ratios = np.divide(vizier, random)
      print(
        f"{objective.__name__}: median regret random {np.median(random):.5f},"
        f" vizier {np.median(vizier):.5f}; median ratio"
        f" {np.median(ratios):.2f} ({ratios.min():.2f} to {ratios.max():.2f})"
      )
  used = resource.getrusage(resource.RUSAGE_CHILDREN)
  count = len(first) + len(later)
  print(
    f"a suggestion: median {statistics.median(later):.1f} s; the first of a"
    f" search, which starts Vizier, {statistics.median(first):.1f} s (nothing"
    f" compiled before: {first[0]:.1f} s); processor time of all, a"
    f" suggestion: {(used.ru_utime + used.ru_stime) / count:.1f} s"
  )


if __name__ == "__main__":
  main(
    int(sys.argv[1]) if len(sys.argv) > 1 else 5,
    int(sys.argv[2]) if len(sys.argv) > 2 else 5000,
  )
