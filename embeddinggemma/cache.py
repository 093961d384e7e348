"""Work that is done once; a folder with its final name is always complete.

A task's folder holds stage.json once it is done, with the hash of all that its
result depends on. A task that was killed is redone, or continued if it can be.
"""

import contextlib
import dataclasses
import errno
import fcntl
import functools
import hashlib
import json
import os
import pathlib
import platform
import shutil
import socket
import tempfile
import threading
import time
from collections.abc import Callable, Container, Iterator, Mapping, Sequence
from typing import Any, TypeVar

import numpy as np

from embeddinggemma.types import IDENTITY, BadInput

T = TypeVar("T")

STAGE_FILE = "stage.json"
KEY_FILE = "key.json"
LOCK_FILE = ".lock"
PROGRAMS = "programs"  # folder of compiled programs, in a workdir


@dataclasses.dataclass(frozen=True)
class Task:
  """A piece of work of a recipe that is done once, in a folder of its own.

  `work(directory)` fills the folder and returns its result as a mapping or a
  NamedTuple, which `Done.result` reads back. A `resumable` task works in its
  own folder and can continue there; any other works in a folder beside it,
  which gets the final name when it is complete.
  """

  name: str
  inputs: Mapping[str, Any]  # all on which the result depends, as JSON
  work: Callable[[pathlib.Path], Any]  # a mapping or a NamedTuple
  resumable: bool = False


@dataclasses.dataclass(frozen=True)
class Done:
  """The record of a finished task: a row of summary.json."""

  name: str
  seconds: float  # sum over all calls that it took
  cached: bool  # whether an earlier call did it
  key: str  # hash of its inputs; later tasks include it in theirs
  checkpoint: str  # relative to its folder; "" if it makes none
  hash: str  # content hash of the checkpoint's weights
  metrics: dict[str, Any]

  def result(self, kind: type[T]) -> T:
    """The result of the task as the NamedTuple that its work returned.

    A field that an earlier version did not have needs a default.
    """
    known = kind.__annotations__
    return kind(**{k: v for k, v in self.metrics.items() if k in known})


def as_dict(result: Any) -> dict[str, Any]:
  """The fields of a NamedTuple, or a copy of a mapping."""
  return result._asdict() if hasattr(result, "_asdict") else dict(result)


AllDone = Mapping[str, Done]  # the tasks before one, by name


def key_of(inputs: Mapping[str, Any]) -> str:
  """The hash of a task's inputs."""
  text = json.dumps(inputs, sort_keys=True)
  return hashlib.sha256(text.encode()).hexdigest()


def keys_of(inputs: Mapping[str, Any]) -> tuple[str, ...]:
  """The hash of inputs, and the one by which earlier versions knew them.

  Those recorded no identity of a model, only the hash of its weights. What they
  made is still read.
  """
  return tuple(dict.fromkeys(map(key_of, (inputs, _without(inputs)))))


def _without(tree: Any) -> Any:
  """A tree of mappings without identities."""
  if not isinstance(tree, Mapping):
    return tree
  return {k: _without(v) for k, v in tree.items() if k != IDENTITY}


def to_json(value: Any) -> bytes:
  """A value as JSON in the format of this project's files."""
  return (json.dumps(value, indent=1) + "\n").encode()


def write_json(path: pathlib.Path, value: Any) -> None:
  """Write a JSON file, complete or not at all."""
  partial = partial_of(path)
  partial.write_bytes(to_json(value))
  _complete(partial, path)


def write_array(path: pathlib.Path, array: np.ndarray) -> None:
  """Write a .npy file, complete or not at all.

  np.save reports nothing if the disk is full for the last 4096 bytes: they stay
  in a buffer of the C library, whose failure is not checked.
  """
  array = np.ascontiguousarray(array)
  header = np.lib.format.header_data_from_array_1_0(array)
  partial = partial_of(path)
  with partial.open("wb") as file:
    np.lib.format.write_array_header_1_0(file, header)
    file.write(array.reshape(-1).view(np.uint8).data)
  _complete(partial, path)


def partial_of(path: pathlib.Path) -> pathlib.Path:
  """Where a file is written before it is complete: beside it.

  A device or a pipe, such as /dev/stdout, is no file to be replaced: it is
  written itself.
  """
  if path.parent == pathlib.Path("/dev") or _is_special(path):
    return path
  return path.with_name(f"{path.name}.partial")


def _is_special(path: pathlib.Path) -> bool:
  return path.exists() and not path.is_file() and not path.is_dir()


