"""A corpus: a folder of training pairs and held-out evaluations.

DIRECTORY/train/TASK/pairs.jsonl, DIRECTORY/validation/... and
DIRECTORY/test/..., and corpus.json with their content hash. It is built from
the user's pairs, or else from the Python installation that runs this program.
For distillation alone, DIRECTORY/train/texts.jsonl has the user's single texts.
"""

import collections
import importlib.metadata
import json
import pathlib
import platform
import re
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

from embeddinggemma.data import datasheet, single_texts, sources, stdlib
from embeddinggemma.data.single_texts import Texts
from embeddinggemma.data.tables.fields import Fields
from embeddinggemma.data.tables.pairs import Each, Pairs
from embeddinggemma.types import Pair

CORPUS_FILE = "corpus.json"
HELD_OUT = 0.05  # share of the user's pairs for each of validation and test
SALT = "embeddinggemma"
_LANGUAGE = re.compile(r"[^\W\d_]{2,20}([-_][^\W_]{1,8}){0,3}")
ODD = "other"  # what stands in the column of languages and is none
# How a text that is held out is found among those of training.
EQUAL = "equal texts, without case and white space"


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
  of: str = "",
) -> dict[str, Any]:
  """Build a corpus in `directory` and return the content of its corpus.json.

  Args:
    path: of the user's pairs; "" for the Python installation.
    skip_bad_rows: leave bad lines of the pairs out and list them.
    directory: for the corpus.
    fields: which column is what, as --fields has it; "": by known names.
    say: called with lines on what was read as what.
    texts: read single texts as well, or alone if there are no pairs.
    of: the data that the pairs were made of, if not those of `path`.

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
  told = {"sources": sheets_of(of or path), "held_out": _held_out(directory)}
  return describe(directory, path or library, skipped, told)


def sheets_of(path: str) -> list[datasheet.Sheet]:
  """What the user's data, or those of the Python installation, say of them."""
  if path:
    return [datasheet.read(path)]
  return datasheet.of_packages(map(_distribution, stdlib.PACKAGES))


def describe(
  directory: pathlib.Path,
  source: str,
  skipped: list[str],
  told: Mapping[str, Any],
) -> dict[str, Any]:
  """Write corpus.json of pairs that lie in `directory`; returns its content.

  Args:
    directory: of the corpus.
    source: where its pairs come from, for people.
    skipped: lines on the rows that were left out.
    told: for the model card: "sources", what they say of themselves;
      "held_out", which tasks are; "languages", if they cannot be counted here.
  """
  langs: collections.Counter[str] = collections.Counter()
  train = read_train(directory, lambda pair: langs.update(_language(pair)))
  single = len(read_texts(directory))
  tasks = {task: len(pairs) for task, pairs in train.by_task().items()}
  counted = dict(sorted(langs.items()))
  known = {"texts": single, **told}
  known["languages"] = counted or told.get("languages")
  about = {
    "source": source,
    "hash": sources.content_hash(directory),
    "tasks": tasks,
    **{key: value for key, value in known.items() if value},
    "skipped": skipped,
  }
  (directory / CORPUS_FILE).write_text(json.dumps(about, indent=1) + "\n")
  return about


def _language(pair: Pair) -> list[str]:
  """The language of a pair, [] of one that names none.

  What is no code or name may be a text of somebody, and is not told.
  """
  if not pair.lang:
    return []
  return [pair.lang if _LANGUAGE.fullmatch(pair.lang) else ODD]


def _held_out(directory: pathlib.Path) -> dict[str, Any]:
  """The tasks of each held-out part, none of whose texts is in training."""
  tasks = {
    side: sorted(path.name for path in (directory / side).glob("*/"))
    for side in ("validation", "test")
  }
  found = {side: names for side, names in tasks.items() if names}
  return {**found, "by": EQUAL} if found else {}


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


def read_train(directory: pathlib.Path, each: Each | None = None) -> Pairs:
  """The training pairs of a corpus, which stay in their files.

  There are none where it was made of single texts alone. `each` is called with
  each pair in turn, while all are checked.
  """
  train = directory / "train"
  single = (train / single_texts.FILE).is_file()
  if single and not any(train.glob("*/pairs.jsonl")):
    return Pairs((), Fields())
  return sources.read_pairs(train, each=each)[0]


def read_texts(directory: pathlib.Path) -> Texts:
  """The single texts of a corpus, which stay in their file; often none."""
  return Texts(directory / "train" / single_texts.FILE)


def sources_told(directory: pathlib.Path) -> dict[str, Any]:
  """What corpus.json says of sources, for a corpus that is made of this one."""
  found, kept = about(directory), ("sources", "languages", "held_out")
  return {key: found[key] for key in kept if key in found}


def about(directory: pathlib.Path) -> dict[str, Any]:
  """The content of corpus.json."""
  return json.loads((directory / CORPUS_FILE).read_text())
