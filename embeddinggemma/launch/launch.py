"""Launches on TPU pods: what launch/sky.sh, jobset.sh and gcloud.sh call.

  python -m embeddinggemma.launch.launch sky --name=NAME --topology=v5e:4x4 \\
    --bucket=gs://BUCKET -- train --config=configs/finetune.py ...

With the verb `sweep`, there is a job for each point.
"""

import argparse
import dataclasses
import hashlib
import os
import pathlib
import shlex
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable, Sequence
from typing import NamedTuple, NoReturn

from embeddinggemma import generations
from embeddinggemma.config import above_zero
from embeddinggemma.launch import babysit, jobset, queued, sky
from embeddinggemma.launch.request import (
  CAPACITIES,
  SCRIPTS,
  Launch,
  require_word,
)
from embeddinggemma.terminal.printable import printable
from embeddinggemma.types import BadInput

ROOT = pathlib.Path(__file__).parent.parent.parent  # the checkout
_PYTHON = (sys.executable, "-m")


class _Job(NamedTuple):
  """A manifest or script, and the command that submits it, given its file."""

  text: str
  submit: Callable[[str], list[str]]


def _sky(launch: Launch, args: argparse.Namespace) -> _Job:
  secrets = [f"--secret={name}" for name in launch.secrets]
  command = ["sky", "jobs", "launch", f"--name={launch.name}"]
  return _Job(
    sky.task(launch, args.zone),
    lambda file: [*command, "--detach-run", "--yes", *secrets, file],
  )


def _jobset(launch: Launch, args: argparse.Namespace) -> _Job:
  return _Job(
    jobset.manifest(launch, args.image, args.service_account, args.queue),
    lambda file: ["kubectl", "create", f"--filename={file}"],
  )


def _gcloud(launch: Launch, args: argparse.Namespace) -> _Job:
  return _Job(
    queued.start_script(launch),
    lambda file: queued.create(
      launch, file, args.zone, args.project, args.service_account
    ),
  )


# Route -> (function that makes the job, its flags: name -> default; None:
# required).
ROUTES = {
  "sky": (_sky, {"zone": ""}),
  "jobset": (_jobset, {"image": None, "service_account": "", "queue": ""}),
  "gcloud": (
    _gcloud,
    {"zone": None, "project": None, "service_account": "", "poll": 30.0},
  ),
}


class _Parser(argparse.ArgumentParser):
  """A parser that reports an error as BadInput, in one line."""

  def error(self, message: str) -> NoReturn:
    raise BadInput(message)


def _parse(route: str, argv: Sequence[str]) -> argparse.Namespace:
  parser = _Parser(add_help=False, allow_abbrev=False)
  parser.add_argument("--name", required=True)
  parser.add_argument("--topology", required=True)
  parser.add_argument("--num_slices", type=int, default=1)
  parser.add_argument("--bucket", default="")
  parser.add_argument("--capacity", default="spot", choices=CAPACITIES)
  parser.add_argument("--reservation", default="")
  parser.add_argument("--restarts", type=int, default=50)
  parser.add_argument("--env", action="append", default=[])
  parser.add_argument("--secret", action="append", default=[])
  parser.add_argument("--dry-run", action="store_true")
  for flag, default in ROUTES[route][1].items():
    kind = str if default is None else type(default)
    parser.add_argument(
      f"--{flag}", default=default, required=default is None, type=kind
    )
  args = parser.parse_args(argv)
  given = ROUTES[route][1] | {"reservation": ""}
  for flag in (name for name, kind in given.items() if kind in (None, "")):
    require_word(f"--{flag}", getattr(args, flag), given[flag] is None)
  return args


def _launch(args: argparse.Namespace, command: Sequence[str]) -> Launch:
  return Launch(
    name=args.name,
    slice=generations.parse(args.topology),
    command=tuple(command),
    bucket=args.bucket,
    capacity=args.capacity,
    reservation=args.reservation,
    slices=args.num_slices,
    restarts=args.restarts,
    env=tuple(args.env),
    secrets=tuple(args.secret),
  )


def _points(launch: Launch) -> list[Launch]:
  """A launch for each point of a sweep, under a name of its own."""
  if launch.command[0] != "sweep":
    return [launch]
  launches = []
  shown = _ask((*_PYTHON, "embeddinggemma", *launch.command, "--print"))
  for line in shown.splitlines():
    command = tuple(shlex.split(line)[1:])
    digest = hashlib.sha256(line.encode()).hexdigest()[:8]
    name = f"{launch.name}-{digest}"
    launches.append(dataclasses.replace(launch, name=name, command=command))
  return launches


