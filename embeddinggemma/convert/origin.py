"""What a model says of itself in another format: name, licence, descent.

A licence is in the words of the Hugging Face Hub, whose model cards and whose
conversions to GGUF have the same three: `license` is an identifier such as
"apache-2.0", or "other" with `license_name` and `license_link`.
"""

import pathlib
import re
from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple

import yaml

from embeddinggemma import checkpoint
from embeddinggemma.data import licences

LICENCE = ("license", "license_name", "license_link")
# Kept beside files of terms: what a header says of the licence in one word.
METADATA = "LICENSE.metadata"
OTHER = licences.OTHER
UNNAMED = "see-license-files"  # the name of a licence whose files name none
CARD = "README.md"  # the file of a model card
# LICENSE of weights that were trained here and descend from no others.
OWN_TERMS = (
  "These weights derive from the data and parents that recipe.json names;\n"
  "their licences apply. embeddinggemma, which made them, is Apache-2.0.\n"
)
# Folders of a workdir whose name says nothing about the model.
_PLACES = frozenset({"", "checkpoints", "merged", "averaged", "choose"})
_STAGES = frozenset(
  {
    "pretrain",
    "adapt",
    "prefinetune",
    "finetune",
    "head",
    "distil",
    "qat",
    "soup",
  }
)
_HUB = re.compile(r"(?:^|/)models--([\w.-]+)--([\w.-]+)/snapshots/")
SITE = "https://huggingface.co/"
_URL = re.compile(rf"{re.escape(SITE)}([\w.-]+/[\w.-]+)/?")


class Base(NamedTuple):
  """The published model from which the weights descend."""

  name: str  # for people; "" if unknown
  repository: str  # OWNER/NAME on the Hugging Face Hub; "" if unknown


def licence(files: checkpoint.Files) -> dict[str, str]:
  """The licence of a model's files of terms, by the keys of LICENCE."""
  terms = {n: files[n] for n in sorted(files) if checkpoint.is_terms(n)}
  texts = {
    name: text.decode("utf-8", "replace") for name, text in terms.items()
  }
  for text in texts.values():
    if lines := dict(_lines(text)):
      return lines
  for text in texts.values():
    if name := licences.of_text(text):
      return {"license": name}
  link = {"license_link": next(iter(texts))} if texts else {}
  return {"license": OTHER, "license_name": UNNAMED, **link}


def licence_name(files: checkpoint.Files) -> str:
  """The licence of a model's files in one word; "" if they only have text."""
  found = licence(files)
  if found["license"] != OTHER:
    return found["license"]
  name = found.get("license_name", "")
  return "" if name == UNNAMED else name


def _lines(text: str) -> Iterator[tuple[str, str]]:
  """The licence's keys in the first lines of a text, as far as they go."""
  for line in text.splitlines():
    key, colon, value = line.partition(":")
    if not colon or key not in LICENCE:
      return
    try:
      yield key, str(yaml.safe_load(value))
    except yaml.YAMLError:
      yield key, value.strip()


def repository(source: str) -> str:
  """The repository on the Hub that a path or an address is of, or ""."""
  if found := _HUB.search(source):
    return "/".join(found.groups())
  found = _URL.fullmatch(source)
  return found[1] if found else ""


def url(repository: str) -> str:
  """The address of a repository on the Hub."""
  return f"{SITE}{repository}"


def base(files: checkpoint.Files) -> Base:
  """From which published model the weights descend, as far as is recorded."""
  known = checkpoint.origin(files)
  general = known.get("general", {})
  place = repository(str(general.get("base_model.0.repo_url", "")))
  if name := general.get("base_model.0.name"):
    return Base(str(name), place)
  place = place or repository(str(general.get("repo_url", "")))
  place = place or str(known.get("repository", ""))
  return Base(_published(known), place)


def _published(known: Mapping[str, Any]) -> str:
  """What the publisher calls the weights that were imported."""
  if name := known.get("general", {}).get("name"):
    return str(name)
  source = str(known.get("repository") or known.get("from") or "")
  return pathlib.PurePath(source).name.removesuffix(".gguf")


def read_cuts(value: Any) -> list[dict[str, Any]]:
  """The cuts in what an export says of itself; [] if these are none.

  They decide nothing, so what is damaged is left out.
  """
  kinds = {"from": str, "of_layers": int, "pieces": int, "of_pieces": int}
  is_cut = lambda cut: (
    isinstance(cut, dict)
    and all(type(cut.get(key)) is kind for key, kind in kinds.items())
    and isinstance(cut.get("layers"), list)
    and all(type(n) is int for n in cut["layers"])
  )
  found = value if isinstance(value, list) else []
  return found if all(map(is_cut, found)) else []


def cut_out_of(cuts: Any, name: str = "") -> str:
  """What was cut out of which model, in words; "" if nothing was.

  Args:
    cuts: see checkpoint.CUTS; unchecked.
    name: of the first of the models; "": it is called by its hash.
  """
  said: list[str] = []
  for cut in read_cuts(cuts):
    sizes = {
      "layers": (len(cut["layers"]), cut["of_layers"]),
      "pieces": (cut["pieces"], cut["of_pieces"]),
    }
    kept = " and ".join(
      f"{few:,} of {many:,} {what}"
      for what, (few, many) in sizes.items()
      if few != many
    )
    whose = cut["from"][:12]
    if not said and name:
      whose = f"{name} ({whose})"
    said.append(f"{kept} of {whose}")
  return ", and of these ".join(said)


def title(given: str, files: checkpoint.Files) -> str:
  """What to call a model, by the path that the user gave.

  One that was only imported has its publisher's name; a stage of a recipe the
  recipe's workdir, too.
  """
  imported = checkpoint.recipe_of(files).get("stage") == "import"
  if imported and (name := _published(checkpoint.origin(files))):
    return name
  parts = [
    part
    for part in pathlib.Path(given).absolute().parts
    if part.strip("/") not in _PLACES and not part.isdigit()
  ]
  if not parts:
    return "model"
  whole = parts[-2:] if parts[-1] in _STAGES else parts[-1:]
  return "-".join(whole)
