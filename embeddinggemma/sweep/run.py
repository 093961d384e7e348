"""Run one process for every point of a sweep.

Each run has a folder of its own, so a run that fails is a row of the table and
does not end the sweep. The same command continues a sweep that was stopped;
finished runs are not repeated.
"""

import contextlib
import dataclasses
import os
import pathlib
import shlex
import signal
import subprocess
import sys
import time
from collections.abc import Generator, Sequence
from typing import TYPE_CHECKING

from embeddinggemma import cache
from embeddinggemma.config import at_least, suggest
from embeddinggemma.sweep import table
from embeddinggemma.sweep.points import Command, Point, name_of
from embeddinggemma.sweep.table import Result
from embeddinggemma.types import BadInput

if TYPE_CHECKING:
  from rich.console import Console

POINT_FILE = "point.json"  # in a run's folder: its result, once it has ended
LOG_FILE = "log.txt"
SWEEP_FILE, PAGE_FILE = "sweep.json", "sweep.html"


def run(
  points: Sequence[Point],
  command: Command,
  workdir: pathlib.Path,
  jobs: int,
  console: "Console",
  metric: str = "",
  key: str = "",
) -> list[Result]:
  """Run every point in WORKDIR/NAME, `jobs` at a time; show and return results.

  Args:
    points: the overrides of each run.
    command: makes the command of a point in its folder.
    workdir: for the runs, SWEEP_FILE and PAGE_FILE.
    jobs: the number of processes that run at the same time.
    console: for a line about each run and the table.
    metric: what the plot shows; "" for the first one that exists.
    key: a hash of other inputs. A finished run is not repeated if its command
      and key are the same.
  """
  at_least("--jobs", jobs, 1)
  places = [(point, workdir / name_of(point)) for point in points]
  children = [_Child(p, place, command(p, place), key) for p, place in places]
  with cache.locked(workdir):
    results = _run_all(children, jobs, console)
    names = list(dict.fromkeys(key for r in results for key in r.metrics))
    shown = metric if metric in names else next(iter(names), "")
    rows = [dataclasses.asdict(result) for result in results]
    cache.write_json(workdir / SWEEP_FILE, {"metric": shown, "runs": rows})
    (workdir / PAGE_FILE).write_text(
      table.document(results, shown), encoding="utf-8"
    )
  console.print(table.table(results, shown))
  console.print(f"{workdir / PAGE_FILE}", highlight=False, soft_wrap=True)
  if metric and names and metric != shown:
    raise BadInput(f"--metric={metric}: no run has it{suggest(metric, names)}")
  return results


def _run_all(
  children: Sequence["_Child"], jobs: int, console: "Console"
) -> list[Result]:
  """Results in the order of the points; each is printed when it is there."""
  done: dict[str, Result] = {}

  def end(result: Result, note: str) -> None:
    done[result.name] = result
    console.print(
      f"{len(done)}/{len(children)}  {result.name}  {note}"
      f"  {result.error or table.figures(result)}",
      style="red" if result.exit else None,
      highlight=False,
      markup=False,
      soft_wrap=True,
    )

  for child in children:
    if saved := child.saved():
      end(saved, "done before")
  waiting = [child for child in children if child.name not in done]
  with contextlib.closing(_results(waiting, jobs)) as results:
    for result in results:
      end(result, f"{result.seconds:.0f} s")
  return [done[child.name] for child in children]


def _results(
  waiting: list["_Child"], jobs: int
) -> Generator[Result, None, None]:
  """Results as runs end, with `jobs` of them under way."""
  running: list[_Child] = []
  try:
    while waiting or running:
      while waiting and len(running) < jobs:
        running.append(waiting.pop(0))
        running[-1].start()
      for child in [c for c in running if c.process.poll() is not None]:
        running.remove(child)
        yield child.result()
      time.sleep(0.05)
  finally:
    _stop([child.process for child in running])


# A program that starts a run so that it ends with its sweep, however that ends
# (Linux), and reacts to Ctrl-C, which shells disable for background processes.
_BOUND = """
import ctypes, os, signal, sys
if sys.platform == "linux":
  ctypes.CDLL(None).prctl(1, signal.SIGKILL)
  if os.getppid() != int(sys.argv[1]):
    sys.exit("its sweep has ended")
signal.signal(signal.SIGINT, signal.SIG_DFL)
os.execvp(sys.argv[2], sys.argv[2:])
"""


@dataclasses.dataclass
class _Child:
  """The process of one point."""

  point: Point
  folder: pathlib.Path
  command: list[str]
  key: str

  @property
  def name(self) -> str:
    return self.folder.name

  def saved(self) -> Result | None:
    """The saved result if the same run has succeeded before, else None."""
    saved = cache.read_json(self.folder / POINT_FILE)
    same = {"command": self.command, "key": self.key, "exit": 0}
    return Result(**saved) if same.items() <= saved.items() else None

  def start(self) -> None:
    """Start the process; its output goes to a log in its folder."""
    self.folder.mkdir(parents=True, exist_ok=True)
    self._began = time.perf_counter()
    bound = [sys.executable, "-ISc", _BOUND, str(os.getpid())]
    with (self.folder / LOG_FILE).open("a", encoding="utf-8") as log:
      log.write(f"$ {shlex.join(self.command)}\n")
      log.flush()
      self.process = subprocess.Popen(
        [*bound, *self.command],
        stdin=subprocess.DEVNULL,
        stdout=log,
        stderr=log,
        start_new_session=True,
        # Else what is printed comes after the error that ended the run.
        env={**os.environ, "PYTHONUNBUFFERED": "1"},
      )

  def result(self) -> Result:
    """The result after the process has ended, also written to its folder."""
    code = self.process.returncode
    result = Result(
      self.name,
      self.point,
      self.command,
      self.key,
      code,
      round(time.perf_counter() - self._began, 2),
      _error(self.folder / LOG_FILE, code) if code else "",
      {} if code else table.read_metrics(self.folder),
    )
    cache.write_json(self.folder / POINT_FILE, dataclasses.asdict(result))
    return result


def _error(log: pathlib.Path, code: int) -> str:
  text = log.read_text(encoding="utf-8", errors="replace")
  lines = [line.strip() for line in text.splitlines() if line.strip()]
  said = "" if lines[-1].startswith("$ ") else f": {lines[-1]}"
  how = f"exit {code}" if code > 0 else f"killed by signal {-code}"
  return f"{how}{said}"


def _stop(processes: Sequence[subprocess.Popen]) -> None:
  """Interrupt the processes, and kill those that do not end within 10 seconds.

  A run that was interrupted continues from its last checkpoint.
  """
  for number, patience in ((signal.SIGINT, 10), (signal.SIGKILL, 10)):
    for process in processes:
      if process.poll() is None:
        os.killpg(process.pid, number)
    deadline = time.monotonic() + patience
    for process in processes:
      try:
        process.wait(max(0, deadline - time.monotonic()))
      except subprocess.TimeoutExpired:
        continue
