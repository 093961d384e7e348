"""Passages that stay on disk: read once to check them, then block by block.

All of English Wikipedia in passages of 100 words is 13 GB of text, so nothing
of it is held but the block that is encoded and the passages that were found.
"""

import csv
import dataclasses
import hashlib
from collections.abc import Callable, Collection, Iterator
from pathlib import Path
from typing import NamedTuple

from embeddinggemma.data import jsonl
from embeddinggemma.data.tables import opening
from embeddinggemma.types import BadInput

_LONGEST = 1 << 24  # characters of a field; a longer one is an open quote
COLUMNS = ("id", "text", "title")  # of a file of DPR's, in its order
_BOM = b"\xef\xbb\xbf"


class Passage(NamedTuple):
  """A passage as its file has it."""

  id: str
  title: str
  text: str
  origin: str  # FILE:LINE


class Block(NamedTuple):
  """Consecutive passages; `first` is the number of the first, from 0."""

  first: int
  titles: list[str]
  texts: list[str]


Reader = Callable[[Path], Iterator[Passage]]


@dataclasses.dataclass(frozen=True)
class Passages:
  """The passages of a file, numbered from 0 in its order."""

  path: Path
  read: Reader
  count: int
  words: int  # of all texts, separated by white space
  hash: str  # of all ids, titles and texts

  def blocks(self, size: int) -> Iterator[Block]:
    """All passages, by blocks; BadInput if the file is not as it was."""
    block = Block(0, [], [])
    number = -1
    for number, passage in enumerate(self.read(self.path)):
      if len(block.texts) == size:
        yield block
        block = Block(number, [], [])
      block.titles.append(passage.title)
      block.texts.append(passage.text)
    if number + 1 != self.count:
      raise BadInput(
        f"{self.path}: had {self.count} passages and now has {number + 1};"
        " leave it alone while it is searched"
      )
    if block.texts:
      yield block

  def texts(self, wanted: Collection[int]) -> dict[int, str]:
    """The texts of some passages by their numbers, in one pass of the file."""
    wanted, found = set(wanted), {}
    for number, passage in enumerate(self.read(self.path)):
      if len(found) == len(wanted):
        break
      if number in wanted:
        found[number] = passage.text
    return found


def checked(
  path: Path, read: Reader, see: Callable[[int, Passage], None]
) -> Passages:
  """The passages of a file, all of which are read to check and count them.

  Args:
    path: of the file.
    read: its passages in order; raises BadInput with FILE:LINE.
    see: is told each passage and its number.

  Raises BadInput for a broken row, and for a file without passages.
  """
  digest = hashlib.blake2b(digest_size=16)
  count = words = 0
  for passage in read(path):
    see(count, passage)
    count += 1
    words += len(passage.text.split())
    row = f"{passage.id}\t{passage.title}\t{passage.text}\n"
    digest.update(row.encode())
  if not count:
    raise BadInput(f"{path}: no passages")
  return Passages(path, read, count, words, digest.hexdigest())


def tsv(path: Path) -> Iterator[Passage]:
  """The passages of a TSV as DPR and XOR-TyDi have it, perhaps packed.

  The columns are id, text and title, in the order of the first line if that
  names them; a field in quotes may hold tabs and ends of lines. BadInput names
  the line of a row that has other columns.
  """
  csv.field_size_limit(_LONGEST)
  with opening.opened(path) as raw:
    lines = _Lines(path, opening.whole(path, raw))
    rows = csv.reader(lines, delimiter="\t")
    order: tuple[int, ...] = ()
    while True:
      origin = f"{path}:{lines.number + 1}"
      try:
        row = next(rows)
      except StopIteration:
        return
      except csv.Error as error:
        raise BadInput(f"{origin}: {error}; is a quote left open?") from None
      if not order:
        order = _order(origin, row)
        if _is_header(row):
          continue
      if not row:
        continue
      if len(row) != len(COLUMNS):
        raise BadInput(
          f"{origin}: {len(row)} columns; expected {', '.join(COLUMNS)},"
          " separated by tabs"
        )
      key, text, title = (row[column] for column in order)
      yield Passage(key, title, text, origin)


class _Lines:
  """Lines as text, counted; BadInput names one that is not UTF-8."""

  def __init__(self, path: Path, lines: Iterator[bytes]) -> None:
    self._path, self._lines, self.number = path, iter(lines), 0

  def __iter__(self) -> Iterator[str]:
    return self

  def __next__(self) -> str:
    line = next(self._lines)
    self.number += 1
    line = line.removeprefix(_BOM) if self.number == 1 else line
    try:
      return line.decode("utf-8")
    except UnicodeDecodeError as error:
      raise BadInput(
        f"{self._path}:{self.number}: not UTF-8 (byte {error.start + 1})"
      ) from None


def _is_header(row: list[str]) -> bool:
  return {name.strip().lower() for name in row} == set(COLUMNS)


def _order(origin: str, row: list[str]) -> tuple[int, ...]:
  """Where id, text and title stand, by a first row; BadInput for other names."""
  names = [name.strip().lower() for name in row]
  if _is_header(row):
    return tuple(names.index(name) for name in COLUMNS)
  if names[:1] in (["id"], ["docid"], ["_id"], ["pid"]):
    raise BadInput(
      f"{origin}: the columns are {', '.join(row)}; expected"
      f" {', '.join(COLUMNS)}"
    )
  return tuple(range(len(COLUMNS)))


def json_rows(path: Path, *fields: str) -> Iterator[tuple[str, dict]]:
  """(FILE:LINE, row) of JSONL, in which `fields` are texts; blank lines skipped.

  An "id" is a text or a whole number, and becomes a text. BadInput names the
  line of a row without one of the fields, and says which the row has.
  """
  for origin, line in jsonl.read_lines(path):
    if not line.strip():
      continue
    try:
      row = jsonl.parse_row(line, (), check=jsonl.any_text)
      missing = [name for name in ("id", *fields) if name not in row]
      if missing:
        raise ValueError(
          f"no field {missing[0]!r}; it has {', '.join(map(repr, row))}"
        )
      key = row["id"]
      if isinstance(key, bool) or not isinstance(key, str | int):
        raise ValueError("'id' is neither text nor a whole number")
      row["id"] = jsonl.checked("id", str(key))
      for name in fields:
        row[name] = jsonl.any_text(name, row[name])
    except ValueError as error:
      raise BadInput(f"{origin}: {error}") from None
    yield origin, row
