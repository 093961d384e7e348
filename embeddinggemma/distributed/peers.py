"""The other processes of a run: who they are, and that they still live.

JAX's coordination service, in the first process, notices within the heartbeat
that a process is gone, and then aborts all others from a thread of C++. What
is added here: that they exit with 42, as all that should be started again do,
and say which process is gone; and that a process which fails by itself tells
the others why.
"""

import atexit
import contextlib
import ctypes
import json
import os
import signal
import socket
import sys
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any

_BARRIER = 60.0  # longest wait at a barrier, in seconds
_AGAIN = "the same command continues"
_LOST = 42
# Where JAX's service notes that a process got SIGTERM.
_NOTICE = "RECEIVED_PREEMPTION_NOTICE"

_handler: Any = None  # kept, or ctypes would free what C calls


def _on_abort(say: Callable[[], str]) -> None:
  """Install a C signal handler that exits with 42 when C++ aborts.

  The coordination service aborts if a peer is gone. A Python handler would not
  run, since C++ aborts at once; so C calls this one, in the thread that aborts.
  It prints what `say` returns; if that is "", the abort stays an abort.
  """
  global _handler

  @ctypes.CFUNCTYPE(None, ctypes.c_int)
  def handler(_: int) -> None:
    words = ""
    with contextlib.suppress(Exception):
      words = say()
    if words:
      os.write(2, f"\n{words}\n".encode())
      os._exit(_LOST)
    no_handler()

  _signal(ctypes.cast(handler, ctypes.c_void_p))
  _handler = handler


def no_handler() -> None:
  """Restore the default handling of aborts."""
  _signal(None)


def _signal(handler: Any) -> None:
  libc = ctypes.CDLL(None)
  libc.signal.argtypes = [ctypes.c_int, ctypes.c_void_p]
  libc.signal(signal.SIGABRT, handler)


@contextlib.contextmanager
def catching_sigterm(catch: Callable[[], None]) -> Iterator[None]:
  """Call `catch` on SIGTERM instead of dying, for a process without peers."""
  if threading.current_thread() is not threading.main_thread():
    yield
    return
  before = signal.signal(signal.SIGTERM, lambda *_: catch())
  try:
    yield
  finally:
    signal.signal(signal.SIGTERM, before)


@contextlib.contextmanager
def starting(given: tuple[str, int, int] | None, limit: int) -> Iterator[None]:
  """A context for the start, which names processes that do not come in time.

  The coordination service only says that some did not come. So the processes
  also call the first one themselves, at the port after the coordinator's.

  Args:
    given: (coordinator, processes, index), or None on a TPU slice.
    limit: seconds.
  """
  if given is None:
    _on_abort(
      lambda: (
        f"not every host of this slice came within {limit} s: its log is the"
        f" one that lacks this line; {_AGAIN}"
      )
    )
    yield
    return
  address, count, index = given
  roll = _Roll(address, count, index)
  _on_abort(lambda: f"{roll.missing()} within {limit} s; {_AGAIN}")
  roll.start()
  try:
    yield
  finally:
    roll.stop()


class _Roll:
  """A roll call: which processes have come, as known to the first one."""

  def __init__(self, address: str, count: int, index: int):
    host, _, port = address.rpartition(":")
    self._place = host.strip("[]"), int(port) + 1
    self._count, self._index = count, index
    self._come, self._done = {index}, threading.Event()

  def start(self) -> None:
    """Start to listen (first process) or to call (others), in a thread."""
    target = self._listen if self._index == 0 else self._call
    threading.Thread(target=target, daemon=True).start()

  def stop(self) -> None:
    """End the thread."""
    self._done.set()

  def missing(self) -> str:
    """The processes that have not come, as a sentence for a message."""
    if self._index:
      return "process 0 and all others did not come together"
    absent = sorted(set(range(self._count)) - self._come)
    names = ", ".join(map(str, absent))
    return f"of {self._count} processes, {names or 'some'} did not come"

  def _listen(self) -> None:
    # Without it, only the names are lost.
    with contextlib.suppress(OSError), socket.socket() as server:
      server.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
      server.bind(("", self._place[1]))
      server.listen(self._count)
      server.settimeout(0.5)
      while not self._done.is_set():
        with contextlib.suppress(OSError):
          connection, _ = server.accept()
          with connection:
            connection.settimeout(0.5)
            self._come.add(int(connection.recv(16) or b"0"))

  def _call(self) -> None:
    while not self._done.wait(0.5):
      with (
        contextlib.suppress(OSError),
        socket.create_connection(self._place, 1.0) as connection,
      ):
        connection.sendall(str(self._index).encode())
        return


