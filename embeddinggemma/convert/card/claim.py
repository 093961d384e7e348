"""Which licence a model card may claim: the strictest of all that counts.

That is what the weights, their teachers and the training data are under. Where
one is unknown or two exclude each other, the claim is "other", and the card says
why. What comes from Gemma is under Gemma's terms whatever else holds.
"""

from collections.abc import Iterator, Mapping, Sequence
from typing import NamedTuple

from embeddinggemma import checkpoint
from embeddinggemma.config import suggest
from embeddinggemma.convert import origin
from embeddinggemma.convert.card.stated import Stated
from embeddinggemma.data import licences
from embeddinggemma.lineage import stages
from embeddinggemma.types import BadInput

GEMMA_TERMS = "https://ai.google.dev/gemma/terms"
WEIGHTS, TEACHER, DATA = "weights", "teacher", "data"
# A teacher that is fitted to the data themselves, and is nobody's.
_NOBODYS = "tfidf"
_UNKNOWN = "unknown"
_SHOWN = 3


class Part(NamedTuple):
  """Something whose licence counts."""

  what: str  # WEIGHTS, TEACHER or DATA
  name: str  # for people; "" if unknown
  licence: str  # as it is told; "" if nothing is
  terms: str = ""  # of a teacher, in words

  @property
  def known(self) -> list[str]:
    """The identifiers of its licence; [] if it is unknown."""
    return licences.identifiers(self.licence)


class Claim(NamedTuple):
  """The licence that a card claims."""

  keys: Mapping[str, str]  # of its header: license, license_name, license_link
  reason: str  # in words, a sentence without its end
  parts: Sequence[Part]


def of(files: checkpoint.Files, stated: Stated) -> Claim:
  """The claim of a checkpoint; BadInput where a statement contradicts it."""
  parts = [*_weights(files), *_teachers(files, stated), *_data(files, stated)]
  _require_known_names(parts, stated)
  known = sorted({name for part in parts for name in part.known})
  unknown = [part for part in parts if not part.known and not part.terms]
  bound = [part for part in parts if part.terms]
  best = licences.strictest(known)
  gemma = any(licences.GEMMA in p.known for p in parts if p.what == WEIGHTS)
  open_ends = "; ".join(_unknown(unknown))
  if best and not bound and (not unknown or (gemma and best == licences.GEMMA)):
    reason = f"{best} is the strictest of what counts below"
    if unknown:
      reason = (
        f"what comes from Gemma is under its terms; {open_ends}, and may ask for"
        " more"
      )
    if licences.is_on_hub(best):
      return Claim({"license": best}, reason, parts)
    return Claim(_other([best], parts, files), reason, parts)
  if not parts:
    reason = "nothing is recorded that would decide it"
  elif unknown:
    reason = open_ends
  elif bound:
    reason = f"there are terms of {_listed(bound)} besides"
  else:
    reason = f"{', '.join(known)} ask for what excludes each other"
  names = known + [f"terms-of-{part.name or 'a-teacher'}" for part in bound]
  names += [_told(part) for part in unknown]
  return Claim(_other(names, parts, files), reason, parts)


def _other(
  names: Sequence[str], parts: Sequence[Part], files: checkpoint.Files
) -> dict[str, str]:
  """The header of a licence that is none of the Hub's."""
  found = origin.licence(_others_terms(files))
  name = licences.slug(dict.fromkeys(names)) or origin.UNNAMED
  if len(parts) == 1 and parts[0].what == WEIGHTS and not parts[0].licence:
    name = origin.UNNAMED
  link = found.get("license_link", "")
  if not link and licences.GEMMA in names:
    link = GEMMA_TERMS
  link = link or min(filter(checkpoint.is_terms, files), default="")
  return {
    "license": licences.OTHER,
    "license_name": name,
    **({"license_link": link} if link else {}),
  }


def _told(part: Part) -> str:
  return part.licence or _UNKNOWN


def _others_terms(files: checkpoint.Files) -> checkpoint.Files:
  """The files of terms of weights that were not made here."""
  own = origin.OWN_TERMS.encode()
  return {
    name: text
    for name, text in files.items()
    if checkpoint.is_terms(name) and text != own
  }


def _weights(files: checkpoint.Files) -> Iterator[Part]:
  """The weights that these descend from, unless they were made here."""
  terms, base = _others_terms(files), origin.base(files)
  ours = any(map(checkpoint.is_terms, files)) and not terms
  if ours or not (terms or base.name or base.repository):
    return
  found = origin.licence(terms)
  licence = found["license"]
  if licence == licences.OTHER:
    named = found.get("license_name", "")
    licence = "" if named == origin.UNNAMED else named
  yield Part(WEIGHTS, base.repository or base.name, licence)


def _teachers(files: checkpoint.Files, stated: Stated) -> Iterator[Part]:
  """The teachers, but for what is fitted to the data, and the weights' own start."""
  own = set((checkpoint.recipe_of(files).get("parents") or {}).values())
  for teacher in checkpoint.teachers_of(files):
    told = lambda key, of=teacher: str(of.get(key) or "")
    ours = told("kind") == _NOBODYS or teacher.get("weights") in own
    if ours and not (told("licence") or told("terms")):
      continue
    name = told("name") or told("kind")
    licence = _stated(name, told("licence"), stated)
    yield Part(TEACHER, name, licence, told("terms"))


def _data(files: checkpoint.Files, stated: Stated) -> Iterator[Part]:
  """Each source of training data once, and what lacks a name."""
  recipe = checkpoint.recipe_of(files)
  found: dict[Part, None] = {}
  for stage in stages.of_training(stages.of(recipe)):
    named = stages.sources(stage)
    for source in named:
      name = str(source.get("name") or "")
      licence = _stated(name, str(source.get("licence") or ""), stated)
      found[Part(DATA, name, licence)] = None
    if stages.data(stage) and not named:
      found[Part(DATA, f"the stage {stage['stage']}", "")] = None
  if not stages.is_whole(recipe):
    found[Part(DATA, "its parents", "")] = None
  yield from found


def _stated(name: str, licence: str, stated: Stated) -> str:
  """A licence as recorded, else as stated; BadInput if these differ."""
  given = stated.licences.get(name, "")
  if not licence or not given:
    return licence or given
  if licences.identifiers(licence) != licences.identifiers(given):
    raise BadInput(
      f"--card: licences: {name} is {given!r} there, and {licence!r} by its own"
      " record; leave it out"
    )
  return licence


def _require_known_names(parts: Sequence[Part], stated: Stated) -> None:
  known = {part.name for part in parts if part.what != WEIGHTS}
  for name in stated.licences:
    if name not in known:
      near = suggest(name, sorted(known))
      raise BadInput(
        f"--card: licences: {name!r} is no source or teacher of this model{near}"
      )


def _unknown(parts: Sequence[Part]) -> Iterator[str]:
  """What is not known of the licences of some parts, in words."""
  if silent := [part for part in parts if not part.licence]:
    yield f"the licence of {_listed(silent)} is not recorded"
  if odd := [part for part in parts if part.licence]:
    named = ", ".join(dict.fromkeys(part.licence for part in odd[:_SHOWN]))
    yield f"the licence of {_listed(odd)} ({named}) is none that is known here"


def _listed(parts: Sequence[Part]) -> str:
  """Some of the parts in words."""
  named = [f"the {part.what} {part.name}".strip() for part in parts]
  more = len(named) - _SHOWN
  return ", ".join(named[:_SHOWN]) + (f" and {more:,} more" if more > 0 else "")
