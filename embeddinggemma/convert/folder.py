"""Read the small files beside the weights in a folder of public weights."""

import json
import pathlib
import re
from typing import Any

from embeddinggemma.checkpoint import TEACHERS, TOKENIZER_FILE, is_terms
from embeddinggemma.convert import origin
from embeddinggemma.lineage import stages
from embeddinggemma.types import IDENTITY, BadInput

MARK = "embeddinggemma.json"  # says that a folder is an export of ours
# Files of which each alone can be a tokenizer.
TOKENIZERS = (TOKENIZER_FILE, "tokenizer.json")
_README_TERMS = re.compile(r"^license(_name|_link)?:.*$", re.MULTILINE)


def inside(folder: pathlib.Path, name: str) -> pathlib.Path:
  """FOLDER/name; BadInput if a name given by a file leads out of the folder.

  Links of the cache of huggingface_hub, from snapshots/REVISION into the blobs
  beside it, are allowed.
  """
  path, parts = folder / name, pathlib.PurePath(name)
  root = folder.resolve()
  blobs = [
    place.parents[1] / "blobs"
    for place in (root, *root.parents)
    if place.parent.name == "snapshots"
  ]
  if parts.is_absolute() or ".." in parts.parts:
    raise BadInput(f"{folder}: {name!r} leaves the folder; it is not opened")
  if not any(path.resolve().is_relative_to(place) for place in (root, *blobs)):
    raise BadInput(
      f"{path} is a link out of its folder; it is not opened; copy the file"
      " into the folder if you trust it"
    )
  return path


def read_json(folder: pathlib.Path, name: str) -> dict[str, Any]:
  """The JSON object in a file; BadInput says what is wrong with it."""
  path = inside(folder, name)
  try:
    tree = json.loads(path.read_bytes())
  except FileNotFoundError:
    raise BadInput(
      f"{path} is missing; the folder is not whole: download it again"
    ) from None
  except (OSError, ValueError) as error:
    raise BadInput(f"{path} cannot be read: {error}") from None
  if not isinstance(tree, dict):
    raise BadInput(f"{path} is not a JSON object")
  return tree


def has(folder: pathlib.Path, name: str) -> bool:
  """Whether the folder has such a file."""
  return inside(folder, name).is_file()


def recorded(place: pathlib.Path) -> Any:
  """The identity that an export says its model had, unchecked; else {}."""
  return _mark_beside(place).get(IDENTITY, {})


def mark(folder: pathlib.Path) -> dict[str, Any]:
  """What an export of ours says of itself; {} of any other folder."""
  return read_json(folder, MARK) if has(folder, MARK) else {}


def _mark_beside(place: pathlib.Path) -> dict[str, Any]:
  """The mark of a folder, or of the one that a file is in."""
  return mark(place if place.is_dir() else place.parent)


def teachers(place: pathlib.Path) -> list[dict[str, Any]]:
  """Who taught the model of an export, as it says; [] for none."""
  found = _mark_beside(place).get(TEACHERS, [])
  is_list = isinstance(found, list) and all(isinstance(x, dict) for x in found)
  return found if is_list else []


def trained(place: pathlib.Path) -> list[dict[str, Any]]:
  """The stages through which the model of an export went, as it says."""
  return stages.read(_mark_beside(place).get(stages.TRAINED))


def tokenizer_model(folder: pathlib.Path) -> pathlib.Path:
  """The path of the SentencePiece model.

  In Gemma's archives it may lie one level up.
  """
  for place in (folder, folder.parent):
    if (place / TOKENIZER_FILE).is_file():
      return inside(place, TOKENIZER_FILE)
  raise BadInput(
    f"{folder} has neither tokenizer.json nor {TOKENIZER_FILE}; put the"
    " tokenizer of its family there (the published Gemma repositories hold"
    " both)"
  )


def terms(folder: pathlib.Path, said: str = "") -> dict[str, bytes]:
  """The files of licence and use policy, as name -> content.

  Without such files, LICENSE is `said`, what the weights' own file says, or
  else what the README's header says. Beside them, that is kept in a file of its
  own if it names a licence, which the others may do in many words only.
  """
  found = {
    path.name: inside(folder, path.name).read_bytes()
    for path in sorted(folder.iterdir())
    if path.is_file() and is_terms(path.name)
  }
  said = said or _readme_terms(folder)
  if found:
    header = {origin.METADATA: f"{said}\n".encode()}
    named = origin.licence(header)["license"] if said else origin.OTHER
    known = (origin.OTHER, origin.licence(found)["license"])
    return found if named in known else {**found, **header}
  said = said or "The folder of the weights names no licence."
  return {
    "LICENSE": f"{said}\nThe terms of the weights' publisher apply.\n".encode()
  }


def _readme_terms(folder: pathlib.Path) -> str:
  """The lines of a README's header that name a licence."""
  readme = folder / "README.md"
  text = ""
  if readme.is_file():
    text = inside(folder, "README.md").read_text("utf-8", "replace")
  header = text.split("\n---", 1)[0] if text.startswith("---") else ""
  return "\n".join(m[0].strip() for m in _README_TERMS.finditer(header))
