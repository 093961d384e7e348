"""Propose the next mixture to try: Vizier's GP bandit, or random search.

An optimizer holds nothing but its observations, and a proposal depends on
(config, seed, observations) alone: to continue a search, observe again. Vizier
runs in a process of its own from the first proposal to the end of the search
(about 0.9 GB; starting it is most of the time of a proposal), because

- Vizier is made for 64-bit JAX, which its service turns on globally, and its
  GP belongs on a CPU, while training may hold TPUs;
- training then pays for no import and shows no line of its output, which is
  kept and shown if it fails;
- it ends with its standard input, so none is left behind if we are killed.

The process gets all observations with every request and uses the designer
behind Vizier's GAUSSIAN_PROCESS_BANDIT (a GP over the cube of `mixture.space`,
upper confidence bound, a trust region around the points tried). Vizier's
service would do the same with a random seed, and would keep a second study in
its own database.
"""

import contextlib
import dataclasses
import json
import math
import os
import pathlib
import queue
import subprocess
import sys
import tempfile
import threading
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Protocol, runtime_checkable

import numpy as np
from jaxtyping import Float

from embeddinggemma.config import above_zero, at_least, suggest
from embeddinggemma.mixture import space
from embeddinggemma.types import BadInput, Weights

_PACKAGE = pathlib.Path(__file__).parents[2]
# A GP of this size takes much longer to compile than to run, and is compiled
# anew with every request. So programs are cached, and optimised little.
_ENVIRONMENT = {
  "JAX_PLATFORMS": "cpu",
  "JAX_ENABLE_X64": "1",
  "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0",
  "JAX_PERSISTENT_CACHE_MIN_ENTRY_SIZE_BYTES": "-1",
  "XLA_FLAGS": "--xla_backend_optimization_level=0"
  " --xla_llvm_disable_expensive_passes=true",
}


@runtime_checkable
class MixtureOptimizer(Protocol):
  """Proposes mixtures; higher scores are better, NaN means infeasible."""

  def suggest(self) -> Weights:
    """The mixture to try next: weights of all tasks, summing to 1."""

  def observe(self, weights: Weights, score: float) -> None:
    """Add the result of a finished trial."""

  def close(self) -> None:
    """Release the process that made proposals, if there is one."""


@dataclasses.dataclass(frozen=True)
class MixtureOptimizerConfig:
  """How mixtures are proposed."""

  name: str  # "vizier" or "random"
  alpha: float  # of the symmetric Dirichlet prior: 1 is uniform on the simplex
  evaluations: int  # of Vizier's acquisition function, for each proposal

  def __post_init__(self) -> None:
    if self.name not in OPTIMIZERS:
      raise BadInput(
        f"optimizer.name={self.name!r} is unknown"
        f"{suggest(self.name, list(OPTIMIZERS))}"
      )
    above_zero("optimizer.alpha", self.alpha)
    at_least("optimizer.evaluations", self.evaluations, 100)


def make(
  config: MixtureOptimizerConfig,
  tasks: Sequence[str],
  seed: int,
  directory: pathlib.Path,
) -> MixtureOptimizer:
  """The optimizer of a config; `directory` may hold its compiled programs."""
  return OPTIMIZERS[config.name](config, tuple(tasks), seed, directory)


@dataclasses.dataclass
class Random:
  """Independent samples of the Dirichlet distribution."""

  config: MixtureOptimizerConfig
  tasks: tuple[str, ...]
  seed: int
  directory: pathlib.Path
  observed: int = 0

  def suggest(self) -> Weights:
    """The sample that belongs to the present number of observations."""
    rng = np.random.default_rng([self.seed, self.observed, 1])
    sample = rng.dirichlet(np.full(len(self.tasks), self.config.alpha))
    return space.named(sample, self.tasks)

  def observe(self, weights: Weights, score: float) -> None:
    """Count the observation; its score does not matter."""
    del weights, score
    self.observed += 1

  def close(self) -> None:
    """Do nothing: there is nothing to release."""


@dataclasses.dataclass
class Vizier:
  """Vizier's Gaussian process bandit, in a process of its own."""

  config: MixtureOptimizerConfig
  tasks: tuple[str, ...]
  seed: int
  directory: pathlib.Path
  points: list[list[float]] = dataclasses.field(default_factory=list)
  scores: list[float | None] = dataclasses.field(default_factory=list)
  _server: "_Server | None" = None

  def suggest(self) -> Weights:
    """The GP's proposal; the first one starts the process.

    Raises RuntimeError with Vizier's output if it fails.
    """
    if self._server is None:
      self._server = _Server(self.directory)
    point = self._server.ask(
      {
        "points": self.points,
        "scores": self.scores,
        "dimensions": len(self.tasks) - 1,
        "evaluations": self.config.evaluations,
        "seed": self.seed,
      }
    )
    alpha = np.full(len(self.tasks), self.config.alpha)
    return space.named(space.to_weights(np.array(point), alpha), self.tasks)

  def observe(self, weights: Weights, score: float) -> None:
    """Add a trial as a point of the unit cube and its score."""
    alpha = np.full(len(self.tasks), self.config.alpha)
    point = space.to_point(space.vector(weights, self.tasks), alpha)
    self.points.append([float(u) for u in point])
    self.scores.append(float(score) if math.isfinite(score) else None)

  def close(self) -> None:
    """End Vizier's process."""
    if self._server is not None:
      self._server.close()
      self._server = None


