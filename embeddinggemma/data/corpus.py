"""A corpus: a folder of training pairs and held-out evaluations.

DIRECTORY/train/TASK/pairs.jsonl, DIRECTORY/validation/... and
DIRECTORY/test/..., and corpus.json with their content hash. It is built from
the user's pairs, or else from the Python installation that runs this program.
For distillation alone, DIRECTORY/train/texts.jsonl has the user's single texts.
"""

import importlib.metadata
import json
import pathlib
import platform
from collections.abc import Callable
from typing import Any

import numpy as np

from embeddinggemma.data import single_texts, sources, stdlib
from embeddinggemma.data.single_texts import Texts
from embeddinggemma.data.tables.fields import Fields
from embeddinggemma.data.tables.pairs import Pairs

CORPUS_FILE = "corpus.json"
HELD_OUT = 0.05  # share of the user's pairs for each of validation and test
SALT = "embeddinggemma"


def fingerprint(
  path: str, fields: str = "", texts: bool = False
) -> dict[str, Any]:
  """What the content of a corpus depends on, without building it.

  Args:
    path: of the user's pairs; "" for the Python installation.
    fields: which column is what, as --fields has it.
    texts: whether single texts are read, too or alone.

  Raises:
    BadInput: the folder holds no pairs.
  """
  if path:
    found, place = {}, pathlib.Path(path)
    files = sources.texts_of(place, fields) if texts else []
    if files:
      found["texts"] = sources.texts_hash(place, files)
    if not (files and not sources.has_pairs(place, fields)):
      # A folder without pairs fails here.
      found["pairs"] = sources.pairs_hash(place, fields)
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
  texts: bool = False,
) -> dict[str, Any]:
  """Build a corpus in `directory` and return the content of its corpus.json.

  Args:
    path: of the user's pairs; "" for the Python installation.
    skip_bad_rows: leave bad lines of the pairs out and list them.
    directory: for the corpus.
    fields: which column is what, as --fields has it; "": by known names.
    say: called with lines on what was read as what.
    texts: read single texts as well, or alone if there are no pairs.

  Raises:
    BadInput: a line of the pairs is bad and bad lines are not skipped.
  """
  skipped: list[str] = []
  if path:
    skipped = _write_given(
      pathlib.Path(path), skip_bad_rows, directory, fields, say, texts
    )
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
  train, single = read_train(directory), len(read_texts(directory))
  tasks = {task: len(pairs) for task, pairs in train.by_task().items()}
  about = {
    "source": source,
    "hash": sources.content_hash(directory),
    "tasks": tasks,
    **({"texts": single} if single else {}),
    "skipped": skipped,
  }
  (directory / CORPUS_FILE).write_text(json.dumps(about, indent=1) + "\n")
  return about


def _write_given(
  path: pathlib.Path,
  skip_bad_rows: bool,
  directory: pathlib.Path,
  fields: str,
  say: Callable[[str], None],
  texts: bool,
) -> list[str]:
  """Write the user's pairs and single texts; messages of rows left out."""
  found = sources.texts_of(path, fields)
  skipped, held = [], np.zeros(0, np.uint64)
  if found and texts and not sources.pairs_beside(path, found, fields, say):
    sources.clear(directory)
  else:
    keys = sources.Keys(SALT)
    pairs, skipped = sources.read_pairs(
      path, skip_bad_rows, fields, say, keys.add
    )
    held = sources.write_split(directory, pairs, keys, HELD_OUT)
  if found and texts:
    single, bad = sources.read_texts(found, skip_bad_rows, say)
    left_out = sources.write_texts(directory, single, held)[1]
    if left_out:
      say(f"{path}: {left_out} single texts left out, which are held out")
    skipped += bad
  return skipped


def read_train(directory: pathlib.Path) -> Pairs:
  """The training pairs of a corpus, which stay in their files.

  There are none where it was made of single texts alone.
  """
  train = directory / "train"
  single = (train / single_texts.FILE).is_file()
  if single and not any(train.glob("*/pairs.jsonl")):
    return Pairs((), Fields())
  return sources.read_pairs(train)[0]


def read_texts(directory: pathlib.Path) -> Texts:
  """The single texts of a corpus, which stay in their file; often none."""
  return Texts(directory / "train" / single_texts.FILE)


def about(directory: pathlib.Path) -> dict[str, Any]:
  """The content of corpus.json."""
  return json.loads((directory / CORPUS_FILE).read_text())
