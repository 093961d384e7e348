"""The --config.key=value of a command line: lists, and what is wrong with one."""

import re
from collections.abc import Sequence
from typing import Any

from embeddinggemma.config import suggest

_TEXTS = re.compile(r"[A-Za-z][\w./-]*(,[A-Za-z][\w./-]*)*,?")
_WORD = re.compile(r"[^\s,()\[\]'\"]+")


def quoted(tree: Any, word: str) -> str:
  """An override of a list of texts, `key=a,b`, as ml_collections reads it.

  It takes such a word for one text, or refuses it; it wants `key='a','b'`.
  """
  path, text = _parts(word)
  plain = "," in text and _TEXTS.fullmatch(text)
  if path is None or not plain or _wrong_key(tree, path):
    return word
  value = _at(tree, path)
  texts = isinstance(value, list | tuple) and (
    all(isinstance(item, str) for item in value)
  )
  parts = [repr(part) for part in text.split(",") if part]
  return f"--config.{path}={','.join(parts)}," if texts else word


def wrong_key(tree: Any, argv: Sequence[str]) -> str:
  """The message for the first override of a key that is not there; "": none.

  `tree` is the config without overrides, a mapping of mappings and values.
  """
  for word in argv:
    path, _ = _parts(word)
    if path is not None and (said := _wrong_key(tree, path)):
      return said
  return ""


def wrong_value(tree: Any, word: str) -> str:
  """The message for an override whose value was refused; "": no better one."""
  path, text = _parts(word)
  if path is None or _wrong_key(tree, path):
    return ""
  value = _at(tree, path)
  known = isinstance(value, bool | int | float | list | tuple)
  if not (known or _is_group(value)):
    return ""
  whole = isinstance(value, int) and not isinstance(value, bool)
  return (
    f"config key {path!r} is {'a whole number' if whole else _kind(value)}, not"
    f" {text!r}; write {_right(path, value, text)}"
  )


def _at(tree: Any, path: str) -> Any:
  for key in path.split("."):
    tree = tree[key]
  return tree


def _parts(word: str) -> tuple[str | None, str]:
  """Key and text of an override; no key if the word is none."""
  if not word.startswith(("--config.", "-config.")):
    return None, ""
  path, _, text = word.partition(".")[2].partition("=")
  return path, text


def _wrong_key(tree: Any, path: str) -> str:
  """The message for a key that the tree does not have."""
  keys = path.split(".")
  if "" in keys:
    return f"config key {path!r} has an empty part; write --config.KEY=VALUE"
  for number, key in enumerate(keys):
    above = ".".join(keys[:number])
    if not _is_group(tree):
      return (
        f"config key {above!r} is {_kind(tree)} and has no {key!r}; write"
        f" {_right(above, tree, '')}"
      )
    name, bracket, _ = key.partition("[")
    if bracket and name in tree and not _is_group(tree[name]):
      whole = f"{above}.{name}" if above else name
      return (
        f"config key {whole!r} is {_kind(tree[name])}, which is set as a"
        f" whole; write {_right(whole, tree[name], '')}"
      )
    if key not in tree:
      return f"unknown config key {path!r}{suggest(key, list(tree))}"
    tree = tree[key]
  return ""


def _is_group(value: Any) -> bool:
  return hasattr(value, "keys")


def _kind(value: Any) -> str:
  if _is_group(value):
    return "a group of keys"
  if isinstance(value, bool):
    return "true or false"
  if isinstance(value, list | tuple):
    return "a list of values"
  if isinstance(value, int | float):
    return "a number"
  return "a text" if isinstance(value, str) else "a value that is not set"


def _right(path: str, value: Any, text: str) -> str:
  """An override of this key that is right, near to the text if there is one."""
  if _is_group(value):
    inner = next(iter(value), "KEY")
    return f"--config.{path}.{inner}=VALUE, a key at a time"
  if isinstance(value, list | tuple):
    words = _WORD.findall(text) or [str(item) for item in value]
    if not words:
      return f"--config.{path}=A,B"
    if re.search("[{*+?|\\\\]", text):  # a pattern, whose commas are its own
      return f'--config.{path}="{text!r},"'
    return f"--config.{path}={','.join(words)}"
  if isinstance(value, bool):
    return f"--config.{path}=true or --config.{path}=false"
  if value in (None, ""):
    return f"--config.{path}=VALUE"
  return f"--config.{path}={value}"
