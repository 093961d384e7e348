"""The section on licences: what is claimed, and of what it follows."""

from embeddinggemma import checkpoint
from embeddinggemma.convert.card import claim
from embeddinggemma.convert.card.facts import Facts
from embeddinggemma.convert.card.markup import code, plain, sections, table
from embeddinggemma.data import licences

_GEMMA = (
  "Gemma is provided under and subject to the Gemma Terms of Use found at"
  " ai.google.dev/gemma/terms. They bind whoever uses or passes on this model."
)
_FIXES = {
  claim.WEIGHTS: "not recorded; the folder that was imported names none",
  claim.TEACHER: (
    "not recorded; `--config.licence` of `teach`, or `licences` in the file of"
    " `--card`, states it"
  ),
  claim.DATA: (
    "not recorded; `license` in the README.md of the data, or `licences` in the"
    " file of `--card`, states it"
  ),
}


def terms(facts: Facts) -> str:
  """The licence in words, a row for each part, and terms of teachers."""
  found, files = facts.claim, facts.job.files
  names = ", ".join(code(n) for n in sorted(files) if checkpoint.is_terms(n))
  licence = found.keys["license"]
  said = plain(licence)
  if licence == licences.OTHER:
    said = f"not one of the Hub's list ({plain(found.keys['license_name'])})"
  beside = f"; the terms are in {names}" if names else ""
  gemma = any(licences.GEMMA in part.known for part in found.parts)
  rows = [
    (
      part.what,
      plain(part.name) or "of unknown name",
      plain(part.licence)
      if part.licence
      else "its terms, below"
      if part.terms
      else _FIXES[part.what],
    )
    for part in found.parts
  ]
  return sections(
    (
      "## Licence",
      f"The licence is {said}{beside}: {plain(found.reason)}. A model inherits"
      " the terms of its data, of the weights that it started from and of its"
      " teachers.",
      table(("part", "name", "licence"), rows) if rows else "",
      _GEMMA if gemma else "",
      *_of_teachers(facts),
    )
  )


def _of_teachers(facts: Facts) -> list[str]:
  return [
    f"Terms of the teacher {plain(str(teacher.get('name', '')))}:"
    f" {plain(str(teacher['terms']))}."
    for teacher in checkpoint.teachers_of(facts.job.files)
    if teacher.get("terms")
  ]
