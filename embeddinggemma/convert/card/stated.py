"""What a publisher states of a model that no record knows.

It is a YAML or JSON file, named by --card: see KEYS.
"""

import pathlib
import re
from collections.abc import Mapping
from typing import Any, NamedTuple

import yaml

from embeddinggemma.config import suggest
from embeddinggemma.types import BadInput

_LARGEST = 2**20  # bytes
_URL = re.compile(r"https?://[^\s@/]+(/\S*)?")
_NAME = re.compile(r"\w[\w.-]*/\w[\w.-]*")
_LANGUAGE = re.compile(r"[a-z]{2,3}|multilingual|code")


class Stated(NamedTuple):
  """What is stated; an empty value is not stated."""

  name: str = ""  # OWNER/NAME on the Hub
  languages: tuple[str, ...] = ()  # codes of ISO 639
  licences: Mapping[str, str] = {}  # name of a source or teacher -> its licence
  citation: str = ""  # of the model's own paper, as BibTeX
  code: str = ""  # address of the training code
  data: str = ""  # address of the training data
  decontamination: str = ""  # how test sets were kept out of the training data
  limits: tuple[str, ...] = ()


NOTHING = Stated()


def read(path: str) -> Stated:
  """What a file states; BadInput names the key that is wrong, and its place."""
  try:
    content = pathlib.Path(path).read_bytes()
    if len(content) > _LARGEST:
      raise BadInput(f"--card={path} is larger than {_LARGEST >> 20} MB")
    # All scalars as text: `no` is Norwegian.
    tree = yaml.load(content.decode("utf-8"), yaml.BaseLoader)
  except OSError as error:
    raise BadInput(f"--card={path} cannot be read: {error.strerror}") from None
  except UnicodeDecodeError:
    raise BadInput(f"--card={path} is not UTF-8") from None
  except (yaml.YAMLError, ValueError, RecursionError) as error:
    said = " ".join(str(error).split())[:200]
    raise BadInput(f"--card={path} is no YAML: {said}") from None
  if not isinstance(tree, dict):
    known = ", ".join(Stated._fields)
    raise BadInput(f"--card={path} holds no keys; it may have {known}")
  found: dict[str, Any] = {}
  for key, value in tree.items():
    if key not in _READERS:
      near = suggest(str(key), list(Stated._fields))
      raise BadInput(f"--card={path}: {key!r} is unknown{near}")
    try:
      found[key] = _READERS[key](value)
    except ValueError as error:
      raise BadInput(f"--card={path}: {key}: {error}") from None
  return Stated(**found)


def _text(value: Any) -> str:
  if not isinstance(value, str) or not value.strip():
    raise ValueError(f"{value!r} is no text")
  return value.strip()


def _texts(value: Any) -> tuple[str, ...]:
  found = value if isinstance(value, list) else [value]
  return tuple(map(_text, found))


def _languages(value: Any) -> tuple[str, ...]:
  found = _texts(value)
  for one in found:
    if not _LANGUAGE.fullmatch(one):
      raise ValueError(
        f"{one!r} is no code of two or three letters, as de or deu"
      )
  return found


def _licences(value: Any) -> dict[str, str]:
  if not isinstance(value, dict):
    raise ValueError(f"{value!r} is no mapping of names to licences")
  return {_text(name): _text(licence) for name, licence in value.items()}


def _url(value: Any) -> str:
  text = _text(value)
  if not _URL.fullmatch(text):
    raise ValueError(f"{text!r} is no address that begins with https://")
  return text


def _name(value: Any) -> str:
  text = _text(value)
  if not _NAME.fullmatch(text):
    raise ValueError(f"{text!r} is not OWNER/NAME")
  return text


def _citation(value: Any) -> str:
  text = _text(value)
  if not text.startswith("@"):
    raise ValueError("it is no BibTeX, which begins with @article{ or the like")
  return text


_READERS = {
  "name": _name,
  "languages": _languages,
  "licences": _licences,
  "citation": _citation,
  "code": _url,
  "data": _url,
  "decontamination": _text,
  "limits": _texts,
}
