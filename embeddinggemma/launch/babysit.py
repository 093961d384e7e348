"""Watch over a queued resource until its command has ended.

A slice that was preempted does not come back: it is deleted and requested
again, a bounded number of times and at growing intervals. The command then
continues from its last checkpoint.
"""

import dataclasses
import pathlib
import subprocess
import sys
import tarfile
import tempfile
import time
from collections.abc import Sequence

from embeddinggemma.launch import queued
from embeddinggemma.launch.request import Launch
from embeddinggemma.terminal.printable import printable
from embeddinggemma.types import BadInput

INTERRUPTED = 42
LEADER = "0-0"  # SLICE-HOST that writes last: when it ends, the run has ended
_LOST = ("FAILED", "SUSPENDING", "SUSPENDED", "PREEMPTED")
_SLOWEST = 120  # the most polls between two requests
_PATIENCE = 20  # the most polls in a row for which gcloud may fail


@dataclasses.dataclass(frozen=True)
class Request:
  """A launch in a zone and project, and how often its state is polled."""

  launch: Launch
  zone: str
  project: str
  account: str = ""  # service account of the hosts
  poll: float = 30.0  # seconds between two polls


def babysit(request: Request, root: pathlib.Path) -> int:
  """Create, watch, delete and recreate the resource until its command ends.

  Returns the command's exit code, or INTERRUPTED after `launch.restarts`
  requests. An existing resource of this name is watched instead of created, so
  the babysitter itself may be killed and started again.

  Args:
    request: what is launched, and where.
    root: the checkout, whose files are copied into the bucket.

  Raises:
    BadInput: gcloud refuses the first request, or fails for too long.
  """
  launch, place = request.launch, (request.zone, request.project)
  with tempfile.TemporaryDirectory() as folder:
    script = pathlib.Path(folder) / "start.sh"
    script.write_text(queued.start_script(launch), encoding="utf-8")
    create = queued.create(launch, str(script), *place, request.account)
    there = bool(_state(request))
    if not there:
      _upload(launch, root, pathlib.Path(folder) / "code.tgz")
    looks = 1
    for number in range(1, launch.restarts + 1):
      was_active, code = False, None
      if there or _create(create, number, launch):
        was_active, code = _watch(request)
        _delete(request)
      if code is not None:
        _say(f"{launch.name} ended with exit code {code}")
        return code
      there = False
      looks = 1 if was_active else min(2 * looks, _SLOWEST)
      time.sleep(looks * request.poll)
  _say(f"gave up after {launch.restarts} requests; the same command goes on")
  return INTERRUPTED


def _create(command: Sequence[str], number: int, launch: Launch) -> bool:
  """Request the resource; whether it was accepted. The first must be."""
  _say(f"request {number} of {launch.restarts} for {launch.slice.name}")
  try:
    _run(command)
  except BadInput as error:
    if number == 1:
      raise
    _say(str(error))
    return False
  return True


def _delete(request: Request) -> None:
  """Delete the resource and wait until it is gone and costs no more."""
  place = (request.zone, request.project)
  command = queued.delete(request.launch, *place)
  for _ in range(_PATIENCE):
    done = _call(command)
    if _state(request) == "":
      return
    _say(f"{request.launch.name} is not deleted yet: {_last_line(done)}")
    time.sleep(request.poll)
  raise BadInput(f"cannot delete; do it by hand: {' '.join(command)}")


def _watch(request: Request) -> tuple[bool, int | None]:
  """Wait until the slice is lost or the command has ended.

  Returns whether the slice was ever active, and the exit code if there is one.
  """
  known, was_active, failures = "", False, 0
  while True:
    state = _state(request)
    failures = failures + 1 if state is None else 0
    if failures == _PATIENCE:
      raise BadInput(
        f"gcloud does not say how {request.launch.name} is; see why with"
        f" `{' '.join(_describe(request))}`, then start the same command again"
      )
    if state is not None and state != known:
      _say(f"{request.launch.name}: {state or 'gone'}")
      known = state
    was_active |= state == "ACTIVE"
    lost = state == "" or state in _LOST
    code = _verdict(request.launch) if was_active or lost else None
    if lost or code is not None:
      return was_active, code
    time.sleep(request.poll)


def _state(request: Request) -> str | None:
  """The state, such as ACTIVE; "" if nothing exists, None if unknown."""
  done = _call(_describe(request))
  if done.returncode:
    return "" if "NOT_FOUND" in done.stderr else None
  return done.stdout.strip()


def _describe(request: Request) -> list[str]:
  return queued.describe(request.launch, request.zone, request.project)


def _verdict(launch: Launch) -> int | None:
  """The first non-zero exit code of a host, or the leader's, or None."""
  done = _call(queued.ended(launch))
  if done.returncode:
    return None  # no host has ended
  codes = dict(line.split() for line in done.stdout.splitlines())
  faults = [int(code) for code in codes.values() if int(code)]
  return faults[0] if faults else 0 if LEADER in codes else None


def _upload(launch: Launch, root: pathlib.Path, archive: pathlib.Path) -> None:
  """Copy the checkout's files into the bucket, but not what git ignores."""
  listed = _run(
    ["git", "-C", str(root), "ls-files", "-zco", "--exclude-standard"]
  )
  with tarfile.open(archive, "w:gz") as tar:
    for name in sorted(set(filter(None, listed.split("\0")))):
      if (root / name).exists():
        tar.add(root / name, name, recursive=False)
  place = queued.place(launch)
  _call(["gcloud", "storage", "rm", "--quiet", f"{place}/ended/*"])
  _run(["gcloud", "storage", "cp", str(archive), f"{place}/code.tgz"])


def _run(command: Sequence[str]) -> str:
  """The output of a command; BadInput with its last line if it fails."""
  done = _call(command)
  if done.returncode:
    raise BadInput(f"{' '.join(command[:5])} failed: {_last_line(done)}")
  return done.stdout


def _last_line(done: subprocess.CompletedProcess[str]) -> str:
  return (done.stderr.strip().splitlines() or [f"exit {done.returncode}"])[-1]


def _call(command: Sequence[str]) -> subprocess.CompletedProcess[str]:
  return subprocess.run(
    command, stdin=subprocess.DEVNULL, capture_output=True, text=True
  )


def _say(line: str) -> None:
  said = f"{time.strftime('%H:%M:%S')}  {printable(line)}"
  print(said, file=sys.stderr, flush=True)
