"""Several processes as one run: start, agreement, preemption, lost peers.

A host of a TPU slice is one process. Elsewhere JAX_COORDINATOR_ADDRESS,
JAX_NUM_PROCESSES and JAX_PROCESS_ID define one. Without either, nothing here
has an effect, and a plain run starts as fast as without this module.

Such a process must not install a Python handler for SIGTERM: it would silence
JAX's preemption service, which tells every process of the signal that one of
them got, and of the step at which all save.
"""

import contextlib
import json
import os
import sys
from collections.abc import Callable, Iterator, Mapping
from typing import Any, TypeVar

from embeddinggemma.distributed import peers
from embeddinggemma.types import BadInput, Interrupted, Stopped

T = TypeVar("T")

_VARIABLES = ("JAX_COORDINATOR_ADDRESS", "JAX_NUM_PROCESSES", "JAX_PROCESS_ID")
# Seconds. With these, the peers of a lost process exit within a minute; tests
# and unusual networks set others.
_HEARTBEAT, _START, _SHUTDOWN = 45, 300, 30
# Seconds to wait where some processes may be much slower than others, such as
# when they read weights or compile.
PATIENT = 900.0
_HEARTBEAT_VARIABLE = "EMBEDDINGGEMMA_HEARTBEAT_SECONDS"
_START_VARIABLE = "EMBEDDINGGEMMA_START_SECONDS"

_group: peers.Group | None = None  # the run's processes; None: a single one


def is_first() -> bool:
  """Whether this process writes what a run writes once."""
  return _group is None or _group.index == 0


def count() -> int:
  """Processes of this run."""
  return 1 if _group is None else _group.count


@contextlib.contextmanager
def together() -> Iterator[None]:
  """Join the other processes of this run, and leave them in order.

  It must be entered before any device is used. An error that ends one process
  ends the others with the same message and exit code.
  """
  global _group
  _group = _start()
  if _group is None:
    yield
    return
  try:
    _smoke_test(_group)
    yield
  except Interrupted:
    _stop(_group)
    raise
  except BaseException as error:
    _group.leave(_code(error), _words(error), _is_of_peers(error))
    raise
  _stop(_group)


def _code(error: BaseException) -> int:
  if _is_of_peers(error):
    return 42
  codes = {BadInput: 2, Stopped: 1, KeyboardInterrupt: 42}
  return next((c for kind, c in codes.items() if isinstance(error, kind)), 1)


def _words(error: BaseException) -> str:
  lines = str(error).strip().splitlines()
  return f"{type(error).__name__}: {lines[0] if lines else ''}"


def _is_of_peers(error: BaseException) -> bool:
  """Whether the error may come from a lost peer: a collective that failed."""
  import jax

  signs = ("Gloo", "UNAVAILABLE", "DEADLINE_EXCEEDED", "ABORTED", "CANCELLED")
  return isinstance(error, jax.errors.JaxRuntimeError) and any(
    sign in str(error) for sign in signs
  )


def _start() -> peers.Group | None:
  given = _given()
  if given is None and not _on_tpu():
    return None
  import jax
  from jax._src import distributed  # the client has no public name

  _drop_stale_slices()
  heartbeat = _seconds(_HEARTBEAT_VARIABLE, _HEARTBEAT)
  limit = _seconds(_START_VARIABLE, _START)
  arguments: dict[str, Any] = {
    "initialization_timeout": limit,
    "heartbeat_timeout_seconds": heartbeat,
    "shutdown_timeout_seconds": _SHUTDOWN,
  }
  if given is not None:
    address, processes, index = given
    arguments |= {
      "coordinator_address": address,
      "num_processes": processes,
      "process_id": index,
      "cluster_detection_method": "deactivate",
    }
    if _cpu():
      jax.config.update("jax_cpu_collectives_implementation", "gloo")
  with peers.starting(given, limit):
    try:
      jax.distributed.initialize(**arguments)
    except ValueError:
      if given is not None:
        raise
      peers.no_handler()
      return None  # chips that are no part of a slice: this host is alone
  state = distributed.global_state
  group = peers.Group(
    state.client,
    state.process_id,
    state.num_processes,
    state.coordinator_address or "",
    heartbeat,
  )
  group.start()
  return group


def _given() -> tuple[str, int, int] | None:
  """(coordinator, processes, index) from the environment, or None."""
  there = [name for name in _VARIABLES if os.environ.get(name)]
  if not there or (there == [_VARIABLES[0]] and _on_tpu()):
    return None
  if missing := [name for name in _VARIABLES if name not in there]:
    raise BadInput(
      f"{there[0]} is set, but {missing[0]} is not; set"
      f" {', '.join(_VARIABLES)}, or none of them"
    )
  address, *numbers = (os.environ[name] for name in _VARIABLES)
  host, colon, port = address.rpartition(":")
  if not (host and colon and port.isdigit()):
    raise BadInput(f"{_VARIABLES[0]}={address} must be HOST:PORT")
  if not all(number.isdigit() for number in numbers):
    raise BadInput(
      f"{_VARIABLES[1]}={numbers[0]} {_VARIABLES[2]}={numbers[1]} must be"
      " numbers"
    )
  processes, index = map(int, numbers)
  if index >= processes:
    raise BadInput(
      f"{_VARIABLES[2]}={index} must be below {_VARIABLES[1]}={processes}"
    )
  return address, processes, index


def _seconds(name: str, default: int) -> int:
  value = os.environ.get(name, str(default))
  if not value.isdigit() or int(value) < 1:
    raise BadInput(f"{name}={value} must be a number of seconds")
  return int(value)


