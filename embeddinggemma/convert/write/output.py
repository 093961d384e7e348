"""A folder or checkpoint that appears complete or not at all."""

import contextlib
import fcntl
import os
import pathlib
import shutil
from collections.abc import Callable, Iterator
from typing import Any

from embeddinggemma import cache, checkpoint
from embeddinggemma.convert.folder import MARK
from embeddinggemma.types import BadInput, Params


@contextlib.contextmanager
def whole(
  output: pathlib.Path,
  flag: str = "--output",
  ours: Callable[[pathlib.Path], bool] = lambda folder: (
    folder / MARK
  ).is_file(),
) -> Iterator[pathlib.Path]:
  """A context with a folder to fill, which gets the name if the block succeeds.

  What is `ours`, by default an earlier export, is replaced. `flag` is what the
  user named it by. Raises BadInput for anything else of that name, and while
  another process fills a folder for it.
  """
  output = output.resolve()
  taken = output.exists() and not output.is_dir()  # a file, a device
  if taken or (output.is_dir() and any(output.iterdir()) and not ours(output)):
    raise BadInput(
      f"{flag}={output} exists and is no export of ours; name another folder"
    )
  partial, old = (
    output.with_name(f".{output.name}.{end}") for end in ("partial", "old")
  )
  with _held(partial, flag):
    try:
      yield partial
      shutil.rmtree(old, ignore_errors=True)
      if output.exists():
        output.rename(old)
      try:
        partial.rename(output)
      except OSError:
        if old.exists():
          old.rename(output)
        raise
    except BaseException:
      shutil.rmtree(partial, ignore_errors=True)
      raise
  shutil.rmtree(old, ignore_errors=True)


@contextlib.contextmanager
def _held(folder: pathlib.Path, flag: str) -> Iterator[None]:
  """An empty folder that is locked for this process, whatever a kill left.

  The lock is on the folder itself: it ends with the process and survives the
  folder's renaming.
  """
  folder.mkdir(parents=True, exist_ok=True)
  place = os.open(folder, os.O_RDONLY)
  try:
    try:
      fcntl.flock(place, fcntl.LOCK_EX | fcntl.LOCK_NB)
      # Else it was renamed, or removed, before we had the lock.
      ours = folder.exists() and os.path.samestat(
        os.fstat(place), folder.stat()
      )
    except BlockingIOError:
      ours = False
    if not ours:
      raise BadInput(
        f"{folder} is being filled by another process; wait for it or use"
        f" another {flag}"
      )
    for path in folder.iterdir():
      shutil.rmtree(path) if path.is_dir() else path.unlink()
    yield
  finally:
    os.close(place)


@contextlib.contextmanager
def untouched(folder: pathlib.Path, *made: str) -> Iterator[None]:
  """A context that leaves no folder behind that was not there if it fails.

  `made` are the files that the block makes in it, which go too; a folder that
  then holds something stays, and so do those around it.
  """
  folder = folder.resolve()
  before = {name for name in made if (folder / name).exists()}
  missing = [p for p in (folder, *folder.parents) if not p.exists()]
  try:
    yield
  except BaseException:
    with contextlib.suppress(OSError):
      for name in set(made) - before:
        (folder / name).unlink(missing_ok=True)
      for place in missing:
        place.rmdir()
    raise


@contextlib.contextmanager
def fresh(workdir: pathlib.Path) -> Iterator[None]:
  """A context with a workdir that has no checkpoint, for this process alone.

  If the block fails, the workdir is as it was. Raises BadInput for one that has
  a checkpoint or is in use.
  """
  with untouched(workdir, cache.LOCK_FILE), cache.locked(workdir):
    require_fresh(workdir)
    yield


def require_fresh(workdir: pathlib.Path) -> None:
  """Raise BadInput for a workdir that has a checkpoint."""
  if checkpoint.steps(workdir):
    raise BadInput(
      f"{workdir} holds a checkpoint already; use another --workdir"
    )


def first_checkpoint(
  workdir: pathlib.Path,
  params: Params,
  files: checkpoint.Files,
  examine: Callable[[pathlib.Path], Any] = lambda place: None,
) -> pathlib.Path:
  """Write the checkpoint of a `fresh` workdir, and return its directory.

  It appears when it is whole and `examine`, which is called with where it is
  until then, has passed.
  """
  with whole(
    workdir / checkpoint.CHECKPOINTS, "--workdir", _unfinished
  ) as partial:
    written = checkpoint.write(partial, params, files)
    place = partial / written.name
    written.rename(place)
    written.parent.rmdir()
    examine(place)
  return workdir / checkpoint.CHECKPOINTS / place.name


def _unfinished(checkpoints: pathlib.Path) -> bool:
  """Whether a folder holds only what a kill left of a checkpoint."""
  return all("orbax-checkpoint-tmp" in p.name for p in checkpoints.iterdir())
