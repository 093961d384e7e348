"""What a data set says of itself: its name, licence and languages.

They stand in the header of its README.md, as data sets of the Hugging Face Hub
have it, or in what `datasets` saved beside it. No text of the data is read.
"""

import contextlib
import importlib.metadata
import json
import pathlib
import platform
import re
from collections.abc import Iterable, Mapping
from typing import Any

import yaml

from embeddinggemma.data import licences
from embeddinggemma.lineage import public

README = "README.md"
_SAVED = "dataset_info.json"  # of `datasets`
_LICENCE = re.compile(r"(LICEN[CS]E|COPYING)([.-]\w+)?", re.IGNORECASE)
_LONGEST = 2**18  # bytes of a file that are looked at
_SHORT = 100  # characters of a name
_SECONDS = 10

# {"name", "licence": as it is told, "languages": those that it says it has,
# "repository": on the Hub, "version"}; all but the name are there if known.
Sheet = dict[str, Any]


def read(path: str) -> Sheet:
  """What a data set says of itself; path: a folder, a file, or OWNER/NAME.

  A file has what the README.md beside it says, if that has a header.
  """
  place = pathlib.Path(path)
  name = public.name(path)
  if not place.exists():
    repository = name.partition(":")[0]
    return _sheet(name, _on_hub(repository)) | {"repository": repository}
  folder = place if place.is_dir() else place.parent
  header = of_readme(folder / README)
  if "license" not in header:
    header |= _saved(folder)
  if "license" not in header and place.is_dir():
    header |= _licence_file(folder)
  return _sheet(name, header)


def of_packages(packages: Iterable[str]) -> list[Sheet]:
  """Python itself and installed packages, by what their metadata say."""
  python = _sheet("Python", {"license": "psf-2.0"})
  found = [python | {"version": platform.python_version()}]
  for package in packages:
    with contextlib.suppress(importlib.metadata.PackageNotFoundError):
      about = importlib.metadata.metadata(package)
      sheet = _sheet(package, {"license": _of_package(about)})
      found.append(sheet | {"version": about["Version"]})
  return found


def of_readme(path: pathlib.Path) -> dict[str, Any]:
  """The header of a README.md; {} without one, or of a damaged one."""
  try:
    with path.open("rb") as file:
      text = file.read(_LONGEST).decode("utf-8", "replace")
  except OSError:
    return {}
  found = re.match(r"\ufeff?---[ \t]*\r?\n(.*?)\r?\n---", text, re.DOTALL)
  try:
    # All scalars as text: `no` is Norwegian.
    tree = yaml.load(found[1], yaml.BaseLoader) if found else {}
  except (yaml.YAMLError, ValueError, RecursionError):
    return {}
  return tree if isinstance(tree, dict) else {}


def words(value: Any) -> list[str]:
  """The words of a header's value, which may be one or a list."""
  found = value if isinstance(value, list) else [value]
  plain = (" ".join(str(x).split())[:_SHORT] for x in found if x is not None)
  return [word for word in plain if word.isprintable() and word]


def _sheet(name: str, header: Mapping[str, Any]) -> Sheet:
  licence = " AND ".join(
    word
    for word in words(header.get("license"))
    if word.lower() not in ("unknown", "unlicensed", "none")
  )
  if licence.lower() == licences.OTHER:
    licence = " ".join(words(header.get("license_name"))) or licence
  told = {"licence": licence, "languages": words(header.get("language"))}
  return {"name": name, **{key: value for key, value in told.items() if value}}


def _saved(folder: pathlib.Path) -> dict[str, Any]:
  """The licence that `datasets` saved; "" is none."""
  for place in (folder / _SAVED, *sorted(folder.glob(f"*/{_SAVED}"))[:1]):
    with contextlib.suppress(OSError, ValueError):
      tree = json.loads(place.read_bytes())
      if isinstance(tree, dict) and isinstance(tree.get("license"), str):
        return {"license": tree["license"]} if tree["license"] else {}
  return {}


def _licence_file(folder: pathlib.Path) -> dict[str, Any]:
  """The licence that a file of a folder begins with, if it is a known one."""
  for path in sorted(folder.iterdir()):
    if _LICENCE.fullmatch(path.name) and path.is_file():
      with contextlib.suppress(OSError), path.open("rb") as file:
        text = file.read(_LONGEST).decode("utf-8", "replace")
        if name := licences.of_text(text):
          return {"license": name}
  return {}


def _on_hub(repository: str) -> dict[str, Any]:
  """The header of a data set's card on the Hub; {} if it cannot be reached."""
  try:
    import huggingface_hub

    api = huggingface_hub.HfApi()
    card = api.dataset_info(repository, timeout=_SECONDS).card_data
    return dict(card.to_dict()) if card else {}
  except Exception:  # the library raises many kinds
    return {}


def _of_package(about: Any) -> str:
  """The licence of a package by its metadata, in a line."""
  if told := about.get("License-Expression"):
    return told[:_SHORT]
  told = about.get("License") or ""
  first = told.strip().split("\n", 1)[0]
  if licences.identifiers(first):
    return first
  named = [
    line.rpartition(" :: ")[2]
    for line in about.get_all("Classifier") or ()
    if line.startswith("License :: ") and line.count(" :: ") > 1
  ]
  return licences.of_text(told) or " AND ".join(named[:3])
