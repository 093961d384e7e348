"""Files cut into the pieces that an index answers with: path, line, title.

A Python file is cut by function and class, other text by paragraph, into
pieces that an encoder of a few hundred tokens reads whole.
"""

import ast
import collections
import os
import re
import textwrap
import warnings
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

from embeddinggemma.data import jsonl
from embeddinggemma.types import BadInput

MAX_CHARS = 1200
MAX_BYTES = 4 * 2**20  # a larger file is data, not something to read
SKIPPED_FOLDERS = frozenset(["__pycache__", "node_modules"])

Block = tuple[int, str]  # the line it starts on, its text
_HEADING = re.compile(r"#{1,6} +(.+)")
_DEFS = (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef)


class Chunk(NamedTuple):
  """A piece of text and where it stands; title is for the document prompt."""

  path: str
  line: int
  title: str
  text: str


class Reading(NamedTuple):
  """The chunks of an input, and why files were skipped, counted."""

  chunks: list[Chunk]
  files: int
  skipped: dict[str, int]


def read(source: Path, excluded: Sequence[Path] = ()) -> Reading:
  """The chunks of a folder (recursively), a JSONL or a text file.

  In a folder, hidden files, binary files, broken encodings and very large
  files are skipped and counted. A broken JSONL line is BadInput.
  """
  if source.is_dir():
    return _read_folder(source, excluded)
  if not source.is_file():
    raise BadInput(f"{source}: no such folder or file to index")
  if source.suffix == ".jsonl":
    return Reading(list(_read_jsonl(source)), 1, {})
  content = _content(source)
  if isinstance(content, _Skipped):
    raise BadInput(f"{source}: cannot be indexed ({content.reason})")
  return Reading(chunk(source.name, content), 1, {})


def chunk(path: str, content: str) -> list[Chunk]:
  """A file's chunks; Python that does not parse is cut as text."""
  if path.endswith(".py"):
    try:
      return _python_chunks(path, content)
    except (SyntaxError, ValueError, RecursionError, MemoryError):
      pass
  return _text_chunks(path, content)


class _Skipped(NamedTuple):
  reason: str


def _read_folder(root: Path, excluded: Sequence[Path]) -> Reading:
  chunks: list[Chunk] = []
  skipped: collections.Counter[str] = collections.Counter()
  files = 0
  for path in _files(root, [other.resolve() for other in excluded]):
    content = _content(path)
    if isinstance(content, _Skipped):
      skipped[content.reason] += 1
      continue
    files += 1
    chunks += chunk(path.relative_to(root).as_posix(), content)
  return Reading(chunks, files, dict(skipped))


def _files(root: Path, excluded: Sequence[Path]) -> Iterator[Path]:
  for folder, folders, names in os.walk(root):
    folders[:] = sorted(
      name
      for name in folders
      if not name.startswith(".")
      and name not in SKIPPED_FOLDERS
      and (Path(folder) / name).resolve() not in excluded
    )
    for name in sorted(names):
      path = Path(folder) / name
      hidden = name.startswith(".") or path.resolve() in excluded
      if not hidden and path.is_file():
        yield path


def _content(path: Path) -> str | _Skipped:
  try:
    if path.stat().st_size > MAX_BYTES:
      return _Skipped("too large")
    data = path.read_bytes()
  except OSError:
    return _Skipped("unreadable")
  if b"\0" in data[:8192]:
    return _Skipped("binary")
  try:
    text = data.decode("utf-8-sig")
  except UnicodeDecodeError:
    return _Skipped("not UTF-8")
  return text.replace("\r\n", "\n").replace("\r", "\n")


def _read_jsonl(path: Path) -> Iterator[Chunk]:
  """The rows' texts, long ones in pieces; each stands on its row's line."""
  rows = jsonl.read_rows(path, ("text",), ("title",))
  for number, (_, row) in enumerate(rows, 1):
    title, text = row["title"], row["text"]
    whole = [Chunk(str(path), number, title, text)]
    if len(text) > MAX_CHARS:
      whole = _pack(str(path), title, list(_paragraphs(text)), "\n\n")
    for piece in whole:
      yield piece._replace(line=number)


def _python_chunks(path: str, content: str) -> list[Chunk]:
  lines = content.split("\n")
  module = Path(path).with_suffix("")
  name = module.parent.name if module.name == "__init__" else module.name
  owners = [name or module.name] * (len(lines) + 1)
  with warnings.catch_warnings():
    warnings.simplefilter("ignore")  # about other people's escapes
    tree = ast.parse(content)
  _claim(tree, owners[0], owners)
  chunks: list[Chunk] = []
  start = 0
  for end in range(1, len(lines) + 1):
    if end == len(lines) or owners[end] != owners[start]:
      blocks = [
        (start + 1 + i, text) for i, text in enumerate(lines[start:end])
      ]
      chunks += _pack(path, owners[start], blocks, "\n")
      start = end
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
  title = Path(path).stem
  chunks: list[Chunk] = []
  section: list[Block] = []
  for number, paragraph in _paragraphs(content):
    heading = _HEADING.match(paragraph) if headings else None
    if heading:
      chunks += _pack(path, title, section, "\n\n")
      title, section = heading[1].strip(), []
    section.append((number, paragraph))
  return chunks + _pack(path, title, section, "\n\n")


def _paragraphs(content: str) -> Iterator[Block]:
  start, held = 1, []
  for number, line in enumerate([*content.split("\n"), ""], 1):
    if line.strip():
      start = start if held else number
      held.append(line)
    elif held:
      yield start, "\n".join(held)
      held = []


def _pack(
  path: str, title: str, blocks: Sequence[Block], joint: str
) -> list[Chunk]:
  """Joins blocks while they fit in MAX_CHARS; splits a longer one."""
  chunks: list[Chunk] = []
  start, held = 0, ""
  for number, text in _fitting(blocks):
    if held and len(held) + len(joint) + len(text) > MAX_CHARS:
      chunks.append(Chunk(path, start, title, _dedented(held)))
      held = ""
    if held:
      held += joint + text
    elif text.strip():
      start, held = number, text
  if held:
    chunks.append(Chunk(path, start, title, _dedented(held)))
  return chunks


def _dedented(text: str) -> str:
  return textwrap.dedent(text).rstrip()


def _fitting(blocks: Sequence[Block]) -> Iterator[Block]:
  for number, text in blocks:
    if len(text) <= MAX_CHARS:
      yield number, text
      continue
    for offset, line in enumerate(text.split("\n")):
      for begin in range(0, max(1, len(line)), MAX_CHARS):
        yield number + offset, line[begin : begin + MAX_CHARS]
