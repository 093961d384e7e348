"""The time and memory that a model takes, in a process of its own.

  python -m embeddinggemma.recipes.student.timing REQUEST REPLY

REQUEST is a JSON file {"model": path, "queries": texts, "passages": texts}.
What other models have left in memory must not count, hence the process.
"""

import functools
import json
import os
import pathlib
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

from embeddinggemma.loading import load
from embeddinggemma.types import Stopped

_ALONE = 24  # texts that are encoded one by one
_ROUNDS = 3  # of all passages together, of which the fastest counts


class Timing(NamedTuple):
  """What a model takes on this machine."""

  query_ms: float  # to encode one query alone
  passage_ms: float  # to encode one passage alone
  bulk_ms: float  # the same for each of many
  tokens_per_s: float  # of many passages, in tokens of the model
  peak_bytes: int  # of the process, with program and weights


def of_model(
  model: str | pathlib.Path, queries: Sequence[str], passages: Sequence[str]
) -> Timing:
  """Time a model in a process of its own; Stopped if that process fails."""
  with tempfile.TemporaryDirectory() as name:
    request, reply = (pathlib.Path(name) / end for end in ("ask", "reply"))
    asked = {
      "model": str(model),
      "queries": list(queries),
      "passages": list(passages),
    }
    request.write_text(json.dumps(asked))
    root = str(pathlib.Path(__file__).parents[3])
    path = os.pathsep.join(filter(None, (root, os.environ.get("PYTHONPATH"))))
    done = subprocess.run(
      [sys.executable, "-m", __name__, str(request), str(reply)],
      capture_output=True,
      text=True,
      env=os.environ | {"PYTHONPATH": path},
    )
    if done.returncode:
      last = (done.stderr.strip().splitlines() or [""])[-1]
      raise Stopped(f"{model}: could not be timed ({last})")
    return Timing(**json.loads(reply.read_text()))


def measured(request: dict[str, Any]) -> Timing:
  """Time a model in this process."""
  model = load(request["model"])
  passages = request["passages"]
  bulk = lambda: model.encode_document(passages)
  bulk()  # compiles
  alone = min(_seconds(bulk) for _ in range(_ROUNDS))
  tokens = int(model.token_counts(passages, "document").sum())
  return Timing(
    _one_by_one(model.encode_query, request["queries"]),
    _one_by_one(model.encode_document, passages),
    1000 * alone / len(passages),
    tokens / alone,
    _peak(),
  )


def _peak() -> int:
  """Bytes that this process held at most.

  Linux's ru_maxrss would count what the process held that started this one.
  """
  status = pathlib.Path("/proc/self/status")
  if status.is_file():
    (line,) = (x for x in status.read_text().splitlines() if "VmHWM" in x)
    return int(line.split()[1]) * 1024
  usage = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
  return usage if sys.platform == "darwin" else 1024 * usage


def _one_by_one(encode: Callable[[str], Any], texts: Sequence[str]) -> float:
  """The median of milliseconds in which a text is encoded alone."""
  some = texts[:_ALONE]
  for text in some:
    encode(text)  # compiles
  return 1000 * statistics.median(
    _seconds(functools.partial(encode, text)) for text in some
  )


def _seconds(work: Callable[[], Any]) -> float:
  began = time.perf_counter()
  work()
  return time.perf_counter() - began


def main(request: str, reply: str) -> None:
  """Answer a request."""
  asked = json.loads(pathlib.Path(request).read_text())
  found = measured(asked)
  pathlib.Path(reply).write_text(json.dumps(found._asdict()))


if __name__ == "__main__":
  main(*sys.argv[1:])
