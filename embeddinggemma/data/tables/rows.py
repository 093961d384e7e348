"""The rows of a file of text: JSON lines, an array of JSON, CSV or TSV.

A row comes as its number, where it begins, and its columns, or as the ValueError
that says what is wrong with it. Reading goes on after a bad row.
"""

import codecs
import csv
import functools
import io
import itertools
import json
import re
import shlex
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from embeddinggemma.data import jsonl
from embeddinggemma.data.tables import columns, labels, opening
from embeddinggemma.data.tables import fields as fields_lib
from embeddinggemma.data.tables.fields import Fields
from embeddinggemma.types import BadInput


class Read(NamedTuple):
  """A row that was read."""

  number: int  # of its first line or, in an array or a Parquet file, its own
  offset: int  # of its first byte, where reading can begin again; -1: unknown
  row: dict[str, Any] | ValueError


Say = Callable[[str], None]

DELIMITERS = {",": "comma", "\t": "tab", ";": "semicolon", "|": "bar"}
_MOST = 2**31 - 1  # bytes of a field; the module's own limit is 131,072
_PIECE = 1 << 20  # characters of an array that are read at a time
_LONGEST = 1 << 26  # characters of one element; a longer one is an open bracket
_OBJECTS = re.compile(rb'\[\s*\{\s*"')
_SEPARATOR = re.compile(r'"?sep=([^"\r\n])"?[\r\n]*')
_SPACE = re.compile(r"[ \t\r\n]*")


def json_lines(path: Path, fields: Fields, say: Say) -> Iterator[Read]:
  """The rows of JSONL, in which each line is an object; blank lines are none."""
  del say
  packed = opening.is_packed(path)
  offset = 0
  with opening.opened(path) as file:
    for number, line in enumerate(opening.whole(path, file), 1):
      if not offset and _is_no_line(line):
        reason = (
          "not a JSON object; rename the file to .json if it is one array or has"
          " objects over several lines"
        )
        yield Read(number, -1, ValueError(reason))
      elif not line.isspace():
        yield Read(number, -1 if packed else offset, json_line(line, fields))
      offset += len(line)


def _is_no_line(line: bytes) -> bool:
  """Whether a line begins an array of objects, or an object of several lines."""
  bare = line.removeprefix(codecs.BOM_UTF8).strip()
  return bare in (b"[", b"{", b"[{") or bool(_OBJECTS.match(bare))


def json_line(line: bytes, fields: Fields) -> dict[str, Any] | ValueError:
  """The row of a line of JSONL; a byte order mark before it is dropped."""
  try:
    found = jsonl.parse_json(line.removeprefix(codecs.BOM_UTF8))
    return _as_row(found, fields)
  except ValueError as error:
    return error


def _as_row(found: Any, fields: Fields) -> dict[str, Any]:
  """An object as it is, or an array by numbers from 1 if --fields has those."""
  if isinstance(found, list) and fields.numbered:
    return {str(n): item for n, item in enumerate(found, 1)}
  if not isinstance(found, dict):
    more = (
      f"; for arrays, write {fields_lib.flag(_by_number(found))}"
      if isinstance(found, list)
      else ""
    )
    raise ValueError(f"not a JSON object but {type(found).__name__}{more}")
  return found


def json_file(path: Path, fields: Fields, say: Say) -> Iterator[Read]:
  """The rows of a .json: one array of objects, or JSON lines."""
  with opening.opened(path) as file:
    start = next(opening.whole(path, _first_lines(file)), b"")
  head = start.lstrip(codecs.BOM_UTF8 + b" \t\r\n")
  if not head.startswith(b"["):
    yield from _rows_or_object(path, head, fields, say)
    return
  try:  # lines that are arrays themselves
    first = jsonl.parse_json(head)
    lines = isinstance(first, list) and not any(
      isinstance(x, dict | list) for x in first
    )
  except ValueError:
    lines = False
  if lines and head.strip() != b"[]":
    yield from json_lines(path, fields, say)
    return
  yield from _array(path, fields)


