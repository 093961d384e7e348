"""The user's own data, pairs or texts, as pairs that can be split.

Texts are cut into passages as an index cuts them. A passage and its first
sentence become a pair, so that a student sees both roles, a short query and a
document, and the split of pairs keeps no passage on two sides.
"""

import pathlib
import re
import shutil
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import numpy as np

from embeddinggemma.data import corpus, jsonl, sources
from embeddinggemma.data.tables import fields as fields_lib
from embeddinggemma.data.tables import places
from embeddinggemma.data.tables.pairs import Say
from embeddinggemma.retrieval import chunks, reading
from embeddinggemma.retrieval.measure import Measure
from embeddinggemma.students import documents
from embeddinggemma.types import BadInput

PAIRS, TEXTS = "pairs", "texts"
_TASK = "retrieval"  # whose prompts the passages get
_SENTENCE = re.compile(r".{20,}?(?:[.!?\u2026]\s|[\u3002\uff01\uff1f])")
_LONGEST = 160  # characters of a first sentence
_TEXT = (".md", ".markdown", ".txt", ".rst", ".html", ".pdf", ".ipynb", ".py")
_MARKS = "#*->=/ \t\"'"  # that may stand before a line and say nothing


class Own(NamedTuple):
  """What became of the user's data."""

  kind: str  # PAIRS or TEXTS
  pairs: int  # for training; of texts, a passage with its first sentence
  data_hash: str


def kind_of(path: pathlib.Path, fields: str) -> str:
  """Whether a path holds pairs or texts; BadInput if it does not exist.

  A file that is a table, and neither of pairs nor of texts, counts as pairs:
  reading it then says what is wrong with its columns.
  """
  if fields or sources.has_pairs(path, fields):
    return PAIRS
  if path.is_dir():
    return TEXTS
  try:
    file = places.find(path).files[0]
  except BadInput:
    if not path.exists():
      raise BadInput(
        f"{path} does not exist; give data= a file or a folder of pairs or of"
        " texts"
      ) from None
    return TEXTS
  return TEXTS if documents.has_texts(file) else PAIRS


def fingerprint(
  kind: str,
  path: str,
  fields: str,
  workdir: pathlib.Path,
  measure: Measure,
) -> Any:
  """What the written data depend on, without reading them whole."""
  if kind == PAIRS:
    return corpus.fingerprint(path, fields)
  root = pathlib.Path(path)
  files = [root] if root.is_file() else documents.visible(root, [workdir])
  stats = [(str(p), p.stat().st_size, p.stat().st_mtime_ns) for p in files]
  return {"files": stats, "cut": chunks.key(measure)}


def write(
  kind: str,
  path: str,
  fields: str,
  skip_bad_rows: bool,
  workdir: pathlib.Path,
  measure: Measure,
  seed: int,
  directory: pathlib.Path,
  say: Say,
) -> Own:
  """Write the data, split, as a corpus (`data.corpus`) in a folder.

  Args:
    kind: PAIRS or TEXTS.
    path: of the data.
    fields: which column of pairs is what, as --fields has it.
    skip_bad_rows: leave bad rows out and say them.
    workdir: of the run, which is left out where texts are read.
    measure: how much of a passage the student reads.
    seed: of the order of passages.
    directory: for the corpus.
    say: called with lines on what was read as what.

  Raises:
    BadInput: there is no text, or a row is broken.
  """
  made = directory / "passages"
  if kind == TEXTS:
    made.mkdir()
    skipped: list[str] | None = [] if skip_bad_rows else None
    root = pathlib.Path(path)
    found = documents.read(root, measure, [workdir], skipped)
    for line in skipped or ():
      say(f"skipped {line}")
    rows = passages(root, found, seed, say)
    jsonl.write_jsonl(made / "pairs.jsonl", rows)
  given = str(made) if kind == TEXTS else path
  if kind == PAIRS:
    for line in _aside(pathlib.Path(path), fields, workdir):
      say(line)
  about = corpus.write(
    given, skip_bad_rows, directory / "corpus", fields, say, of=path
  )
  for line in about["skipped"]:
    say(f"skipped {line}")
  shutil.rmtree(made, ignore_errors=True)
  return Own(kind, sum(about["tasks"].values()), about["hash"])


def _aside(
  path: pathlib.Path, fields: str, workdir: pathlib.Path
) -> Iterator[str]:
  """A line on the files of a folder of pairs that hold none."""
  if not path.is_dir():
    return
  read = set(places.find(path, fields_lib.parse(fields)).files)
  texts = [
    file.name
    for file in documents.visible(path, [workdir])
    if file not in read and file.suffix in _TEXT
  ]
  if texts:
    yield (
      f"{path} has pairs, so {len(texts):,} files of text are not read:"
      f" {_some(texts)}; give their folder as data= to be taught them"
    )


def passages(
  path: pathlib.Path, found: reading.Reading, seed: int, say: Say
) -> list[dict[str, str]]:
  """Passages as rows of pairs.jsonl, so ordered that any first part is fair to all files.

  The passages of a file are shuffled; then every file gives one in turn.
  """
  for reason, names in found.reasons.items():
    say(f"left out, {reason}: {_some(names)}")
  seen: set[tuple[str, str]] = set()
  by_file: list[list[dict[str, str]]] = []
  for number, file in enumerate(found.files):
    rows = []
    for chunk in file.chunks:
      if (chunk.title, chunk.text) not in seen:
        seen.add((chunk.title, chunk.text))
        rows.append(_row(chunk))
    order = np.random.default_rng([seed, number]).permutation(len(rows))
    by_file.append([rows[place] for place in order])
  if not seen:
    raise BadInput(
      f"{path}: holds no text and no pairs; give data= a file or a folder of"
      " one of them"
    )
  say(f"{path}: {len(seen):,} passages of {len(by_file):,} files")
  return list(_in_turn(by_file))


def _in_turn(lists: Sequence[Sequence[Any]]) -> Iterator[Any]:
  """The first items of all lists, then the second ones, and so on."""
  for place in range(max(map(len, lists))):
    yield from (items[place] for items in lists if place < len(items))


def _some(names: Sequence[str]) -> str:
  more = f" and {len(names) - 3:,} more" if len(names) > 3 else ""
  return ", ".join(names[:3]) + more


def _row(chunk: chunks.Chunk) -> dict[str, str]:
  return {
    "query": first_sentence(chunk.text),
    "positive": chunk.text,
    "title": chunk.title,
    "task": _TASK,
  }


def first_sentence(text: str) -> str:
  """The beginning of a text up to the end of a sentence, as a query.

  It has at least 20 characters, if the text does, and at most 160.
  """
  flat = " ".join(text.split())
  flat = flat.lstrip(_MARKS) or flat
  found = _SENTENCE.match(flat)
  first = found[0].strip() if found else flat
  if len(first) > _LONGEST:
    first = first[:_LONGEST].rpartition(" ")[0] or first[:_LONGEST]
  return first
