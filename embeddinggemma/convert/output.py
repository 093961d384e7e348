"""The folder of an export: it appears whole, or not at all."""

import contextlib
import pathlib
import shutil
from collections.abc import Iterator

from embeddinggemma.types import BadInput

MARK = "embeddinggemma.json"  # says that a folder is an export of ours


@contextlib.contextmanager
def whole(output: pathlib.Path) -> Iterator[pathlib.Path]:
  """A folder to fill, which takes the name when the block ends well.

  An export of before is replaced; BadInput for anything else that is there.
  """
  if output.is_file() or (
    output.is_dir() and any(output.iterdir()) and not (output / MARK).is_file()
  ):
    raise BadInput(
      f"--output={output} exists and is no export of ours; name another folder"
    )
  partial, old = (
    output.with_name(f".{output.name}.{end}") for end in ("partial", "old")
  )
  shutil.rmtree(partial, ignore_errors=True)
  partial.mkdir(parents=True)
  try:
    yield partial
    shutil.rmtree(old, ignore_errors=True)
    if output.exists():
      output.rename(old)
    partial.rename(output)
  except BaseException:
    shutil.rmtree(partial, ignore_errors=True)
    raise
  shutil.rmtree(old, ignore_errors=True)
