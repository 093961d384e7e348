"""Cut files into the pieces that an index returns: path, line, title, text.

A Python file is cut by function and class, other text by paragraph, into pieces
that fit an encoder of a few hundred tokens. A piece consists of lines of its
file, without their common indentation and white space at the end.
"""

import ast
import dataclasses
import itertools
import re
import textwrap
import warnings
from collections.abc import Iterable, Iterator
from pathlib import PurePath
from typing import NamedTuple

VERSION = 3  # increase it when a change here cuts the same content differently
MAX_CHARS = 1200

Lines = tuple[int, int]  # a range of line numbers from 0, the end excluded
_HEADING = re.compile(r"#{1,6} +(.+)")
_DEFS = (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef)


class Chunk(NamedTuple):
  """A piece of text and where it stands; the document prompt has its title."""

  path: str
  line: int
  title: str
  text: str


def chunk(path: str, content: str) -> list[Chunk]:
  """A file's chunks; Python that does not parse is cut as text."""
  if path.endswith(".py"):
    try:
      return _python_chunks(path, content)
    except (SyntaxError, ValueError, RecursionError, MemoryError):
      pass
  return _text_chunks(path, content)


def row_chunks(path: str, line: int, title: str, text: str) -> list[Chunk]:
  """The chunks of one row of a JSONL file, all with the line of that row.

  A row of at most MAX_CHARS is one chunk, with its outer white space.
  """
  if len(text) <= MAX_CHARS:
    return [Chunk(path, line, title, text)] if text.strip() else []
  page = _Page(path, text.split("\n"))
  pieces = _pack(page, title, _paragraphs(page))
  return [piece._replace(line=line) for piece in pieces]


@dataclasses.dataclass(frozen=True)
class _Page:
  """The lines of a file."""

  path: str
  lines: list[str]

  def text(self, first: int, last: int) -> str:
    return "\n".join(self.lines[first:last])

  def size(self, first: int, last: int) -> int:
    return sum(map(len, self.lines[first:last])) + last - first - 1


def _python_chunks(path: str, content: str) -> list[Chunk]:
  page = _Page(path, content.split("\n"))
  module = PurePath(path).with_suffix("")
  name = module.parent.name if module.name == "__init__" else module.name
  owners = [name or module.name] * len(page.lines)
  with warnings.catch_warnings():
    warnings.simplefilter("ignore")  # about other people's escapes
    tree = ast.parse(content)
  _claim(tree, owners[0], owners)
  chunks: list[Chunk] = []
  numbers = range(len(page.lines))
  for owner, group in itertools.groupby(numbers, owners.__getitem__):
    chunks += _pack(page, owner, [(number, number + 1) for number in group])
  return chunks


def _claim(node: ast.AST, name: str, owners: list[str]) -> None:
  """Write the name of the innermost function or class over each line."""
  for child in ast.iter_child_nodes(node):
    if isinstance(child, _DEFS):
      inner = f"{name}.{child.name}"
      first = min([child.lineno, *(d.lineno for d in child.decorator_list)])
      last = child.end_lineno or child.lineno
      owners[first - 1 : last] = [inner] * (last - first + 1)
      if isinstance(child, ast.ClassDef):
        _claim(child, inner, owners)
    elif isinstance(child, ast.stmt | ast.ExceptHandler):
      _claim(child, name, owners)


def _text_chunks(path: str, content: str) -> list[Chunk]:
  page, title = _Page(path, content.split("\n")), PurePath(path).stem
  headings = path.endswith((".md", ".markdown"))
  chunks: list[Chunk] = []
  section: list[Lines] = []
  for first, last in _paragraphs(page):
    heading = _HEADING.match(page.lines[first]) if headings else None
    if heading:
      chunks += _pack(page, title, section)
      title, section = heading[1].strip(), []
    section.append((first, last))
  return chunks + _pack(page, title, section)


def _paragraphs(page: _Page) -> Iterator[Lines]:
  """Runs of lines that are not blank."""
  first = None
  for number, line in enumerate([*page.lines, ""]):
    if line.strip():
      first = number if first is None else first
    elif first is not None:
      yield first, number
      first = None


def _pack(page: _Page, title: str, units: Iterable[Lines]) -> list[Chunk]:
  """Join neighbouring units into chunks of at most MAX_CHARS."""
  chunks: list[Chunk] = []
  start, end = 0, 0  # the lines of the current chunk
  for first, last in _fitting(page, units):
    if start == end:
      start, end = first, last
    elif page.size(start, last) <= MAX_CHARS:
      end = last
    else:
      chunks += _pieces(page, title, start, end)
      start, end = first, last
  return chunks + _pieces(page, title, start, end)


def _fitting(page: _Page, units: Iterable[Lines]) -> Iterator[Lines]:
  """The units that hold text; one that is too long is replaced by its lines."""
  for first, last in units:
    parts = [(first, last)]
    if page.size(first, last) > MAX_CHARS:
      parts = [(number, number + 1) for number in range(first, last)]
    yield from (part for part in parts if page.text(*part).strip())


def _pieces(page: _Page, title: str, start: int, end: int) -> list[Chunk]:
  """The lines as one chunk; a single line that is too long gives several."""
  text = page.text(start, end)
  if len(text) <= MAX_CHARS:
    text = textwrap.dedent(text).rstrip()
  parts = [text[at : at + MAX_CHARS] for at in range(0, len(text), MAX_CHARS)]
  return [Chunk(page.path, start + 1, title, p) for p in parts if p.strip()]