def _first_lines(file: io.BufferedIOBase) -> Iterator[bytes]:
  """The first line with more than white space."""
  for line in file:
    if line.strip(codecs.BOM_UTF8 + b" \t\r\n"):
      yield line


def _rows_or_object(
  path: Path, head: bytes, fields: Fields, say: Say
) -> Iterator[Read]:
  """JSON lines, unless the file is a single object over several lines."""
  try:
    found = jsonl.parse_json(head) if head else {}
  except ValueError:
    found = None
  if head.strip() == b"{":
    raise BadInput(
      f"{path}: a JSON object over several lines, and no array of rows; write an"
      f" object a line, as in jq -c . {shlex.quote(str(path))} > pairs.jsonl"
    )
  held = [*found.values()] if isinstance(found, dict) else []
  if len(held) > 1 and all(_is_column(column) for column in held):
    raise BadInput(
      f"{path}: an object of columns, not of rows; write an object a line, as"
      f" pandas.read_json(PATH).to_json('pairs.jsonl', orient='records',"
      " lines=True) does"
    )
  if isinstance(found, dict) and not columns.is_understood(found, fields):
    lists = [key for key, item in found.items() if _is_rows(item)]
    if lists:
      raise BadInput(
        f"{path}: an object whose {lists[0]!r} holds the rows; write an object a"
        f" line, as in jq -c '.[\"{lists[0]}\"][]' {shlex.quote(str(path))} > pairs.jsonl"
      )
  yield from json_lines(path, fields, say)


def _is_column(item: Any) -> bool:
  """Whether it is a list, or an object by numbers, of two values or more."""
  if isinstance(item, dict):
    return len(item) > 1 and all(key.isdigit() for key in item)
  return isinstance(item, list) and len(item) > 1


def _is_rows(item: Any) -> bool:
  several = isinstance(item, list) and len(item) > 0
  return several and all(isinstance(row, dict) and len(row) > 1 for row in item)


def _array(path: Path, fields: Fields) -> Iterator[Read]:
  """The objects of an array, one at a time; a broken one ends the reading."""
  number = 0
  with opening.opened(path) as raw:
    try:
      for number, found in enumerate(_Elements(path, raw), 1):
        try:
          yield Read(number, -1, _as_row(found, fields))
        except ValueError as error:
          yield Read(number, -1, error)
    except ValueError as error:
      raise BadInput(f"{origin(path, number + 1)}: {error}") from None


class _Elements:
  """The elements of an array of JSON; ValueError where it is broken.

  The file is read in pieces, and an element is decoded once it is whole.
  """

  def __init__(self, path: Path, raw: io.BufferedIOBase) -> None:
    file = io.TextIOWrapper(raw, encoding="utf-8-sig", newline="")  # type: ignore
    self._pieces = opening.whole(path, iter(lambda: file.read(_PIECE), ""))
    self._decoder = json.JSONDecoder(object_pairs_hook=jsonl.unique)
    self._text, self._place = "", 0

  def __iter__(self) -> Iterator[Any]:
    self._take("[")
    if self._next() == "]":
      self._place += 1
    else:
      yield self._element()
      while self._take(",]") == ",":
        yield self._element()
    if self._next():
      raise ValueError("more text follows the array")

  def _more(self) -> bool:
    """Read on; False at the end of the file."""
    piece = next(self._pieces, "")
    self._text, self._place = self._text[self._place :] + piece, 0
    return bool(piece)

  def _next(self) -> str:
    """The next character that is no white space; "" at the end."""
    while True:
      self._place = _SPACE.match(self._text, self._place).end()  # type: ignore
      if self._place < len(self._text):
        return self._text[self._place]
      if not self._more():
        return ""

  def _take(self, expected: str) -> str:
    found = self._next()
    if not found:
      raise ValueError("the array does not end")
    if found not in expected:
      wanted = " or ".join(map(repr, expected))
      raise ValueError(f"expected {wanted} but found {found!r}")
    self._place += 1
    return found

  def _element(self) -> Any:
    self._next()
    while True:
      try:
        found, end = self._decoder.raw_decode(self._text, self._place)
        if end < len(self._text) or not self._more():  # a number may go on
          self._place = end if end <= len(self._text) else len(self._text)
          return found
      except jsonl.Twice:
        raise
      except (json.JSONDecodeError, RecursionError) as error:
        if self._is_final(error) or not self._more():
          raise ValueError(f"not JSON ({error})") from None

  def _is_final(self, error: Exception) -> bool:
    """Whether more text could not mend what the decoder did not understand."""
    if not isinstance(error, json.JSONDecodeError):
      return True
    cut = error.msg.startswith("Unterminated")
    known = len(self._text) - error.pos
    return known > (_LONGEST if cut else 16)


