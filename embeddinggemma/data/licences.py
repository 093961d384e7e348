"""Licences by the identifiers of the Hugging Face Hub, and which is strictest.

Model cards, cards of data sets and GGUF files name a licence by such an
identifier ("apache-2.0"), or as "other" with a name and a link.
"""

import re
from collections.abc import Iterable, Mapping

OTHER = "other"
GEMMA = "gemma"
# What a licence asks of what is made of the work, from least to most; each of
# the last three can only be met by itself.
FREE, NAMED, SHARED, OWN, NO_SALE, NO_CHANGE = range(6)
# Beginning of an identifier -> what it asks. The first that fits counts.
_KINDS: Mapping[str, int] = {
  r"cc-by-nc-nd|cc-by-nd|cc-nc-nd": NO_CHANGE,
  r"cc-by-nc|cc-nc|fair-noncommercial|msr-la-nc|intel-research": NO_SALE,
  r"cc-by-sa|a?gpl|lgpl|mpl-|epl-|eupl-|osl-|odbl|gfdl|ms-rl": SHARED,
  r"cdla-sharing|cecill|lppl": SHARED,
  r"gemma|llama|open(?:rail|mdw)|bigscience|bigcode|creativeml": OWN,
  r"apple-|c-uda|h-research|etalab|grok|deepfloyd": OWN,
  r"cc0|unlicense|pddl|wtfpl|0bsd|mit-0": FREE,
  r"mit|bsd|isc|zlib|bsl-1|ncsa|postgresql|psf": NAMED,
  r"apache-2|afl-3|ecl-2|artistic-2|cc-by-|odc-by|cdla-permissive": NAMED,
}
_NOT_ON_HUB = r"psf|0bsd|mit-0"
# Among the permissive ones, those that ask more come later.
_RANKS = (
  r"mit|isc|zlib",
  r"bsd|ncsa|psf|postgresql",
  r"apache|afl|ecl|artistic",
  r"odc|cdla",
  r"cc-by-",
)
# One of the first has all that one of the second asks, and more.
_STRICTER = (
  (r"cc-by-nc-sa-", r"cc-by-nc-\d"),
  (r"agpl-", r"l?gpl-"),
  (r"gpl-3", r"lgpl-3"),
  (r"gpl-2", r"lgpl-2"),
)
_VERSION = re.compile(r"(.*?)-?(\d+(?:\.\d+)*)")
# How well-known licences begin -> their identifier.
_BEGINNINGS = {
  r"Apache License\W+Version 2\.0": "apache-2.0",
  r"MIT License": "mit",
  r"Gemma Terms of Use": GEMMA,
}
# Other spellings, of SPDX and of the metadata of Python packages.
_SPELLINGS = {
  r"apache(?:-software)?(?:-license)?(?:,?-version)?-?2(?:\.0)?": "apache-2.0",
  r"apache-software(?:-license)?": "apache-2.0",
  r"(?:the-)?mit(?:-license)?": "mit",
  r"(?:new-|modified-|3-clause-)?bsd-?3(?:-clause)?": "bsd-3-clause",
  r"3-clause-bsd|new-bsd|modified-bsd": "bsd-3-clause",
  r"bsd-?2(?:-clause)?|simplified-bsd": "bsd-2-clause",
  r"cc-?0(?:-1\.0)?|cc-zero|public-domain": "cc0-1.0",
  r"psf(?:-2\.0)?|python-2\.0|python-software-foundation(?:-license)?": "psf-2.0",
  r"gemma-terms-of-use": GEMMA,
}


def kind(name: str) -> int | None:
  """What a licence asks, by its identifier; None of an unknown one."""
  return next(
    (
      asks
      for begins, asks in _KINDS.items()
      if re.match(rf"(?:{begins})(?![a-z])", name)
    ),
    None,
  )


def identifier(text: str) -> str:
  """The identifier of a licence as people write it; "" if it is unknown."""
  name = re.sub(r"[\s_]+", "-", text.strip().lower())
  name = re.sub(r"-(?:only|or-later)$|(?<=\d)\+$", "", name)
  name = re.sub(r"^licen[cs]e-", "", name)
  for spelling, known in _SPELLINGS.items():
    if re.fullmatch(spelling, name):
      return known
  short = re.sub(r"-licen[cs]e$", "", name)
  is_name = re.fullmatch(r"(?!.*-(?:and|or)-)[a-z0-9][a-z0-9.+-]*", short)
  return short if is_name and kind(short) is not None else ""


def identifiers(text: str) -> list[str]:
  """The identifiers of licences that all hold, as an expression of SPDX has them.

  Of those between OR the first one that is known is taken. [] if one is
  unknown, or there is none.
  """
  found = []
  for one in re.split(r"\s+AND\s+|;", text):
    choice = re.split(r"\s+OR\s+", one.strip(" ()"))
    known = filter(None, (identifier(x.strip(" ()")) for x in choice))
    found.append(next(known, ""))
  return list(dict.fromkeys(found)) if all(found) else []


def is_on_hub(name: str) -> bool:
  """Whether the Hub has an identifier of its own for a known licence."""
  return not re.match(_NOT_ON_HUB, name)


def of_text(text: str) -> str:
  """The identifier of a licence by how its text begins; "" if it is unknown."""
  for beginning, name in _BEGINNINGS.items():
    if re.match(rf"\W*{beginning}", text, re.IGNORECASE):
      return name
  return ""


def strictest(names: Iterable[str]) -> str:
  """The one of some identifiers that also has all that the others ask.

  "" where there is none, since two ask for what excludes each other.
  """
  found = sorted(set(names))
  fitting = [a for a in found if all(_covers(a, b) for b in found)]
  return fitting[0] if fitting else ""


def slug(names: Iterable[str], most: int = 4) -> str:
  """A name for several licences together, of the letters that the Hub takes."""
  plain = (re.sub(r"[^a-z0-9.]+", "-", n.lower()).strip("-") for n in names)
  found = list(dict.fromkeys(filter(None, plain)))
  more = ["others"] if len(found) > most else []
  return "-and-".join([*found[:most], *more])[:100].strip("-.")


def _covers(a: str, b: str) -> bool:
  """Whether who follows licence `a` follows `b` as well."""
  if a == b:
    return True
  ours, theirs = kind(a), kind(b)
  if ours is None or theirs is None:
    return False
  if theirs in (FREE, NAMED):
    return ours > NAMED or (ours, _rank(a), a) >= (theirs, _rank(b), b)
  if any(re.match(x, a) and re.match(y, b) for x, y in _STRICTER):
    return True
  one, other = _VERSION.fullmatch(a), _VERSION.fullmatch(b)
  same = one and other and one[1] == other[1]
  return bool(same and ours != OWN and _number(a) >= _number(b))


def _rank(name: str) -> int:
  """The place of a permissive licence among these."""
  places = (n for n, begins in enumerate(_RANKS) if re.match(begins, name))
  return next(places, len(_RANKS))


def _number(name: str) -> tuple[int, ...]:
  """The version in an identifier."""
  found = _VERSION.fullmatch(name)
  return tuple(map(int, found[2].split("."))) if found else ()
