"""Text cut into the pieces that an index answers with: path, line, title.

A Python file is cut by function and class, other text by paragraph, into
pieces that an encoder of a few hundred tokens reads whole. A piece is lines of
its file as they are, but for the indent that all of them share.
"""

import ast
import itertools
import re
import textwrap
import warnings
from collections.abc import Iterator, Sequence
from pathlib import PurePath
from typing import NamedTuple

VERSION = 2  # raise it when the same content would be cut otherwise
MAX_CHARS = 1200

Lines = tuple[int, int]  # from the first, from 0, to before the last
_HEADING = re.compile(r"#{1,6} +(.+)")
_DEFS = (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef)


class Chunk(NamedTuple):
  """A piece of text and where it stands; title is for the document prompt."""

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
  """The chunks of a row of a JSONL; each stands on the row's line."""
  lines = text.split("\n")
  pieces = _pack(path, title, lines, list(_paragraphs(lines)))
  return [piece._replace(line=line) for piece in pieces]


def _python_chunks(path: str, content: str) -> list[Chunk]:
  lines = content.split("\n")
  module = PurePath(path).with_suffix("")
  name = module.parent.name if module.name == "__init__" else module.name
  owners = [name or module.name] * len(lines)
  with warnings.catch_warnings():
    warnings.simplefilter("ignore")  # about other people's escapes
    tree = ast.parse(content)
  _claim(tree, owners[0], owners)
  chunks: list[Chunk] = []
  for owner, group in itertools.groupby(range(len(lines)), owners.__getitem__):
    units = [(number, number + 1) for number in group]
    chunks += _pack(path, owner, lines, units)
  return chunks


def _claim(node: ast.AST, name: str, owners: list[str]) -> None:
  """Writes the innermost function or class over each line it spans."""
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
  headings = path.endswith((".md", ".markdown"))
  title, lines = PurePath(path).stem, content.split("\n")
  chunks: list[Chunk] = []
  section: list[Lines] = []
  for first, last in _paragraphs(lines):
    heading = _HEADING.match(lines[first]) if headings else None
    if heading:
      chunks += _pack(path, title, lines, section)
      title, section = heading[1].strip(), []
    section.append((first, last))
  return chunks + _pack(path, title, lines, section)


def _paragraphs(lines: Sequence[str]) -> Iterator[Lines]:
  """Runs of lines that are not blank."""
  first = None
  for number, line in enumerate([*lines, ""]):
    if line.strip():
      first = number if first is None else first
    elif first is not None:
      yield first, number
      first = None


def _pack(
  path: str, title: str, lines: Sequence[str], units: Sequence[Lines]
) -> list[Chunk]:
  """Joins units while they fit in MAX_CHARS, with the lines between them."""
  chunks: list[Chunk] = []
  start, end, size = 0, 0, 0  # of what is held: lines, characters
  for first, last in _fitting(lines, units):
    added = sum(len(line) + 1 for line in lines[end:last])
    if start < end and size + added - 1 <= MAX_CHARS:
      end, size = last, size + added
      continue
    chunks += _pieces(path, title, lines, start, end)
    start, end = first, last
    size = sum(len(line) + 1 for line in lines[first:last])
  return chunks + _pieces(path, title, lines, start, end)


def _fitting(lines: Sequence[str], units: Sequence[Lines]) -> Iterator[Lines]:
  """The units that hold something; lines in place of one that is too long."""
  for first, last in units:
    if sum(len(line) + 1 for line in lines[first:last]) - 1 > MAX_CHARS:
      parts = [(number, number + 1) for number in range(first, last)]
    else:
      parts = [(first, last)]
    yield from (p for p in parts if any(map(str.strip, lines[slice(*p)])))


def _pieces(
  path: str, title: str, lines: Sequence[str], start: int, end: int
) -> list[Chunk]:
  """One chunk; several of a single line that is too long."""
  text = "\n".join(lines[start:end])
  if len(text) <= MAX_CHARS:
    text = textwrap.dedent(text).rstrip()
  parts = [text[at : at + MAX_CHARS] for at in range(0, len(text), MAX_CHARS)]
  return [Chunk(path, start + 1, title, p) for p in parts if p.strip()]
