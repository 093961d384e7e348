"""The one training loop; stages differ in what they pass to it."""

import math
import time
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple, Protocol, runtime_checkable

import jax

from embeddinggemma.data.loader import Loaded
from embeddinggemma.losses.objectives import SEEN
from embeddinggemma.training.step import Program
from embeddinggemma.types import BadBatch, Interrupted, Metrics, TrainState


class StepInfo(NamedTuple):
  """The result of one step, read while the next one is already running."""

  step: int  # number of updates, this one included
  metrics: dict[str, float]
  loaded: Loaded
  seconds: float  # since the metrics of the previous step were read
  waited: float  # seconds that the loop waited for data


@runtime_checkable
class Stream(Protocol):
  """Batches with a position that can be saved."""

  def __next__(self) -> Loaded: ...
  def state(self) -> dict[str, Any]:
    """The position of the batch that the next call of `next` returns."""
    ...


def never(step: int) -> bool:
  """Never due: false at every step."""
  del step
  return False


class Hook(NamedTuple):
  """A function that runs before certain steps, such as one that saves.

  It runs when `every` divides the number of updates, when `also` is true of it,
  when training is told to stop, and at the end.
  """

  every: int
  run: Callable[[int, TrainState, Stream], None]
  also: Callable[[int], bool] = never  # called with every step, in order

  def is_due(self, step: int) -> bool:
    """Whether it runs after so many updates."""
    also = self.also(step)
    return step > 0 and (also or step % self.every == 0)


# (step, its metrics, its batch) -> the metrics that are read, as scalars.
Look = Callable[[int, Metrics, Any], Metrics]
Observer = Callable[[StepInfo], None]
# A check of each step: what is wrong with it, or "".
Guard = Callable[[StepInfo], str]


def no_look(step: int, metrics: Metrics, batch: Any) -> Metrics:
  """The metrics of a step, without what it shows to a probe."""
  del step, batch
  return {name: value for name, value in metrics.items() if name != SEEN}


def finite(info: StepInfo) -> str:
  """The first of loss and norms that is not finite, as a message, or ""."""
  for name in ("loss", "grad_norm", "update_norm"):
    if not math.isfinite(info.metrics[name]):
      return f"{name} is {info.metrics[name]}"
  return ""


class _Pending(NamedTuple):
  step: int
  metrics: Metrics
  loaded: Loaded
  waited: float


def fit(
  program: Program,
  state: TrainState,
  stream: Stream,
  steps: int,
  hooks: Sequence[Hook],
  observers: Sequence[Observer],
  guard: Guard = finite,
  preempted: Callable[[int], bool] = never,
  look: Look = no_look,
) -> TrainState:
  """Train from state.step to `steps` and return the last state.

  A hook sees a state whose steps have all passed the guard, and the stream
  before it advances, so a save holds both together.

  Args:
    program: the compiled step.
    state: where to start.
    stream: the batches.
    steps: total number of updates, those before state.step included.
    hooks: run before steps when they are due.
    observers: called with the result of every step.
    guard: checks every step.
    preempted: called with every step; whether to stop there.
    look: called with every step that is under way; may add to its metrics.

  Raises:
    BadBatch: the guard objects to a step.
    Interrupted: `preempted` is true; the hooks have run before.
  """
  watch = _Watch(observers, guard)
  for step in range(int(state.step), steps):
    stop = preempted(step)
    due = [hook for hook in hooks if hook.is_due(step) or stop]
    if due:
      watch.flush()
    for hook in due:
      hook.run(step, state, stream)
    if stop:
      raise Interrupted(
        f"told to stop: saved at step {step}; the same command continues"
      )
    began = time.perf_counter()
    loaded = next(stream)
    waited = time.perf_counter() - began
    state, metrics = program(state, loaded.batch)
    metrics = look(step + 1, metrics, loaded.batch)
    # The device is busy with this step while the last one is read.
    watch.flush()
    watch.pending = _Pending(step + 1, metrics, loaded, waited)
  watch.flush()
  for hook in hooks:
    hook.run(steps, state, stream)
  return state


class _Watch:
  """Reads the metrics of a dispatched step and passes them on."""

  def __init__(self, observers: Sequence[Observer], guard: Guard):
    self.pending: _Pending | None = None
    self._observers, self._guard = observers, guard
    self._seen = time.perf_counter()

  def flush(self) -> None:
    if self.pending is None:
      return
    step, metrics, loaded, waited = self.pending
    self.pending = None
    values = {k: float(v) for k, v in jax.device_get(metrics).items()}
    now = time.perf_counter()
    info = StepInfo(step, values, loaded, now - self._seen, waited)
    self._seen = now
    for observe in self._observers:
      observe(info)
    if fault := self._guard(info):
      raise BadBatch(
        f"step {step}: {fault}; task {loaded.task}, rows"
        f" {','.join(map(str, loaded.rows))}; checkpoints are from before this"
        " step",
        step,
        loaded.index,
      )
