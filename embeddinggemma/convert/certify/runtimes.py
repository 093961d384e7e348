"""The runtimes that can run an export; RUNTIMES is their table, by format.

Each runs in a process of its own, since llama.cpp aborts its process when it
cannot use a file. A program gets the path of a request, a JSON file
{"artefact", "items", "longest"} with items that are texts or lists of ids, and
that of the reply to write, {"vectors", "versions"}. A request may have options
of a program's own.
"""

import errno
import importlib.metadata
import importlib.util
import json
import os
import pathlib
import re
import shutil
import signal
import subprocess
import sys
import tempfile
from collections.abc import Callable, Mapping, Sequence
from types import MappingProxyType
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Float

from embeddinggemma.convert.certify.golden import Item

NODE_MODULES = "EMBEDDINGGEMMA_NODE_MODULES"  # the folder of node-llama-cpp
_SECONDS = 3600
_PROGRAMS = pathlib.Path(__file__).parent / "programs"
# What tells why, in what a program says before it ends.
_FAULTS = (
  re.compile(r"assert|error loading|failed to load", re.IGNORECASE),
  re.compile(r"error|fail|invalid|missing", re.IGNORECASE),
)
_QUIET = {"GGML_NO_BACKTRACE": "1", "HF_HUB_OFFLINE": "1"}
# Threads that wait for each other sleep: they would take a busy machine's
# processors from those for which they wait.
_PATIENT = {"OMP_WAIT_POLICY": "passive"}


class Refused(Exception):
  """The runtime does not run what it was given; the message is its own."""


class Reply(NamedTuple):
  """A runtime's vectors, and the versions of its packages."""

  vectors: Float[np.ndarray, "n M"]
  versions: Mapping[str, str]


class Runtime(NamedTuple):
  """A program that computes vectors of an export."""

  name: str
  through: str  # the package by which it is called
  command: Callable[[], list[str] | None]  # None: it is not installed
  install: str  # how to install it, for a message

  def ask(
    self,
    artefact: pathlib.Path,
    items: Sequence[Item],
    longest: int,
    options: Mapping[str, Any] = MappingProxyType({}),
  ) -> Reply:
    """Vectors of items; texts go through the runtime's own tokenizer.

    `longest` is the most tokens of an item; `options` are the program's own.

    Raises Refused, with the first line of the output that gives a reason.
    """
    command = self.command() or []
    with tempfile.TemporaryDirectory() as name:
      request, reply = (pathlib.Path(name) / end for end in ("ask", "reply"))
      asked = [i.ids.tolist() if i.text is None else i.text for i in items]
      tree = {
        "artefact": str(artefact.absolute()),
        "items": asked,
        "longest": longest,
        **options,
      }
      request.write_text(json.dumps(tree))
      try:
        done = subprocess.run(
          [*command, str(request), str(reply)],
          capture_output=True,
          encoding="utf-8",
          errors="replace",
          env=_PATIENT | os.environ | _QUIET,
          timeout=_SECONDS,
        )
      except subprocess.TimeoutExpired:
        raise Refused(f"no answer in {_SECONDS} s") from None
      if done.returncode or not reply.is_file():
        full = os.strerror(errno.ENOSPC)
        if full in done.stderr:  # it is our folder that is at fault
          raise OSError(errno.ENOSPC, full, name)
        raise Refused(_why(done))
      tree = json.loads(reply.read_text())
    return Reply(np.array(tree["vectors"], np.float32), tree["versions"])


def _why(done: subprocess.CompletedProcess[str]) -> str:
  lines = [x.strip() for x in (done.stderr + done.stdout).splitlines()]
  lines = [line for line in lines if line and "Traceback" not in line]
  found = (x for fault in _FAULTS for x in lines if fault.search(x))
  end = f"it ended with code {done.returncode}"
  if done.returncode < 0:
    end = f"it died of {signal.Signals(-done.returncode).name}"
  return next(found, (lines or [end])[-1])[:400]


def _module(
  package: str, program: str, least: tuple[int, ...] = ()
) -> Callable[[], list[str] | None]:
  """A function that gives the command of a module of programs/.

  It gives None unless `package` is installed, in version `least` or later.
  """
  command = [sys.executable, "-m", f"{__package__}.programs.{program}"]

  def found() -> list[str] | None:
    if not importlib.util.find_spec(package):
      return None
    version = importlib.metadata.version(package) if least else ""
    numbers = map(int, re.findall(r"\d+", version)[: len(least)])
    return command if tuple(numbers) >= least else None

  return found


def _node() -> list[str] | None:
  """The command of Node.js with node-llama-cpp; None if either is missing."""
  node, told = shutil.which("node"), os.environ.get(NODE_MODULES)
  here = pathlib.Path.cwd()
  folders = [parent / "node_modules" for parent in (here, *here.parents)]
  for folder in [pathlib.Path(told)] if told else folders:
    if node and (folder / "node-llama-cpp").is_dir():
      program = _PROGRAMS / "node_llama_cpp.mjs"
      return [node, str(program), str(folder.absolute() / "node-llama-cpp")]
  return None


RUNTIMES: Mapping[str, Sequence[Runtime]] = {
  "sentence-transformers": (
    Runtime(
      "sentence-transformers",
      "sentence-transformers",
      # Before, it strips texts.
      _module("sentence_transformers", "sentence_transformers", (5, 4)),
      "pip install 'sentence-transformers>=5.4'",
    ),
  ),
  "gguf": (
    Runtime(
      "llama.cpp",
      "xllamacpp",
      _module("xllamacpp", "llama_cpp"),
      "pip install xllamacpp",
    ),
    Runtime(
      "llama.cpp",
      "node-llama-cpp",
      _node,
      f"npm install node-llama-cpp ({NODE_MODULES} names its node_modules)",
    ),
  ),
}


def find(form: str) -> Runtime | None:
  """The first installed runtime of a format; None if there is none."""
  return next((r for r in RUNTIMES.get(form, ()) if r.command()), None)


def how_to_install(form: str) -> str:
  """The runtimes of a format and how to install them, for a message."""
  known = [
    f"{r.name}, which is not here: {r.install}" for r in RUNTIMES.get(form, ())
  ]
  return "; or ".join(known) or "nothing that runtimes.RUNTIMES knows"