def _check_commands(launches: Sequence[Launch]) -> None:
  """Raise BadInput for a wrong command now, not after hours in a queue."""
  commands = [words for launch in launches for words in _commands(launch)]
  if not commands:
    return
  slice_, slices = launches[0].slice, launches[0].slices
  check = (
    *_PYTHON,
    "embeddinggemma.cli.check",
    f"--devices={slice_.devices * slices}",
    f"--ring={max(slice_.sizes)}",
    f"--slices={slices}",
  )
  _ask(check, "".join(f"{shlex.join(words)}\n" for words in commands))


def _commands(launch: Launch) -> list[Sequence[str]]:
  """The verbs and flags that a launch runs; a script lists its own."""
  first, *rest = launch.command
  if first not in SCRIPTS:
    return [launch.command]
  shown = _ask(["bash", f"launch/{first}.sh", *rest, "--dry-run"])
  lines = [shlex.split(line) for line in shown.splitlines()]
  return [words[1:] for words in lines if words[:1] == ["embeddinggemma"]]


def _ask(words: Sequence[str], given: str = "") -> str:
  """The output of a program of this project; BadInput with its error line."""
  env = os.environ | {"PYTHON": sys.executable}  # else scripts make their own
  done = subprocess.run(
    words, capture_output=True, text=True, cwd=ROOT, input=given, env=env
  )
  if done.returncode:
    lines = done.stderr.strip().splitlines() or [f"exit {done.returncode}"]
    raise BadInput(lines[-1].removeprefix("error: "))
  return done.stdout


def _check_route(route: str, launch: Launch) -> None:
  generation = launch.slice.generation
  if route not in generation.routes:
    scripts = [f"launch/{name}.sh" for name in generation.routes]
    raise BadInput(f"{generation.name} is reached by {' or '.join(scripts)}")
  if route == "gcloud" and launch.command[0] == "sweep":
    raise BadInput(
      "sweep: one launch/gcloud.sh watches one slice; start one for each line"
      " that `sweep --print` gives, or use launch/sky.sh"
    )


def _submit(jobs: Sequence[_Job]) -> int:
  tool = jobs[0].submit("")[0]
  if shutil.which(tool) is None:
    raise BadInput(f"{tool} is not on PATH; install it, or see --dry-run")
  with tempfile.TemporaryDirectory() as folder:
    for number, job in enumerate(jobs):
      file = pathlib.Path(folder) / f"{number}.yaml"
      file.write_text(job.text, encoding="utf-8")
      code = subprocess.run(job.submit(str(file)), cwd=ROOT).returncode
      if code:
        return code
  return 0


def run(argv: Sequence[str]) -> int:
  """Launch as ROUTE --flag=value ... -- COMMAND says; returns the exit code."""
  route, *rest = argv or [""]
  if route not in ROUTES:
    raise BadInput(f"{route!r} is no route; give {', '.join(ROUTES)}")
  cut = rest.index("--") if "--" in rest else len(rest)
  args = _parse(route, rest[:cut])
  launch = _launch(args, rest[cut + 1 :])
  _check_route(route, launch)
  launches = _points(launch)
  _check_commands(launches)
  jobs = [ROUTES[route][0](one, args) for one in launches]
  if args.dry_run:
    texts = [f"{job.text}# {shlex.join(job.submit('FILE'))}" for job in jobs]
    print("\n---\n".join(texts))
    return 0
  if route != "gcloud":
    return _submit(jobs)
  if shutil.which("gcloud") is None:
    raise BadInput("gcloud is not on PATH; install it, or see --dry-run")
  above_zero("--poll", args.poll)
  place = (args.zone, args.project, args.service_account, args.poll)
  return babysit.babysit(babysit.Request(launch, *place), ROOT)


def main() -> None:
  """Entry point of the program."""
  try:
    sys.exit(run(sys.argv[1:]))
  except BadInput as error:
    print(f"error: {printable(str(error))}", file=sys.stderr)
    sys.exit(2)
  except KeyboardInterrupt:
    print("interrupted; what was asked for is still there", file=sys.stderr)
    sys.exit(babysit.INTERRUPTED)


if __name__ == "__main__":
  main()
