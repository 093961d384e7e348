"""A corpus: a folder of training pairs and held-out evaluations.

DIRECTORY/train/TASK/pairs.jsonl, DIRECTORY/validation/... and
DIRECTORY/test/..., and corpus.json with their content hash. It is built from
the user's pairs, or else from the Python installation that runs this program.
"""

import importlib.metadata
import json
import pathlib
import platform
from typing import Any

from embeddinggemma.data import sources, stdlib
from embeddinggemma.types import Pair

CORPUS_FILE = "corpus.json"
HELD_OUT = 0.05  # share of the user's pairs for each of validation and test
SALT = "embeddinggemma"


def fingerprint(path: str) -> dict[str, Any]:
  """What the content of a corpus depends on, without building it.

  Args:
    path: the folder of the user's pairs; "" for the Python installation.

  Raises:
    BadInput: the folder holds no pairs.
  """
  if path:
    # A folder without pairs fails here.
    return {"pairs": sources.pairs_hash(pathlib.Path(path))}
  found = {
    d.metadata["Name"]: d.version for d in importlib.metadata.distributions()
  }
  versions = {name: found.get(_distribution(name)) for name in stdlib.PACKAGES}
  return {"python": platform.python_version(), "packages": versions}


def _distribution(package: str) -> str:
  return {"sklearn": "scikit-learn"}.get(package, package)


def write(
  path: str, skip_bad_rows: bool, directory: pathlib.Path
) -> dict[str, Any]:
  """Build a corpus in `directory` and return the content of its corpus.json.

  Args:
    path: the folder of the user's pairs; "" for the Python installation.
    skip_bad_rows: leave bad lines of the pairs out and list them.

  Raises:
    BadInput: a line of the pairs is bad and bad lines are not skipped.
  """
  skipped: list[str] = []
  if path:
    pairs, skipped = sources.read_pairs(pathlib.Path(path), skip_bad_rows)
    sides = sources.split_pairs(pairs, held_out=HELD_OUT, salt=SALT)
    sources.write_corpus(directory, *sides)
  else:
    stdlib.write_corpus(directory)
  train = read_train(directory)
  tasks: dict[str, int] = {}
  for pair in train:
    tasks[pair.task] = tasks.get(pair.task, 0) + 1
  about = {
    "source": path or "the Python standard library and installed packages",
    "hash": sources.content_hash(directory),
    "tasks": tasks,
    "skipped": skipped,
  }
  (directory / CORPUS_FILE).write_text(json.dumps(about, indent=1) + "\n")
  return about


def read_train(directory: pathlib.Path) -> list[Pair]:
  """The training pairs of a corpus."""
  return sources.read_pairs(directory / "train")[0]


def about(directory: pathlib.Path) -> dict[str, Any]:
  """The content of corpus.json."""
  return json.loads((directory / CORPUS_FILE).read_text())
