"""Local text as passages, read file by file until there is enough of it."""

import os
import re
import sysconfig
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np

from embeddinggemma.data import beir, jsonl
from embeddinggemma.data.stdlib import python_source
from embeddinggemma.evaluation.long_context.spec import ABOUT_FILE, about_of
from embeddinggemma.retrieval import chunks, reading
from embeddinggemma.retrieval.measure import Measure
from embeddinggemma.types import BadInput

LIBRARY = "Python's standard library"
PART = 64  # passages of a file that count as one text
_FIELDS = ("text", "positive")  # of a row of JSONL; the first that it has


class Passage(NamedTuple):
  """A paragraph or so of a text."""

  source: tuple[str, int]  # which text: a file, and a part or row of it
  text: str
  tokens: int  # of its own, without prompt, BOS and EOS


class Text(NamedTuple):
  """The passages of a folder, none of them twice, in the order of reading."""

  where: str  # for people
  passages: list[Passage]
  left_out: dict[str, str]  # file -> why

  @property
  def tokens(self) -> int:
    """Tokens of all passages."""
    return sum(passage.tokens for passage in self.passages)


def require(source: Path) -> None:
  """Raise BadInput for a path that does not exist."""
  if not source.exists():
    raise BadInput(f"{source}: no such folder or file of text")


def files(
  source: Path | None, excluded: Sequence[Path] = ()
) -> tuple[dict[str, Path], dict[str, str]]:
  """The files of a text by name, and why others are left out.

  Args:
    source: a folder, which is read recursively, or a file; None: the Python
      standard library, whose text the laptop's recipe reads.
    excluded: paths that are left out without being listed.

  Suites that were made before are no text. Raises BadInput for a path that does
  not exist.
  """
  if source is None:
    root = Path(sysconfig.get_path("stdlib"))
    return dict(python_source.python_files(root)), {}
  require(source)
  if source.is_file():
    return {source.name: source}, {}
  root = os.path.realpath(source)
  found, left_out = {}, {}
  for name, reason in reading.walk(
    root, {os.path.realpath(path) for path in excluded}
  ):
    if reason:
      left_out[name] = reason
    else:
      found[name] = Path(root, name)
  suites = [
    place.parent
    for place in found.values()
    if place.name == ABOUT_FILE and about_of(place.parent)
  ]
  is_text = lambda place: not any(map(place.is_relative_to, suites))
  return {n: place for n, place in found.items() if is_text(place)}, left_out


def read(
  source: Path | None,
  excluded: Sequence[Path],
  measure: Measure,
  wanted: int,
  rng: np.random.Generator,
) -> Text:
  """Passages of a text's files in a random order, of `wanted` tokens or all.

  Files are read as an index reads them: text of any kind, code, notebooks, PDFs,
  and JSONL whose rows have a "text" or a "positive".

  Args:
    source: see `files`.
    excluded: see `files`.
    measure: its limit is that of a passage, with the document prompt.
    wanted: tokens after which no further file is read.
    rng: which decides the order.

  Raises BadInput where there is no text at all.
  """
  places, left_out = files(source, excluded)
  where = LIBRARY if source is None else str(source)
  passages: list[Passage] = []
  seen: set[int] = set()
  total = 0
  for name in rng.permutation(sorted(places)) if places else ():
    try:
      for part, text in _pieces(places[name], measure):
        if (key := beir.text_number(text)) in seen:
          continue
        seen.add(key)
        tokens = measure.count([text])[0] - 2
        passages.append(Passage((str(name), part), text, tokens))
        if (total := total + tokens) >= wanted:
          return Text(where, passages, left_out)
    except (BadInput, OSError) as error:
      left_out[str(name)] = _reason(error)
  if not passages:
    reasons = "; ".join(dict.fromkeys(left_out.values()))
    raise BadInput(
      f"{where}: holds no text to make documents of"
      f"{f' ({reasons})' if reasons else ''}; give a folder of text files"
    )
  return Text(where, passages, left_out)


def _reason(error: BadInput | OSError) -> str:
  """Why a file has no text, without its name."""
  if isinstance(error, OSError):
    return error.strerror or str(error)
  said = str(error).partition(": ")[2]
  found = re.fullmatch(r"cannot be indexed \((.*)\)", said)
  return found[1] if found else said


def _pieces(place: Path, measure: Measure) -> Iterator[tuple[int, str]]:
  """(part or row of the file, passage) for each passage of a file."""
  if place.suffix == ".jsonl":
    for number, text in enumerate(_rows(place), 1):
      for chunk in chunks.row_chunks(str(place), number, "", text, measure):
        yield number, chunk.text.strip()
    return
  for number, chunk in enumerate(reading.read(place, measure=measure).chunks):
    if text := chunk.text.strip():
      yield number // PART, text


def _rows(place: Path) -> Iterator[str]:
  """The texts of a JSONL file, but blank ones; BadInput for a row without."""
  for origin, row in jsonl.read_rows(place, ()):
    name = next((name for name in _FIELDS if name in row), None)
    if name is None:
      raise BadInput(f"{origin}: no field {' or '.join(map(repr, _FIELDS))}")
    try:
      text = jsonl.optional_text(name, row[name])
    except ValueError as error:
      raise BadInput(f"{origin}: {error}") from None
    if text:
      yield text
