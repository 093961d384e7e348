"""The text of a sweep: products and zips of config keys and their values.

product(seed=[0, 1], zip(steps=[10, 20], optimizer.lr=[1e-3, 3e-4]))
"""

import ast
import math
import re
from collections.abc import Iterable, Iterator
from typing import Any, NamedTuple

from embeddinggemma.config import suggest
from embeddinggemma.types import BadInput


class Axis(NamedTuple):
  """A config key and the values it takes."""

  key: str
  values: tuple[Any, ...]


class Sweep(NamedTuple):
  """A product or a zip of axes and of other sweeps."""

  kind: str
  parts: tuple[Any, ...]  # each a Sweep or an Axis


_TOKEN = re.compile(
  r"""\s*(?:(?P<number>[-+]?(?:\d+(?:_\d+)*\.?\d*|\.\d+)(?:[eE][-+]?\d+)?)
  |(?P<text>'(?:[^'\\]|\\.)*'|"(?:[^"\\]|\\.)*")
  |(?P<name>[A-Za-z_]\w*(?:\.\w+)*)
  |(?P<mark>[][(),=])
  |(?P<end>$)
  |(?P<other>.))""",
  re.VERBOSE | re.ASCII,
)
CONSTANTS = {"True": True, "False": False, "None": None}
CONSTANTS |= {"true": True, "false": False}
_CLOSING = {"(": ")", "[": "]"}


class Unparsed(BadInput):
  """A sweep that does not parse: what, the text, a caret below the place."""

  has_lines = True


class _Token(NamedTuple):
  kind: str
  text: str
  place: int


def parse(expression: str) -> Sweep:
  """Parse a sweep; BadInput shows the place where the text does not parse."""
  return _Parser(re.sub(r"[\r\n\t]", " ", expression)).whole()


class _Parser:
  """Recursive descent over `product(key=[value, ...], zip(...), ...)`."""

  def __init__(self, expression: str) -> None:
    self._expression = expression
    self._tokens: list[_Token] = []
    place = 0
    while not self._tokens or self._tokens[-1].kind != "end":
      match = _TOKEN.match(expression, place)
      assert match is not None and match.lastgroup is not None
      kind = match.lastgroup
      token = _Token(kind, match[kind], match.start(kind))
      if kind == "other":
        raise self._error(f"{token.text!r} does not belong here", token)
      self._tokens.append(token)
      place = match.end()
    self._next = 0

  def whole(self) -> Sweep:
    sweep = self._call(self._take("name", "product(...) or zip(...)"))
    self._take("end", "the end")
    return sweep

  def _error(self, message: str, token: _Token) -> Unparsed:
    caret = " " * token.place + "^"
    return Unparsed(f"sweep: {message}\n{self._expression}\n{caret}")

  @property
  def _token(self) -> _Token:
    return self._tokens[self._next]

  def _take(self, kind: str, wanted: str, text: str = "") -> _Token:
    token = self._token
    if token.kind != kind or (text and token.text != text):
      found = f", not {token.text!r}" if token.text else ""
      raise self._error(f"expected {wanted}{found}", token)
    self._next += 1
    return token

  def _call(self, name: _Token) -> Sweep:
    if name.text not in ("product", "zip"):
      known = suggest(name.text, ["product", "zip"])
      raise self._error(f"unknown function {name.text!r}{known}", name)
    self._take("mark", f"( after {name.text}", "(")
    parts: list[Sweep | Axis] = []
    for token in self._items(")"):
      parts.append(self._part())
      again = twice(key for part in parts for key in keys(part))
      if again:
        raise self._error(f"{again} is given twice", token)
      here, first = size(parts[-1]), size(parts[0])
      if name.text == "zip" and here != first:
        raise self._error(
          f"zip needs as many values everywhere, not {first} and then {here}",
          token,
        )
    if not parts:
      raise self._error(f"{name.text} of nothing; give it key=[...]", name)
    return Sweep(name.text, tuple(parts))

  def _part(self) -> Sweep | Axis:
    name = self._take("name", "key=[...], product(...) or zip(...)")
    if self._token.text == "(":
      return self._call(name)
    self._take("mark", f"= or ( after {name.text}", "=")
    token = self._token
    if token.text not in _CLOSING:
      raise self._error(f"{name.text} needs a list, such as [0, 1]", token)
    values = self._value()
    if not values:
      raise self._error(f"{name.text} has no values", token)
    return Axis(name.text, values)

  def _value(self) -> Any:
    token = self._token
    self._next += token.kind != "end"
    if token.text in _CLOSING:
      return tuple(self._value() for _ in self._items(_CLOSING[token.text]))
    if token.kind == "number":
      whole = re.fullmatch(r"[-+]?[\d_]+", token.text)
      return int(token.text) if whole else float(token.text)
    if token.kind == "text":
      try:
        return ast.literal_eval(token.text)
      except (SyntaxError, ValueError):
        raise self._error("text with a broken escape", token) from None
    if token.kind == "name" and token.text in CONSTANTS:
      return CONSTANTS[token.text]
    if token.kind == "name":
      raise self._error(f"text needs quotes: {token.text!r}", token)
    raise self._error("expected a value", token)

  def _items(self, closing: str) -> Iterator[_Token]:
    """Yield the first token of each item, and consume the closing mark."""
    while self._token.text != closing or self._token.kind != "mark":
      yield self._token
      if self._token.text != closing:
        self._take("mark", f", or {closing}", ",")
    self._next += 1


def keys(part: Sweep | Axis) -> Iterator[str]:
  """Every config key that takes values, possibly more than once."""
  if isinstance(part, Axis):
    yield part.key
  else:
    for inner in part.parts:
      yield from keys(inner)


def size(part: Sweep | Axis) -> int:
  """The number of points of a sweep or axis."""
  if isinstance(part, Axis):
    return len(part.values)
  sizes = [size(inner) for inner in part.parts]
  return math.prod(sizes) if part.kind == "product" else sizes[0]


def twice(names: Iterable[str]) -> str:
  """The first name that occurs a second time, or ""."""
  seen: set[str] = set()
  for name in names:
    if name in seen:
      return name
    seen.add(name)
  return ""
