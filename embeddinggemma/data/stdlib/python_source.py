"""Documented Python read from source files: definitions and comments.

The laptop's training text is the Python that every installation already has
on its disk. Files are parsed, never imported or run, so reading them has no
side effects and a broken file costs only itself.
"""

import ast
import hashlib
import inspect
import os
import pathlib
import re
import textwrap
import warnings
from collections.abc import Iterator
from typing import NamedTuple

MAX_FILE_BYTES = 500_000  # larger ones are tables, not code
SKIPPED = frozenset(  # folders: tests, copies of others, unusual code
  "test tests testing idle_test turtledemo benchmarks examples build "
  "site-packages dist-packages __pycache__ _vendor _vendored externals "
  "experimental pallas mosaic".split()
)
_Function = ast.FunctionDef | ast.AsyncFunctionDef
_Defined = _Function | ast.ClassDef
_Documented = _Defined | ast.Module


class Definition(NamedTuple):
  """A function or class: its docstring, and its source without docstrings."""

  module: str  # dotted, "json.decoder"
  name: str
  is_function: bool
  docstring: str  # cleaned of indentation; "" where there is none
  source: str  # with signature and decorators; all docstrings taken out
  trivial: bool  # the body only passes or raises


class Module(NamedTuple):
  """What is read of one source file."""

  name: str
  docstring: str
  definitions: tuple[Definition, ...]
  comments: tuple[tuple[str, str], ...]  # a comment, and the code below it


def digest(*parts: str) -> int:
  """Hashes text to 64 bits, the same on every machine and in every run."""
  data = "\0".join(parts).encode("utf-8", "surrogatepass")
  return int.from_bytes(hashlib.blake2b(data, digest_size=8).digest(), "big")


def python_files(root: pathlib.Path) -> Iterator[tuple[str, pathlib.Path]]:
  """Yields (dotted name below `root`, path) for source files, sorted."""
  for folder, children, files in os.walk(root):
    children[:] = sorted(c for c in children if _is_module(c))
    parts = pathlib.Path(folder).relative_to(root).parts
    for file in sorted(files):
      stem, suffix = os.path.splitext(file)
      if suffix == ".py" and _is_module(stem):
        last = () if stem == "__init__" else (stem,)
        yield ".".join((*parts, *last)), pathlib.Path(folder, file)


def _is_module(name: str) -> bool:
  is_test = name.startswith("test_") or name.endswith("_test")
  return name.isidentifier() and name not in SKIPPED and not is_test


def read_module(name: str, path: pathlib.Path) -> Module | None:
  """Parses one file; None if it is unreadable, too large or undocumented."""
  try:
    if path.stat().st_size > MAX_FILE_BYTES:
      return None
    text = path.read_bytes().decode("utf-8").replace("\r\n", "\n")
    if '"""' not in text and "'''" not in text:
      return None
    with warnings.catch_warnings():
      warnings.simplefilter("ignore")  # about other people's escapes
      tree = ast.parse(text)
    nodes = list(_documented(tree))
  except (OSError, ValueError, SyntaxError, RecursionError, MemoryError):
    return None  # the last two: nested deeper than Python can follow
  lines = text.split("\n")
  bare = _without_docstrings(lines, nodes)
  definitions = tuple(
    _definition(name, node, bare)
    for node in nodes
    if not isinstance(node, ast.Module)
  )
  return Module(name, _docstring(tree), definitions, tuple(_comments(bare)))


def _documented(node: ast.AST) -> Iterator[_Documented]:
  """Yield the nodes that may have a docstring, without entering expressions."""
  if isinstance(node, _Documented):
    yield node
  for block in ("body", "orelse", "handlers", "finalbody"):
    for child in getattr(node, block, ()):
      yield from _documented(child)


def _docstring(node: _Documented) -> str:
  text = inspect.cleandoc(ast.get_docstring(node, clean=False) or "")
  return text.encode("utf-8", "ignore").decode("utf-8")  # lone surrogates


def _docstring_node(node: _Documented) -> ast.Expr | None:
  first = node.body[0] if node.body else None
  if isinstance(first, ast.Expr) and isinstance(first.value, ast.Constant):
    return first if isinstance(first.value.value, str) else None
  return None


def _without_docstrings(
  lines: list[str], nodes: list[_Documented]
) -> list[str | None]:
  """The file's lines; None where a line held nothing but a docstring."""
  kept: list[str | None] = list(lines)
  for node in nodes:
    expression = _docstring_node(node)
    if expression is None:
      continue
    first = expression.lineno - 1
    last = (expression.end_lineno or expression.lineno) - 1
    before = _columns(lines[first], 0, expression.col_offset)
    after = _columns(lines[last], expression.end_col_offset, None)
    rest = before + after.strip().removeprefix(";")
    kept[first : last + 1] = [None] * (last + 1 - first)
    kept[first] = rest if rest.strip() else None
  return kept


def _columns(line: str, start: int | None, end: int | None) -> str:
  """A slice of a line by UTF-8 byte offsets, which `ast` uses."""
  return line.encode("utf-8")[start:end].decode("utf-8", "ignore")


def _definition(
  module: str, node: _Defined, bare: list[str | None]
) -> Definition:
  """One definition, with its lines of `bare`, the file without docstrings."""
  first = min([node.lineno, *(d.lineno for d in node.decorator_list)]) - 1
  lines = [x for x in bare[first : node.end_lineno] if x is not None]
  body = node.body[_docstring_node(node) is not None :]
  return Definition(
    module=module,
    name=node.name,
    is_function=isinstance(node, _Function),
    docstring=_docstring(node),
    source=textwrap.dedent("\n".join(lines)).strip(),
    trivial=all(
      isinstance(x, (ast.Pass, ast.Raise))
      or (isinstance(x, ast.Expr) and isinstance(x.value, ast.Constant))
      for x in body
    ),
  )


_COMMENT = re.compile(r"\s*#+:?[ \t]+(.*)")


def _comments(bare: list[str | None]) -> Iterator[tuple[str, str]]:
  """Yields (comment, code below it until a blank line or the next comment)."""
  lines = ["" if x is None else x for x in bare]
  number = 0
  while number < len(lines):
    words, code = [], []
    while number < len(lines) and (m := _COMMENT.match(lines[number])):
      words.append(m[1].strip())
      number += 1
    if not words:
      number += 1
      continue
    while number < len(lines) and _is_code(lines[number]):
      code.append(lines[number])
      number += 1
    if len(code) >= 2:
      yield " ".join(words), textwrap.dedent("\n".join(code)).strip()


def _is_code(line: str) -> bool:
  return bool(line.strip()) and not line.lstrip().startswith("#")