def _complete(partial: pathlib.Path, path: pathlib.Path) -> None:
  if partial != path:
    partial.replace(path)


def require_place(path: pathlib.Path, folder: bool) -> None:
  """Raise the OSError of making a file or folder at a path, before any work.

  Nothing is left there: an unnamed file is made in the nearest folder that
  exists.
  """
  try:
    place = path if folder else partial_of(path)
    if _is_there(place) and not folder:
      return
    if _is_there(place) and not place.is_dir():
      raise NotADirectoryError(errno.ENOTDIR, os.strerror(errno.ENOTDIR))
    while not _is_there(place):
      place = place.parent
    with tempfile.TemporaryFile(dir=place):
      pass
  except OSError as error:
    raise OSError(error.errno, error.strerror, str(path)) from None


def _is_there(path: pathlib.Path) -> bool:
  """Whether a path exists; OSError if it cannot, such as one below a file."""
  try:
    path.stat()
  except FileNotFoundError:
    return False
  return True


def read_json(path: pathlib.Path) -> dict[str, Any]:
  """The content of a JSON file, or {} where there is none."""
  return json.loads(path.read_text()) if path.is_file() else {}


def bound(
  table: Mapping[str, Callable[[Any, AllDone], Task]],
  run: Any,
  left_out: Container[str] = (),
) -> dict[str, Callable[[AllDone], Task]]:
  """A recipe's table of tasks, each as a function of the results before it.

  `run` is passed to every function of the table; names in `left_out` are
  dropped.
  """
  return {
    name: functools.partial(make, run)
    for name, make in table.items()
    if name not in left_out
  }


def perform(task: Task, workdir: pathlib.Path) -> Done:
  """The result of a task: found on disk, or continued, or done now."""
  directory, keys = workdir / task.name, keys_of(task.inputs)
  target = directory if task.resumable else workdir / f"{task.name}.partial"
  for place in (directory, target):
    saved = read_json(place / STAGE_FILE)
    if saved.get("key") in keys:
      if place != directory:
        _take_name(target, directory)
      return dataclasses.replace(Done(**saved), cached=True)
  _require_ours(directory)
  key, spent = _start(target, keys, keep=task.resumable)
  began = time.perf_counter()
  try:
    result = as_dict(task.work(target))
  except BaseException:
    _stopped(task, key, target, spent + time.perf_counter() - began)
    raise
  spent += time.perf_counter() - began
  checkpoint, digest = result.pop("checkpoint", ""), result.pop("hash", "")
  done = Done(
    task.name, round(spent, 2), False, key, checkpoint, digest, result
  )
  write_json(target / STAGE_FILE, dataclasses.asdict(done))
  if target != directory:
    _take_name(target, directory)
  return done


def checkpoint_of(workdir: pathlib.Path, done: Done) -> str:
  """The absolute path of a task's checkpoint; "" if it makes none."""
  if not done.checkpoint:
    return ""
  return str(workdir.resolve() / done.name / done.checkpoint)


def is_done(task: Task, workdir: pathlib.Path) -> bool:
  """Whether `perform` would find the result of the task."""
  saved = read_json(workdir / task.name / STAGE_FILE)
  return saved.get("key") in keys_of(task.inputs)


def _start(
  target: pathlib.Path, keys: Sequence[str], keep: bool
) -> tuple[str, float]:
  """Prepare a folder, empty or to continue in.

  Returns the key of the work there, which is the first unless an earlier
  version began it, and the seconds spent before.
  """
  started = read_json(target / KEY_FILE)
  if keep and started.get("key") in keys:
    return started["key"], started["seconds"]
  _remove(target)
  target.mkdir(parents=True)
  write_json(target / KEY_FILE, {"key": keys[0], "seconds": 0.0})
  return keys[0], 0.0


def _remove(directory: pathlib.Path) -> None:
  """Delete a task's folder, after renaming it.

  So a folder that is half deleted by a kill is never taken for a result.
  """
  if directory.exists():
    _require_ours(directory)
    old = directory.with_name(f".{directory.name}.old")
    shutil.rmtree(old, ignore_errors=True)
    directory.rename(old)
    shutil.rmtree(old, ignore_errors=True)


def _require_ours(directory: pathlib.Path) -> None:
  """Raise BadInput if the folder was not made by a task."""
  ours = directory.name.endswith(".partial") or any(
    path.name.startswith((KEY_FILE, STAGE_FILE))
    for path in _children(directory)
  )
  if not ours and (directory.is_file() or _children(directory)):
    raise BadInput(
      f"{directory} is not of a run and would be replaced; use another"
      " --workdir"
    )


