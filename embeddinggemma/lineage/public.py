"""Paths and command lines as strangers may read them.

What a checkpoint tells of its making is published with it. So a path becomes
its last part, and whatever may be a secret is left out.
"""

import pathlib
import re
import shlex
from collections.abc import Sequence
from typing import Any

PROGRAM = "embeddinggemma"
HIDDEN = "HIDDEN"  # instead of a secret
# The file by which `python -m` and the installed script are called.
_MAIN = re.compile(r"(?:^|[/\\])embeddinggemma(?:[/\\]__main__\.py|[\w.-]*)$")
_SCHEME = r"[A-Za-z][A-Za-z0-9+.-]*://"
# What stands between the parts of a word; an address is one part.
_BETWEEN = re.compile(rf"({_SCHEME}[^\s,\"'()\[\]{{}}]*|[,=\"'()\[\]{{}}])")
# A name of a setting, or a part of it, whose value nobody else should read.
_SECRET_NAME = re.compile(
  r"(?:^|[._-])(?:api_?key|key|token|secret|password|passwd|credentials?)$",
  re.IGNORECASE,
)
# Keys of services, by their shape.
_SECRET = re.compile(
  r"\b(?:hf_|sk-|ghp_|gho_|github_pat_|AIza|AKIA|xox[a-z]-|ya29\.)[\w.-]{12,}"
)
_QUOTES = ("'", '"')
_DRIVE = re.compile(r"[A-Za-z]:[\\/]")


def command(argv: Any) -> str:
  """A command line of this program, to be typed again; "" for another's.

  From Python, sys.argv is of a program that is not ours, and says nothing.
  """
  is_list = isinstance(argv, Sequence) and not isinstance(argv, str | bytes)
  words = [str(word) for word in argv] if is_list else []
  if len(words) < 2 or not _MAIN.search(words[0]):
    return ""
  told: list[str] = []
  name = ""  # of the flag whose value is the next word
  for word in words[1:]:
    told.append(HIDDEN if _SECRET_NAME.search(name) else value(word))
    name = word if word.startswith("-") and "=" not in word else ""
  return shlex.join([PROGRAM, *told])


def value(word: str) -> str:
  """A word of a command line: its paths by their last parts, no secret."""
  told: list[str] = []
  hidden = False  # whether the value of a secret's name comes now
  before = ""
  for part in filter(None, _BETWEEN.split(word)):
    if part == "=":
      hidden = bool(_SECRET_NAME.search(before))
    if part in _QUOTES:
      told.append(part)
      continue
    told.append(HIDDEN if hidden and part != "=" else _part(part))
    hidden = hidden and part == "="
    before = part
  return "".join(told)


def _part(text: str) -> str:
  """A part of a word: an address, or paths and words between colons."""
  text = _SECRET.sub(HIDDEN, text)
  if re.match(_SCHEME, text):
    return _url(*text.split("://", 1))
  if _DRIVE.match(text):
    return place(text)
  return ":".join(place(piece) for piece in text.split(":"))


def _url(scheme: str, rest: str) -> str:
  """An address without who asks, and without its query."""
  if scheme.lower() == "file":
    return place(f"/{rest}")
  rest = re.split(r"[?#]", rest, maxsplit=1)[0]
  host, slash, path = rest.partition("/")
  return f"{scheme}://{host.rpartition('@')[2]}{slash}{path}"


def place(path: str) -> str:
  """A path by its last part if it leaves this folder, else as it is.

  Of a config that came with the program, its folder is kept.
  """
  windows = bool(_DRIVE.match(path)) or path.startswith("\\\\")
  parts = re.split(r"[\\/]" if windows else "/", path)
  if not (windows or path.startswith(("/", "~")) or ".." in parts):
    return path
  kept = [part for part in parts if part not in ("", ".", "..")]
  if len(kept) > 1 and kept[-2] == "configs":
    return "/".join(kept[-2:])
  if len(kept) < 2 and path.startswith("~"):
    return "~"
  return kept[-1] if kept else path


def name(path: str) -> str:
  """What to call data by their path: its last part, or the whole OWNER/NAME.

  The latter is a repository, where no such path is there.
  """
  found = pathlib.Path(path)
  if not found.exists() and re.fullmatch(
    r"\w[\w.-]*/\w[\w.-]*(:[\w.-]+)?", path
  ):
    return path
  return found.absolute().name
