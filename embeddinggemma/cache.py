"""Work that is done once: a folder is whole, or it does not have its name.

A stage's folder holds stage.json once it is done, with the hash of all that
its result depends on. A killed stage is redone, or continues where it can.
"""

import contextlib
import dataclasses
import fcntl
import functools
import hashlib
import json
import os
import pathlib
import platform
import shutil
import socket
import threading
import time
from collections.abc import Callable, Container, Iterator, Mapping
from typing import Any, TypeVar

import numpy as np

from embeddinggemma.types import BadInput

T = TypeVar("T")

STAGE_FILE = "stage.json"
KEY_FILE = "key.json"
LOCK_FILE = ".lock"
PROGRAMS = "programs"  # compiled, in a workdir


@dataclasses.dataclass(frozen=True)
class Step:
  """One stage: `work(directory)` fills its folder and returns metrics.

  A `resumable` stage works and continues in its own folder; another one works
  in a folder beside it, which takes the name when it is whole.
  """

  name: str
  inputs: Mapping[str, Any]  # all that the result depends on, as JSON
  work: Callable[[pathlib.Path], dict[str, Any]]
  resumable: bool = False


@dataclasses.dataclass(frozen=True)
class Done:
  """What a stage left: a row of summary.json."""

  name: str
  seconds: float  # over all calls that it took
  cached: bool
  key: str  # hash of its inputs, for the inputs of what follows
  checkpoint: str  # relative to its folder; empty if it makes none
  hash: str  # content hash of the checkpoint's weights
  metrics: dict[str, Any]


AllDone = Mapping[str, Done]  # the stages before one, by name


def key_of(inputs: Mapping[str, Any]) -> str:
  """The hash of a stage's inputs."""
  text = json.dumps(inputs, sort_keys=True)
  return hashlib.sha256(text.encode()).hexdigest()


def to_json(value: Any) -> bytes:
  """JSON as our files hold it."""
  return (json.dumps(value, indent=1) + "\n").encode()


def write_json(path: pathlib.Path, value: Any) -> None:
  """Writes a file whole or not at all."""
  partial = path.with_name(f"{path.name}.partial")
  partial.write_bytes(to_json(value))
  partial.replace(path)


def write_array(path: pathlib.Path, array: np.ndarray) -> None:
  """Writes a .npy file whole or not at all.

  np.save says nothing where the disk is full for the last 4096 bytes: it leaves
  them in a buffer of C's, whose end nobody asks about.
  """
  array = np.ascontiguousarray(array)
  header = np.lib.format.header_data_from_array_1_0(array)
  partial = path.with_name(f"{path.name}.partial")
  with partial.open("wb") as file:
    np.lib.format.write_array_header_1_0(file, header)
    file.write(array.reshape(-1).view(np.uint8).data)
  partial.replace(path)


def read_json(path: pathlib.Path) -> dict[str, Any]:
  """The content of a JSON file, or {} where there is none."""
  return json.loads(path.read_text()) if path.is_file() else {}


def bound(
  stages: Mapping[str, Callable[[Any, AllDone], Step]],
  run: Any,
  left_out: Container[str] = (),
) -> dict[str, Callable[[AllDone], Step]]:
  """A recipe's table of stages, each as a function of those before it."""
  return {
    name: functools.partial(make, run)
    for name, make in stages.items()
    if name not in left_out
  }


def perform(step: Step, workdir: pathlib.Path) -> Done:
  """Finds a stage done, continues it, or does it."""
  directory, key = workdir / step.name, key_of(step.inputs)
  target = directory if step.resumable else workdir / f"{step.name}.partial"
  for place in (directory, target):
    saved = read_json(place / STAGE_FILE)
    if saved.get("key") == key:
      if place != directory:
        _take_name(target, directory)
      return dataclasses.replace(Done(**saved), cached=True)
  _require_ours(directory)
  spent = _start(target, key, keep=step.resumable)
  began = time.perf_counter()
  try:
    result = step.work(target)
  except BaseException:
    _stopped(step, target, spent + time.perf_counter() - began)
    raise
  spent += time.perf_counter() - began
  checkpoint, digest = result.pop("checkpoint", ""), result.pop("hash", "")
  done = Done(
    step.name, round(spent, 2), False, key, checkpoint, digest, result
  )
  write_json(target / STAGE_FILE, dataclasses.asdict(done))
  if target != directory:
    _take_name(target, directory)
  return done