class Group:
  """This process among others, over JAX's coordination service."""

  def __init__(
    self, client: Any, index: int, count: int, address: str, heartbeat: int
  ):
    self.index, self.count = index, count
    self._client, self._address = client, address
    self._heartbeat = heartbeat
    self._period = min(1.0, heartbeat / 10)
    self._names: dict[int, str] = {}
    # How often this process asked whether to go on, at which step, and when.
    self._asked, self._step, self._moved = 0, -1, time.monotonic()
    self._seen: dict[int, tuple[str, float]] = {}  # last beat, and when
    self._places: dict[int, tuple[str, float]] = {}  # the same of the others
    self._ended, self._left = threading.Event(), False
    self._times: dict[str, int] = {}

  def name(self, index: int) -> str:
    """A process for messages, such as "process 3 (host)"."""
    host = self._names.get(index)
    return f"process {index}{f' ({host})' if host else ''}"

  def start(self) -> None:
    """Announce this host's name and begin to watch the others."""
    now = time.monotonic()
    self._seen = {n: ("", now) for n in range(self.count) if n != self.index}
    _on_abort(self._who_is_gone)
    self.tell(f"host/{self.index}", socket.gethostname())
    threading.Thread(target=self._watch, daemon=True).start()

  def stop(self) -> None:
    """End the watch, before the processes leave."""
    self._ended.set()
    no_handler()

  def tell(self, key: str, value: str) -> None:
    """Write a key that all processes can read."""
    self._client.key_value_set(f"eg/{key}", value, allow_overwrite=True)

  def get(self, key: str) -> str | None:
    """Read a key; None if nobody has written it."""
    return self._get(f"eg/{key}")

  def noticed(self) -> bool:
    """Whether some process got SIGTERM."""
    return self._get(_NOTICE) is not None

  def _get(self, key: str) -> str | None:
    try:
      return self._client.key_value_try_get(key)
    except Exception:  # of several kinds, by version
      return None

  def told(self, key: str, seconds: float) -> bool:
    """Wait up to `seconds` for a key; whether it was written."""
    try:
      self._client.blocking_key_value_get(f"eg/{key}", int(1000 * seconds))
    except Exception:  # the deadline, or a service that is gone: it aborts us
      time.sleep(min(seconds, 0.1))
      return False
    return True

  def barrier(self, name: str, seconds: float = 0.0) -> None:
    """Wait for all processes; exit 42 naming those that do not come.

    The limit is a minute at most, or `seconds` where some may be slower for
    good reason; a process that dies is noticed by its heartbeat.
    """
    key = self._once(name)
    self.tell(f"{key}/{self.index}", "1")
    limit = seconds or self._limit
    try:
      self._client.wait_at_barrier(f"eg/{key}", int(1000 * limit))
    except Exception as error:
      came = self._all(key)
      absent = [n for n in range(self.count) if n not in came]
      if not came or not absent:
        raise
      names = ", ".join(map(self.name, absent))
      self._give_up(f"{names} did not come to {name!r} within {limit:.0f} s")
      raise AssertionError from error

  @property
  def _limit(self) -> float:
    """Seconds after which a process that others wait for counts as hung."""
    return min(_BARRIER, self._heartbeat + 10.0)

  def at(self, step: int) -> None:
    """Record the step of this process, which the watch tells the others."""
    self._asked, self._step = self._asked + 1, step
    self._moved = time.monotonic()

  def exchange(
    self, name: str, value: str, seconds: float = 0.0
  ) -> dict[int, str]:
    """The values of all processes by number; waits as `barrier` does."""
    key = self._once(f"say/{name}")
    self.tell(f"{key}/{self.index}", value)
    self.barrier(name, seconds)
    return self._all(key)

  def _once(self, name: str) -> str:
    """A name that was not used before; all processes count alike.

    The service accepts the name of a barrier only once.
    """
    self._times[name] = self._times.get(name, 0) + 1
    return f"{name}/{self._times[name]}"

  def _all(self, key: str) -> dict[int, str]:
    try:
      found = self._client.key_value_dir_get(f"eg/{key}/")
    except Exception:
      return {}
    return {int(name.rpartition("/")[2]): value for name, value in found}

  def leave(self, code: int, words: str, of_peers: bool) -> None:
    """Tell the others why this process fails, and with which exit code.

    `of_peers`: the failure may be that of another process; then wait for word
    of it, which ends this process.
    """
    if of_peers:
      self._ended.wait(self._heartbeat + 15)
    with contextlib.suppress(Exception):
      self.tell(f"left/{self.index}", json.dumps([code, words]))
    self._left = True
    if self.index == 0 and self.count > 1:
      time.sleep(3 * self._period + 1)  # with it the service goes
    # Not by JAX's shutdown, which waits for the others. Registered last, it is
    # the first to run, after a traceback is printed; threads that wait for a
    # peer could keep the interpreter from coming to it.
    atexit.register(_exit_now, code)
    late = threading.Timer(10.0, _exit_now, [code])
    late.daemon = True
    late.start()

  def _watch(self) -> None:
    beats = 0
    while not self._ended.wait(self._period):
      beats += 1
      with contextlib.suppress(Exception):  # a service that is gone aborts us
        self.tell(f"beat/{self.index}", str(beats))
        self.tell(f"at/{self.index}", f"{self._asked} {self._step}")
        self._note(self._seen, "beat")
        self._note(self._places, "at")
        if len(self._names) < self.count:
          self._names = self._all("host")
        for index, told in self._all("left").items():
          if index != self.index and not self._left:
            self._follow(index, *json.loads(told))
        self._look_for_hung()

  def _note(self, known: dict[int, tuple[str, float]], key: str) -> None:
    now = time.monotonic()
    for index, value in self._all(key).items():
      if index != self.index and known.get(index, ("", 0.0))[0] != value:
        known[index] = value, now

  def _look_for_hung(self) -> None:
    """Exits 42 where this process has long waited for one that is behind it.

    While all compile, or wait for storage, none is behind; before the first
    step, barriers name who is late.
    """
    now = time.monotonic()
    if now - self._moved < self._limit or self._left:
      return
    for index, (place, since) in self._places.items():
      asked, step = map(int, place.split())
      if now - since >= self._limit and 0 < asked < self._asked:
        self._give_up(
          f"{self.name(index)} hangs: the others have been at step"
          f" {self._step} for {self._limit:.0f} s, it is at {step}"
        )

  def _give_up(self, words: str) -> None:
    """End this process and all others, even a hung one if it listens."""
    with contextlib.suppress(Exception):
      self.tell(f"left/{self.index}", json.dumps([_LOST, words]))
    self._left = True
    os.write(2, f"{words}; {_AGAIN}\n".encode())
    if self.index == 0:
      time.sleep(3 * self._period)
    os._exit(_LOST)

  def _follow(self, index: int, code: int, words: str) -> None:
    """End with another process's exit code, unless this one already ends."""
    time.sleep(self._period)
    if not self._left:
      os.write(2, f"{self.name(index)} stopped: {words}\n".encode())
      os._exit(code)

  def _who_is_gone(self) -> str:
    now = time.monotonic()
    still = {n: now - seen for n, (_, seen) in self._seen.items()}
    gone = [n for n, s in sorted(still.items()) if s > 0.5 * self._heartbeat]
    if not gone and self.index and not self._answers():
      gone = [0]
    names = ", ".join(map(self.name, gone))
    return f"{names} of {self.count} is gone; {_AGAIN}" if gone else ""

  def _answers(self) -> bool:
    host, _, port = self._address.rpartition(":")
    with contextlib.suppress(OSError, ValueError):
      with socket.create_connection((host.strip("[]"), int(port)), 1.0):
        return True
    return False


def _exit_now(code: int) -> None:
  sys.stdout.flush()
  sys.stderr.flush()
  os._exit(code)
