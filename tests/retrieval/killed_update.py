"""Kills updates of an index, each before another change to the disk.

  killed_update.py OLD SOURCE OUTPUT

Prints a line for each kill: whether what is left is the `old` index, the `new`
one, or neither; and what an update that is not killed makes of it.
"""

import os
import pathlib
import shutil
import signal
import sys

from stand_in import bag_of_words, making

from embeddinggemma.retrieval import index, update

CHANGES = ("os.mkdir", "os.remove", "os.rename", "os.rmdir", "shutil.rmtree")


def kill_before(number: int) -> None:
  """Makes the change of this number, from 0, one that never comes."""
  left = number

  def hook(event: str, arguments: tuple) -> None:
    nonlocal left
    flags = arguments[2] if event == "open" else 0
    writes = event == "open" and flags & (os.O_WRONLY | os.O_RDWR)
    if event in CHANGES or writes:
      if left == 0:
        os.kill(os.getpid(), signal.SIGKILL)
      left -= 1

  sys.addaudithook(hook)


def contents(output: pathlib.Path) -> list[bytes]:
  """The chunks that an index has."""
  return list(index.open_index(output).lines)


def main(old: pathlib.Path, source: pathlib.Path, output: pathlib.Path) -> None:
  """Kills at every change, until an update is through."""
  before = contents(old)
  for number in range(1000):
    shutil.rmtree(output, ignore_errors=True)
    shutil.copytree(old, output)
    child = os.fork()
    if child == 0:
      kill_before(number)
      update.build_index(bag_of_words, source, output, making())
      os._exit(0)
    _, status = os.waitpid(child, 0)
    found = contents(output)
    about = update.build_index(bag_of_words, source, output, making())
    state = "old" if found == before else "new"
    if found not in (before, contents(output)):
      state = "neither"
    left = sorted(path.name for path in output.iterdir())
    right = sorted([".lock", about["data"], index.INDEX_FILE])
    clean = "clean" if left == right else f"left {left}"
    print(state, about["embedded"], clean, flush=True)
    if status == 0:
      break


if __name__ == "__main__":
  main(*map(pathlib.Path, sys.argv[1:]))