OPTIMIZERS: Mapping[str, Callable[..., MixtureOptimizer]] = {
  "random": Random,
  "vizier": Vizier,
}


class _Server:
  """This module as a child process: a line of JSON in, a line of JSON out."""

  def __init__(self, directory: pathlib.Path):
    self._log = tempfile.TemporaryFile()
    paths = [str(_PACKAGE), os.environ.get("PYTHONPATH")]
    self._process = subprocess.Popen(
      [sys.executable, "-P", "-m", "embeddinggemma.mixture.optimizer"],
      stdin=subprocess.PIPE,
      stdout=subprocess.PIPE,
      stderr=self._log,
      text=True,
      start_new_session=True,  # Ctrl-C is for us: it may mean to save first
      env=os.environ
      | _ENVIRONMENT
      | {
        "PYTHONPATH": os.pathsep.join(filter(None, paths)),
        "JAX_COMPILATION_CACHE_DIR": str(directory),
      },
    )

  def ask(self, request: Mapping[str, Any]) -> list[float]:
    """Send a request and wait for the answer, the coordinates of a point."""
    process = self._process
    assert process.stdin and process.stdout
    answer = ""
    try:
      process.stdin.write(json.dumps(request) + "\n")
      process.stdin.flush()
      answer = process.stdout.readline()
    except BrokenPipeError:
      pass  # it ended: the log says why
    if not answer.endswith("\n"):
      status = process.wait()
      self._log.seek(0)
      printed = self._log.read().decode(errors="replace")
      raise RuntimeError(
        f"Vizier ended with status {status}; it printed:\n{printed}"
      )
    return json.loads(answer)

  def close(self) -> None:
    """Kill the process."""
    self._process.kill()
    # A request that it did not read, if it ended before.
    with contextlib.suppress(BrokenPipeError), self._process:
      pass
    self._process.wait()
    self._log.close()


def _serve() -> None:
  """Answer the requests on standard input until that ends."""
  # Answers go where they are awaited; all else that is printed, to the log.
  answers = os.fdopen(os.dup(1), "w")
  os.dup2(2, 1)
  # TensorFlow Probability imports these for docstrings alone, which is most of
  # the time and memory of the start; None makes their import fail.
  for name in ("tensorflow", "tf_keras", "keras"):
    sys.modules[name] = None  # type: ignore
  requests: queue.SimpleQueue[str] = queue.SimpleQueue()
  threading.Thread(target=_read, args=(requests,), daemon=True).start()
  while True:
    point = propose(**json.loads(requests.get()))
    answers.write(json.dumps(point.tolist()) + "\n")
    answers.flush()


def _read(requests: "queue.SimpleQueue[str]") -> None:
  """Pass requests on; when they end, end the process at once."""
  for line in sys.stdin:
    requests.put(line)
  os._exit(0)


def propose(
  points: Sequence[Sequence[float]],
  scores: Sequence[float | None],
  dimensions: int,
  evaluations: int,
  seed: int,
) -> Float[np.ndarray, "_"]:
  """The point that the GP bandit proposes after these trials.

  Args:
    points: of the unit cube, tried so far.
    scores: of these points; None if infeasible.
    dimensions: of the cube.
    evaluations: of the acquisition function.
    seed: of the designer.
  """
  import jax
  from vizier import algorithms, pyvizier
  from vizier._src.algorithms.designers import gp_bandit
  from vizier._src.algorithms.optimizers import (
    eagle_strategy,
    vectorized_base,
  )
  from vizier.pyvizier.converters import padding

  names = [f"x{i:03d}" for i in range(dimensions)]
  problem = pyvizier.ProblemStatement()
  for name in names:
    problem.search_space.root.add_float_param(name, 0.0, 1.0)
  problem.metric_information.append(
    pyvizier.MetricInformation(
      "score", goal=pyvizier.ObjectiveMetricGoal.MAXIMIZE
    )
  )
  trials = [
    pyvizier.Trial(id=i + 1, parameters=dict(zip(names, point))).complete(
      pyvizier.Measurement({} if score is None else {"score": score}),
      infeasibility_reason="not finite" if score is None else None,
    )
    for i, (point, score) in enumerate(zip(points, scores, strict=True))
  ]
  designer = gp_bandit.VizierGPBandit(
    problem,
    acquisition_optimizer_factory=vectorized_base.VectorizedOptimizerFactory(
      strategy_factory=eagle_strategy.VectorizedEagleStrategyFactory(),
      max_evaluations=evaluations,
      suggestion_batch_size=25,
    ),
    # One program serves ten trials.
    padding_schedule=padding.PaddingSchedule(
      num_trials=padding.PaddingType.MULTIPLES_OF_10
    ),
    rng=jax.random.fold_in(jax.random.PRNGKey(seed), len(trials)),
  )
  designer.update(algorithms.CompletedTrials(trials), algorithms.ActiveTrials())
  values = designer.suggest(1)[0].parameters
  return np.clip([float(values[name].value) for name in names], 0.0, 1.0)


if __name__ == "__main__":
  _serve()
