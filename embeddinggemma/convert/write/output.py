"""The folder of an export, which appears complete or not at all."""

import contextlib
import fcntl
import os
import pathlib
import shutil
from collections.abc import Iterator

from embeddinggemma.convert.folder import MARK
from embeddinggemma.types import BadInput


@contextlib.contextmanager
def whole(output: pathlib.Path) -> Iterator[pathlib.Path]:
  """A context with a folder to fill, which gets the name if the block succeeds.

  An earlier export is replaced. Raises BadInput for anything else of that name,
  and while another process fills a folder for it.
  """
  output = output.resolve()
  taken = output.exists() and not output.is_dir()  # a file, a device
  if taken or (
    output.is_dir() and any(output.iterdir()) and not (output / MARK).is_file()
  ):
    raise BadInput(
      f"--output={output} exists and is no export of ours; name another folder"
    )
  partial, old = (
    output.with_name(f".{output.name}.{end}") for end in ("partial", "old")
  )
  with _held(partial):
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
def _held(folder: pathlib.Path) -> Iterator[None]:
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
        f"{folder} is being filled by another export; wait for it or use another"
        " --output"
      )
    for path in folder.iterdir():
      shutil.rmtree(path) if path.is_dir() else path.unlink()
    yield
  finally:
    os.close(place)