def table(path: Path, fields: Fields, say: Say) -> Iterator[Read]:
  """The rows of CSV or TSV: UTF-8, with a line of names unless --fields has
  numbers.

  The delimiter is the one with which the names are understood.
  """
  csv.field_size_limit(_MOST)
  with opening.opened(path) as raw:
    file = io.TextIOWrapper(  # type: ignore
      raw, encoding="utf-8-sig", errors="surrogateescape", newline=""
    )
    lines = opening.whole(path, file)
    ahead = list(itertools.islice(lines, 20))
    if not "".join(ahead).strip():
      raise BadInput(f"{path}: the file is empty")
    said = _SEPARATOR.fullmatch(ahead[0])  # as Excel writes it and reads it
    ahead = ahead[1:] if said else ahead
    delimiter = said[1] if said else _delimiter(path, ahead, fields)
    if delimiter != _usual(path):
      name = DELIMITERS.get(delimiter, repr(delimiter))
      say(f"{path}: columns are split at each {name}")
    found = itertools.chain(ahead, lines)
    cells = _cells(found, delimiter, fields, 2 if said else 1)
    names: list[str] = []
    doubtful = 0
    for number, found in cells:
      if isinstance(found, ValueError):
        if not names:
          raise BadInput(f"{path}:{number}: {found}")
        yield Read(number, -1, found)
        continue
      if not names:
        names, is_row = _header(path, found, fields, say)
        if not is_row:
          continue
      doubtful += delimiter == "\t" and any(map(_spans_rows, found))
      yield Read(number, -1, _record(names, found))
  if doubtful:
    say(
      f"{path}: quotes enclose tabs and ends of lines in {doubtful} rows; if they"
      f" are text, write {fields.with_('quote:none')}"
    )


def _spans_rows(cell: str) -> bool:
  return "\n" in cell and "\t" in cell


def _usual(path: Path) -> str:
  return "\t" if ".tsv" in path.suffixes or ".tab" in path.suffixes else ","


def _cells(
  lines: Iterable[str], delimiter: str, fields: Fields, first: int = 1
) -> Iterator[tuple[int, list[str] | ValueError]]:
  """The first line and the cells of each record; empty lines are none.

  `first` is the number of the first of the lines.
  """
  reader = csv.reader(
    lines,
    delimiter=delimiter,
    quoting=csv.QUOTE_MINIMAL if fields.quotes else csv.QUOTE_NONE,
    strict=True,
  )
  while True:
    number = reader.line_num + first
    try:
      found = next(reader)
    except StopIteration:
      return
    except csv.Error as error:
      yield (
        number,
        ValueError(
          f"not CSV ({error}); where quotes are part of the text, write"
          f" {fields.with_('quote:none')}"
        ),
      )
      continue
    if found:
      yield number, found


def _delimiter(path: Path, ahead: list[str], fields: Fields) -> str:
  """The delimiter under which the first record is understood, else the one that
  gives most columns, for a message.

  Of several the usual one comes first.
  """
  usual = _usual(path)
  widths: dict[str, int] = {}
  for delimiter in dict.fromkeys([usual, *DELIMITERS]):
    _, first = next(_cells(iter(ahead), delimiter, fields), (0, []))
    if isinstance(first, ValueError) or len(first) < 2:
      continue
    widths[delimiter] = len(first)
    names = [name.strip() for name in first]
    wanted = [n for given in fields.columns.values() for n in given]
    if fields.numbered:
      if max(map(int, wanted)) <= len(first):
        return delimiter
    elif columns.is_understood(dict.fromkeys(names, columns.UNSEEN)) or (
      wanted and set(wanted) <= set(names)
    ):
      return delimiter
  return max(widths, key=widths.__getitem__, default=usual)