def checkpoint_of(workdir: pathlib.Path, done: Done) -> str:
  """Where a stage's checkpoint is, as an absolute path; "": it makes none."""
  if not done.checkpoint:
    return ""
  return str(workdir.resolve() / done.name / done.checkpoint)


def is_done(step: Step, workdir: pathlib.Path) -> bool:
  """Whether `perform` would find the stage done."""
  saved = read_json(workdir / step.name / STAGE_FILE)
  return saved.get("key") == key_of(step.inputs)


def _start(target: pathlib.Path, key: str, keep: bool) -> float:
  """An empty folder, or one to continue in; the seconds spent before."""
  started = read_json(target / KEY_FILE)
  if keep and started.get("key") == key:
    return started["seconds"]
  _remove(target)
  target.mkdir(parents=True)
  write_json(target / KEY_FILE, {"key": key, "seconds": 0.0})
  return 0.0


def _remove(directory: pathlib.Path) -> None:
  """Deletes a stage's folder.

  It loses its name first: what a kill leaves half deleted is never taken for
  a stage.
  """
  if directory.exists():
    _require_ours(directory)
    old = directory.with_name(f".{directory.name}.old")
    shutil.rmtree(old, ignore_errors=True)
    directory.rename(old)
    shutil.rmtree(old, ignore_errors=True)


def _require_ours(directory: pathlib.Path) -> None:
  """Raises BadInput for what stands in a stage's place and no stage made."""
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


def _stopped(step: Step, target: pathlib.Path, spent: float) -> None:
  """Notes the time of what will continue; the rest would start anew."""
  if step.resumable:
    started = {"key": key_of(step.inputs), "seconds": spent}
    write_json(target / KEY_FILE, started)
  else:
    _remove(target)


def _take_name(target: pathlib.Path, directory: pathlib.Path) -> None:
  _remove(directory)
  target.rename(directory)


_shared: dict[str, tuple[str, Any]] = {}


def share(kind: str, key: Mapping[str, Any], make: Callable[[], T]) -> T:
  """What the last caller of this kind in this process made, if the key is the
  same: data and programs that runs share."""
  name = key_of(key)
  if _shared.get(kind, ("", None))[0] != name:
    _shared[kind] = name, make()
  return _shared[kind][1]


def as_folder(text: str, key: str = "") -> pathlib.Path:
  """The folder of a flag or key; BadInput for the address of a bucket."""
  if "://" in text:
    bucket = text.split("://", 1)[1].partition("/")[0]
    named = f"{key}: {text}" if key else text
    raise BadInput(
      f"{named} is an address, not a folder; mount the bucket (gcsfuse"
      f" {bucket} /mnt/{bucket}) on every host and give its path"
    )
  return pathlib.Path(text)


def require_writable(folder: pathlib.Path, seconds: float = 30.0) -> None:
  """Writes, reads and deletes a small file; BadInput where that fails.

  In a thread: a bucket that may not be written can keep one for ever.
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
  """Compiled programs stay in the workdir, for the next start of this run.

  Where JAX_COMPILATION_CACHE_DIR names another place, there; on a CPU, whose
  programs compile fast, nowhere, unless somebody is `waiting` for an answer.
  Those are of one kind of processor: another may not have its instructions.
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
  """A short name for the kind of this machine's processor."""
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
  """Keeps a second process out of a folder; it ends with the process.

  `flag` names the folder on the command line.
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