def _cpu() -> bool:
  return os.environ.get("JAX_PLATFORMS", "") == "cpu"


def _on_tpu() -> bool:
  """Whether this host has TPU chips that JAX may use; touches no device."""
  platforms = os.environ.get("JAX_PLATFORMS", "")
  if platforms and "tpu" not in platforms.split(","):
    return False
  from jax._src import hardware_utils

  return hardware_utils.num_available_tpu_chips_and_device_id()[0] > 0


def _drop_stale_slices() -> None:
  """Drop variables that an earlier life of this host left of a multi-slice run.

  After a preemption a platform may set the coordinator of slices that no longer
  exist, for which the TPU runtime would wait forever.
  """
  names = [name for name in os.environ if name.startswith("MEGASCALE_")]
  if names and os.environ.get("MEGASCALE_NUM_SLICES", "1") in ("", "0", "1"):
    for name in names:
      del os.environ[name]
    print(f"ignored, of a single slice: {', '.join(names)}", file=sys.stderr)


def _smoke_test(group: peers.Group) -> None:
  """Check that every process takes part in a collective.

  Device counts alone may look right before the processes are connected.
  """
  import jax
  import numpy as np
  from jax.experimental import multihost_utils

  if jax.process_count() != group.count:
    raise BadInput(
      f"{group.count} processes were started, but their devices form"
      f" {jax.process_count()}; start one process for each host of one slice"
    )
  group.barrier("start")
  numbers = multihost_utils.process_allgather(np.array([group.index]))
  if sorted(numbers.reshape(-1).tolist()) != list(range(group.count)):
    raise BadInput(
      f"of {group.count} processes, {numbers} answered; start all again, each"
      " with an index of its own"
    )


def _stop(group: peers.Group) -> None:
  """Leave together with the others; a process that does not come is named."""
  global _group
  import jax

  group.barrier("end")
  group.stop()
  jax.distributed.shutdown()
  _group = None


def barrier(name: str, seconds: float = PATIENT) -> None:
  """Wait for the other processes; exit 42 naming those that do not come."""
  if _group is not None:
    _group.barrier(name, seconds)


def agree(name: str, value: Mapping[str, Any]) -> None:
  """Raises BadInput in every process where one has another value.

  The line names the first key that differs, and two processes.
  """
  if _group is None:
    return
  mine = {key: json.dumps(x, sort_keys=True) for key, x in value.items()}
  told = _group.exchange(name, json.dumps(mine), PATIENT)
  ours = json.loads(told[0])
  for index, text in sorted(told.items()):
    theirs = json.loads(text)
    for key in sorted(ours.keys() | theirs.keys()):
      if ours.get(key) != theirs.get(key):
        raise BadInput(
          f"processes disagree about {name}: {key}={ours.get(key)} in"
          f" {_group.name(0)}, {theirs.get(key)} in {_group.name(index)};"
          " start all with the same command"
        )


def gather(name: str, value: str) -> list[str]:
  """The values of all processes, in their order."""
  if _group is None:
    return [value]
  told = _group.exchange(name, value, PATIENT)
  return [told[index] for index in sorted(told)]


def first_does(name: str, work: Callable[[], T]) -> T | None:
  """Let the first process work while the others wait as long as it takes.

  Returns the result in the first process and None in the others.
  """
  if _group is None:
    return work()
  key = f"done/{name}/{_once(name)}"
  if _group.index == 0:
    done = work()
    _group.tell(key, "1")
    return done
  while not _group.told(key, seconds=2.0):
    pass
  return None


@contextlib.contextmanager
def preemption(first: int) -> Iterator[Callable[[int], bool]]:
  """A context with a function step -> whether this run should stop.

  All processes must call it with every step from `first`, in order. With
  several processes, and on a TPU, JAX's preemption service answers, and all get
  True at the same step. For a single process, SIGTERM is caught while the
  context lasts.
  """
  if _group is None:
    caught: list[bool] = []
    with peers.catching_sigterm(lambda: caught.append(True)):
      yield lambda step: bool(caught)
    return
  from jax.experimental import multihost_utils

  # The sync point is one more than the largest number asked about so far. Of
  # a notice from before training it would be long passed, if asking began at
  # `first`.
  reached = multihost_utils.reached_preemption_sync_point
  early = any([reached(number) for number in range(first)])
  group = _group

  def preempted(step: int) -> bool:
    group.at(step)
    return reached(step) or early

  yield preempted


class EveryMinutes:
  """True at the first step after so many minutes, in all processes alike.

  The clock of the first process decides. It announces the step four steps
  ahead, since it is never more than two steps behind the others, which it joins
  in each step.
  """

  def __init__(self, minutes: float, clock: Callable[[], float]):
    self._seconds, self._clock = 60 * minutes, clock
    self._since, self._at = clock(), -1
    self._key = f"save/{_once('save')}"

  def done(self) -> None:
    """Count the minutes from now."""
    self._since = self._clock()

  def __call__(self, step: int) -> bool:
    """Whether it is time; to be called with every step, by all processes."""
    if not self._seconds:
      return False
    late = self._clock() - self._since >= self._seconds
    if _group is None or _group.count == 1:
      return late
    if _group.index == 0 and late and self._at < step:
      self._at = step + 4
      _group.tell(f"{self._key}/{self._at}", "1")
    return _group.get(f"{self._key}/{step}") is not None


_numbers: dict[str, int] = {}


def _once(name: str) -> int:
  """How often this name was asked for.

  The number is the same in all processes, which run the same code.
  """
  _numbers[name] = _numbers.get(name, 0) + 1
  return _numbers[name]