def _children(directory: pathlib.Path) -> list[pathlib.Path]:
  return list(directory.iterdir()) if directory.is_dir() else []


def _stopped(task: Task, key: str, target: pathlib.Path, spent: float) -> None:
  """Record the time of a task that can continue; delete any other's folder."""
  if task.resumable:
    started = {"key": key, "seconds": spent}
    write_json(target / KEY_FILE, started)
  else:
    _remove(target)


def _take_name(target: pathlib.Path, directory: pathlib.Path) -> None:
  _remove(directory)
  target.rename(directory)


_shared: dict[str, tuple[str, Any]] = {}


def share(kind: str, key: Mapping[str, Any], make: Callable[[], T]) -> T:
  """The value that the last call with this kind made, if its key was the same.

  It shares data and programs among the runs of one process.
  """
  name = key_of(key)
  if _shared.get(kind, ("", None))[0] != name:
    _shared[kind] = name, make()
  return _shared[kind][1]


def as_folder(text: str, key: str = "") -> pathlib.Path:
  """The folder that a flag or key names; BadInput for a bucket's address."""
  if "://" in text:
    bucket = text.split("://", 1)[1].partition("/")[0]
    named = f"{key}: {text}" if key else text
    raise BadInput(
      f"{named} is an address, not a folder; mount the bucket (gcsfuse"
      f" {bucket} /mnt/{bucket}) on every host and give its path"
    )
  return pathlib.Path(text)


def require_writable(folder: pathlib.Path, seconds: float = 30.0) -> None:
  """Write, read and delete a small file; BadInput if that fails in time.

  It runs in a thread, since a bucket without write access can block forever.
  """
  failure: list[str] = [f"no answer within {seconds:.0f} s"]

  def probe() -> None:
    name = f".probe-{socket.gethostname()}-{os.getpid()}"
    try:
      folder.mkdir(parents=True, exist_ok=True)
      (folder / name).write_text(name)
      same = (folder / name).read_text() == name
      (folder / name).unlink()
      failure[:] = [] if same else ["what was written is not what is read"]
    except OSError as error:
      failure[:] = [error.strerror or str(error)]

  thread = threading.Thread(target=probe, daemon=True)
  thread.start()
  thread.join(seconds)
  if failure:
    raise BadInput(
      f"{folder} cannot be written ({failure[0]}); choose another path"
    )


def keep_programs(workdir: pathlib.Path, waiting: bool = False) -> None:
  """Keep compiled programs in the workdir, for the next start of this run.

  JAX_COMPILATION_CACHE_DIR overrides the folder. On a CPU, where programs
  compile fast, none are kept unless somebody is `waiting` for an answer; those
  are kept apart by kind of processor, since another may lack its instructions.
  """
  import jax

  given = os.environ.get("JAX_COMPILATION_CACHE_DIR")
  if given:
    if "://" not in given:
      require_writable(pathlib.Path(given))
  elif jax.default_backend() != "cpu":
    folder = workdir / PROGRAMS
    require_writable(folder)
    jax.config.update("jax_compilation_cache_dir", str(folder))
  elif waiting and os.access(workdir, os.W_OK):
    folder = workdir / PROGRAMS / _processor()
    jax.config.update("jax_compilation_cache_dir", str(folder))
    jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.0)


def _processor() -> str:
  """A short identifier of this machine's kind of processor."""
  known = ("model name", "flags", "Features", "CPU part")
  try:
    lines = pathlib.Path("/proc/cpuinfo").read_text().splitlines()
  except OSError:  # another system
    lines = []
  found = sorted({line for line in lines if line.startswith(known)})
  text = "\n".join([platform.machine(), platform.processor(), *found])
  return hashlib.sha256(text.encode()).hexdigest()[:12]


@contextlib.contextmanager
def locked(workdir: pathlib.Path, flag: str = "--workdir") -> Iterator[None]:
  """A context that keeps other processes out of a folder.

  The lock ends with the process. `flag` is the folder's flag, for the message.
  """
  workdir.mkdir(parents=True, exist_ok=True)
  with (workdir / LOCK_FILE).open("w") as lock:
    try:
      fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
      raise BadInput(
        f"{workdir} is in use by another process; wait for it or use another"
        f" {flag}"
      ) from None
    yield
