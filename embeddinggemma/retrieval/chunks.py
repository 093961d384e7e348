"""Cut files into the pieces that an index returns: path, line, title, text.

A Python file is cut by function and class, other text by paragraph, into pieces
that the model reads whole: with the document prompt and its title a piece has
at most as many tokens as the model takes, and at most MAX_CHARS characters. A
piece consists of lines of its file, without their common indentation and white
space at the end. A line that is too long gives several.
"""

import ast
import itertools
import re
import warnings
from collections import Counter
from collections.abc import Iterable, Iterator
from pathlib import PurePath
from typing import Any

from embeddinggemma.retrieval import measure as measures
from embeddinggemma.retrieval.cutting import (
  PAGES_EMPTY,
  TITLES_CUT,
  Chunk,
  Lines,
  Page,
  Section,
  cut,
)
from embeddinggemma.retrieval.measure import BY_CHARACTERS, MAX_CHARS, Measure
from embeddinggemma.retrieval.notebooks import Cell

VERSION = 4  # increase it when a change here cuts the same content differently

_HEADING = re.compile(r"#{1,6} +(.+)")
# A line of a notebook that is IPython's: magics, shell commands, help.
_MAGIC = re.compile(
  r"^(?P<indent>[ \t]*+)(?:[%!?].*|[\w ,.\[\]\"']+=[ \t]*[%!].*|[^#\n]*\?[ \t]*)$",
  re.MULTILINE,
)
_DEFS = (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef)


def key(measure: Measure) -> dict[str, Any]:
  """All that decides how a content is cut, as index.json has it."""
  found: dict[str, Any] = {"version": VERSION, "characters": MAX_CHARS}
  if measure.tokenizer:
    found |= {"max_length": measure.limit, "tokenizer": measure.tokenizer}
  return found


def chunk(
  path: str,
  content: str,
  measure: Measure = BY_CHARACTERS,
  did: Counter[str] | None = None,
) -> list[Chunk]:
  """A file's chunks; Python that does not parse is cut as text.

  Args:
    path: of the file; it tells its kind and gives it a title.
    content: with "\n" line ends.
    measure: of the model that is to read the chunks.
    did: counts what was cut besides, by the names of `cutting`.
  """
  did = Counter() if did is None else did
  page = Page(path, content.split("\n"), measure, did)
  code = None
  if path.endswith(".py"):
    code = _code(page, _module(path), content)
  headings = path.endswith((".md", ".markdown"))
  return cut(page, code or _prose(page, PurePath(path).stem, headings))


def row_chunks(
  path: str,
  line: int,
  title: str,
  text: str,
  measure: Measure = BY_CHARACTERS,
  did: Counter[str] | None = None,
) -> list[Chunk]:
  """The chunks of one row of a JSONL file, all with the line of that row.

  A row that fits is one chunk, with its outer white space. A title that is
  shortened also stands whole before the text, so that all of it is found.
  """
  did = Counter() if did is None else did
  short = measures.short_title(title, measure)
  if short != title and text.strip():
    text = f"{title}\n\n{text}"
  page = Page(path, text.split("\n"), measure, did, line)
  if page.fit([text], [short])[0]:
    did[TITLES_CUT] += short != title
    return [page.chunk(0, short, text)] if text.strip() else []
  return cut(page, [Section(title, list(_paragraphs(page)))])


def cell_chunks(
  path: str, cells: Iterable[Cell], measure: Measure, did: Counter[str]
) -> list[Chunk]:
  """The chunks of a notebook; a chunk is of one cell, whose number is its line.

  Code is cut by function and class, with IPython's magics left in it. The rest
  is Markdown. What is of no function has the title of the heading before it.
  """
  stem = heading = PurePath(path).stem
  chunks: list[Chunk] = []
  for cell in cells:
    page = Page(path, cell.text.split("\n"), measure, did, cell.number)
    if cell.is_code:
      plain = _MAGIC.sub(r"\g<indent>pass", cell.text)
      sections = _code(page, stem, cell.text) or _code(page, stem, plain)
      sections = sections or list(_prose(page, heading, False))
      chunks += cut(page, [_under(heading, stem, one) for one in sections])
    else:
      sections = list(_prose(page, heading, True))
      chunks += cut(page, sections)
      heading = sections[-1].title
  return chunks


def _under(heading: str, stem: str, section: Section) -> Section:
  return section._replace(title=heading) if section.title == stem else section


def page_chunks(
  path: str, pages: Iterable[str], measure: Measure, did: Counter[str]
) -> list[Chunk]:
  """The chunks of a PDF; a chunk is of one page, whose number is its line."""
  title = PurePath(path).stem
  chunks: list[Chunk] = []
  for number, text in enumerate(pages, 1):
    page = Page(path, text.split("\n"), measure, did, number)
    chunks += cut(page, _prose(page, title, False))
    did[PAGES_EMPTY] += not text.strip()
  return chunks


def _module(path: str) -> str:
  """The name of a Python file's module; of a package, its folder's."""
  module = PurePath(path).with_suffix("")
  name = module.parent.name if module.name == "__init__" else module.name
  return name or module.name


def _code(page: Page, name: str, content: str) -> list[Section] | None:
  """Lines by the innermost function or class that they are of.

  Where these stand is read from `content`, of as many lines. None for what is
  not Python, or no Python that can be followed.
  """
  owners = [name] * len(page.lines)
  try:
    with warnings.catch_warnings():
      warnings.simplefilter("ignore")  # about other people's escapes
      tree = ast.parse(content)
  except (SyntaxError, ValueError, RecursionError, MemoryError):
    return None
  _claim(tree, name, owners)
  numbers = range(len(page.lines))
  return [
    Section(owner, [(number, number + 1) for number in group])
    for owner, group in itertools.groupby(numbers, owners.__getitem__)
  ]


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


def _prose(page: Page, title: str, headings: bool) -> Iterator[Section]:
  """Paragraphs; where there are headings, by that which they stand under."""
  units: list[Lines] = []
  for first, last in _paragraphs(page):
    heading = _HEADING.match(page.lines[first]) if headings else None
    if heading:
      yield Section(title, units)
      title, units = heading[1].strip(), []
    units.append((first, last))
  yield Section(title, units)


def _paragraphs(page: Page) -> Iterator[Lines]:
  """Runs of lines that are not blank."""
  first = None
  for number, line in enumerate([*page.lines, ""]):
    if line.strip():
      first = number if first is None else first
    elif first is not None:
      yield first, number
      first = None