def _header(
  path: Path, first: list[str], fields: Fields, say: Say
) -> tuple[list[str], bool]:
  """The names of the columns, and whether the first record is a row itself."""
  names = [name.strip() for name in first]
  if any("\0" in name or _undecoded(name) for name in names):
    raise BadInput(f"{path}:1: is not UTF-8; save the file as UTF-8")
  if first[0].startswith(('{"', "[{", '["')):
    raise BadInput(f"{path}: holds JSON and no table; rename it to .jsonl")
  if fields.numbered:
    known = columns.is_understood(dict.fromkeys(names, columns.UNSEEN))
    if known:
      say(f"{path}: the first line holds names and is no row")
    return [str(n) for n in range(1, len(first) + 1)], not known
  names = [name or f"column {n}" for n, name in enumerate(names, 1)]
  for name in names:
    if names.count(name) > 1:
      raise BadInput(f"{path}: two columns are called {name!r}; rename one")
  try:
    columns.plan(dict.fromkeys(names, columns.UNSEEN), fields)
  except ValueError as error:
    raise BadInput(f"{path}: {_not_understood(names, error)}") from None
  return names, False


def _not_understood(names: list[str], error: ValueError) -> str:
  """Why a first line is no line of names, and what to write if it is a row."""
  if all(
    len(name) < 40 and " " not in name and labels.number(name) is None
    for name in names
  ):
    return str(error)
  if len(names) < 2:
    return (
      f"its first line has one column ({names[0][:80]}); a pair needs two, with"
      " their names in the first line, split at commas, tabs, semicolons or bars"
    )
  if all(labels.number(name) is not None for name in names):
    return (
      f"its first line is of numbers ({' | '.join(names)[:80]}); replace ids by"
      f" their texts, or write {fields_lib.flag(_by_number(names))} if they are texts"
    )
  return (
    f"its first line names no columns that are known ({' | '.join(names)[:80]});"
    f" if it is a row itself, write {fields_lib.flag(_by_number(names))}; else say"
    f" which column is what, as in {fields_lib.EXAMPLE}"
  )


def _by_number(cells: Sequence[Any]) -> str:
  """Fields for a row without names: its first columns of several words, if
  there are two, else its first columns."""
  several = [n for n, cell in enumerate(cells, 1) if " " in str(cell)]
  chosen = several if len(several) > 1 else range(1, max(len(cells), 2) + 1)
  roles = "query", "positive", "negative"
  return ",".join(f"{role}:{n}" for role, n in zip(roles, chosen))


def _record(names: list[str], cells: list[str]) -> dict[str, Any] | ValueError:
  if len(cells) != len(names):
    return ValueError(f"{len(cells)} columns instead of {len(names)}")
  for name, cell in zip(names, cells):
    if "\0" in cell:
      return ValueError(f"{name!r} holds a NUL byte; save the file as UTF-8")
    if not cell.isascii() and _undecoded(cell):
      return ValueError(f"{name!r} is not UTF-8; save the file as UTF-8")
  return dict(zip(names, cells))


def _undecoded(text: str) -> bool:
  """Whether a text holds bytes that are not UTF-8."""
  return any("\udc80" <= character <= "\udcff" for character in text)


def origin(path: Path, number: int) -> str:
  """FILE:LINE or, of files without lines, "FILE: row N"."""
  return f"{_before_number(path)}{number}"


@functools.lru_cache(maxsize=256)
def _before_number(path: Path) -> str:
  lines = (".jsonl", ".ndjson", ".csv", ".tsv", ".tab")
  return f"{path}:" if opening.bare_suffix(path) in lines else f"{path}: row "
