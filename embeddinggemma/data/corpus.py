"""A corpus: a folder of training pairs and held-out evaluations.

DIRECTORY/train/TASK/pairs.jsonl, DIRECTORY/validation/... and
DIRECTORY/test/..., and corpus.json with their content hash. It is built from
the user's pairs, or else from the Python installation that runs this program.
"""

import importlib.metadata
import json
import pathlib
import platform
from collections.abc import Callable
from typing import Any

from embeddinggemma.data import sources, stdlib
from embeddinggemma.data.tables.pairs import Pairs

CORPUS_FILE = "corpus.json"
HELD_OUT = 0.05  # share of the user's pairs for each of validation and test
SALT = "embeddinggemma"


def fingerprint(path: str, fields: str = "") -> dict[str, Any]:
  """What the content of a corpus depends on, without building it.

  Args:
    path: of the user's pairs; "" for the Python installation.
    fields: which column is what, as --fields has it.

  Raises:
    BadInput: the folder holds no pairs.
  """
  if path:
    # A folder without pairs fails here.
    found = {"pairs": sources.pairs_hash(pathlib.Path(path))}
    return found | ({"fields": fields} if fields else {})
  found = {
    d.metadata["Name"]: d.version for d in importlib.metadata.distributions()
  }
  versions = {name: found.get(_distribution(name)) for name in stdlib.PACKAGES}
  return {"python": platform.python_version(), "packages": versions}


def _distribution(package: str) -> str:
  return {"sklearn": "scikit-learn"}.get(package, package)


def write(
  path: str,
  skip_bad_rows: bool,
  directory: pathlib.Path,
  fields: str = "",
  say: Callable[[str], None] = lambda line: None,
) -> dict[str, Any]:
  """Build a corpus in `directory` and return the content of its corpus.json.

  Args:
    path: of the user's pairs; "" for the Python installation.
    skip_bad_rows: leave bad lines of the pairs out and list them.
    directory: for the corpus.
    fields: which column is what, as --fields has it; "": by known names.
    say: called with lines on what was read as what.

  Raises:
    BadInput: a line of the pairs is bad and bad lines are not skipped.
  """
  skipped: list[str] = []
  if path:
    keys = sources.Keys(SALT)
    pairs, skipped = sources.read_pairs(
      pathlib.Path(path), skip_bad_rows, fields, say, keys.add
    )
    sources.write_split(directory, pairs, keys, HELD_OUT)
  else:
    stdlib.write_corpus(directory)
  library = "the Python standard library and installed packages"
  return describe(directory, path or library, skipped)


def describe(
  directory: pathlib.Path, source: str, skipped: list[str]
) -> dict[str, Any]:
  """Write corpus.json of pairs that lie in `directory`; returns its content.

  Args:
    directory: of the corpus.
    source: where its pairs come from, for people.
    skipped: lines on the rows that were left out.
  """
  train = read_train(directory)
  tasks = {task: len(pairs) for task, pairs in train.by_task().items()}
  about = {
    "source": source,
    "hash": sources.content_hash(directory),
    "tasks": tasks,
    "skipped": skipped,
  }
  (directory / CORPUS_FILE).write_text(json.dumps(about, indent=1) + "\n")
  return about


def read_train(directory: pathlib.Path) -> Pairs:
  """The training pairs of a corpus, which stay in their files."""
  return sources.read_pairs(directory / "train")[0]


def about(directory: pathlib.Path) -> dict[str, Any]:
  """The content of corpus.json."""
  return json.loads((directory / CORPUS_FILE).read_text())
