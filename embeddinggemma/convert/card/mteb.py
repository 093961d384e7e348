"""The section for mteb: its metadata of the model, and how open it counts.

Names of fields and licences are those of mteb 2.26 (`mteb.models.ModelMeta`).
"""

import re
from collections.abc import Mapping
from typing import Any, NamedTuple

from embeddinggemma.convert import origin
from embeddinggemma.convert.card.facts import Facts
from embeddinggemma.convert.card.markup import (
  block,
  plain,
  sections,
  table,
)

# The licences that mteb has a name for, and of them those that count as open.
_OPEN = frozenset(
  "mit apache-2.0 bsd-3-clause gpl-3.0 lgpl lgpl-3.0 mpl-2.0 afl-3.0 eupl-1.2"
  " cc0-1.0 cc-by-2.0 cc-by-3.0 cc-by-4.0 cc-by-sa-3.0 cc-by-sa-4.0 odc-by"
  " cdla-sharing-1.0 openmdw-1.1".split()
)
_KNOWN = _OPEN | frozenset(
  "cc-by-nc-3.0 cc-by-nc-4.0 cc-by-nc-sa-3.0 cc-by-nc-sa-4.0 cc-by-nc-nd-4.0"
  " cc-by-nd-4.0 openrail openrail++ cc-by-nd-2.1-jp msr-la-nc gemma".split()
)
_LANGUAGE = re.compile(r"[a-z]{3}-[A-Z][a-z]{3}")
_DIGITS = 40  # of a revision, as Git has


class Dimension(NamedTuple):
  """A dimension of mteb's openness."""

  name: str
  met: bool
  said: str  # why, or what would meet it


def openness(facts: Facts) -> list[Dimension]:
  """mteb's six dimensions, as far as they follow from what is known."""
  fields, stated = metadata(facts), facts.job.stated
  file = "in the file of `--card`"
  licence = facts.claim.keys["license"]
  return [
    Dimension("open weights", True, "as soon as this folder is public"),
    Dimension(
      "open license",
      licence in _OPEN,
      plain(licence)
      if licence in _OPEN
      else f"{plain(licence)} is none that mteb counts as open, see Licence",
    ),
    Dimension(
      "open training code",
      bool(stated.code),
      plain(stated.code) or f"`code`, its address, {file}",
    ),
    Dimension(
      "open training data",
      bool(fields["public_training_data"]),
      plain(str(fields["public_training_data"] or ""))
      or f"`data`, its address, {file}",
    ),
    Dimension(
      "paper",
      bool(stated.citation),
      "stated" if stated.citation else f"`citation`, as BibTeX, {file}",
    ),
    Dimension("model card", True, "this page"),
  ]


def metadata(facts: Facts) -> dict[str, Any]:
  """The fields of mteb's ModelMeta."""
  job, stated = facts.job, facts.job.stated
  licence, link = (facts.claim.keys.get(k) for k in ("license", "license_link"))
  known = licence if licence in _KNOWN else None
  given = [*stated.languages, *facts.counted]
  return {
    "loader": None,
    "name": stated.name or f"OWNER/{_slug(job.title)}",
    "revision": facts.written.digest[:_DIGITS],
    "release_date": None,
    "languages": [x for x in given if _LANGUAGE.fullmatch(x)] or None,
    "n_parameters": facts.parameters,
    "n_embedding_parameters": job.config.vocab_size * job.config.width,
    "memory_usage_mb": round(_bytes(facts) / 2**20, 1),
    "max_tokens": job.config.max_length,
    "embed_dim": job.config.embed_dim,
    "license": known or (link if _is_url(link) else None),
    "open_weights": True,
    "public_training_code": stated.code or None,
    "public_training_data": stated.data or _data(facts),
    "framework": list(facts.loading.frameworks),
    "similarity_fn_name": "cosine",
    "use_instructions": any(job.prompts.values()),
    "training_datasets": None,
    "adapted_from": facts.base.repository or None,
    "citation": stated.citation or None,
  }


def mteb(facts: Facts) -> str:
  """The section: openness, and the fields as mteb's registry takes them."""
  found = openness(facts)
  count = sum(dimension.met for dimension in found)
  rows = [(d.name, "yes" if d.met else "no", d.said) for d in found]
  fields = metadata(facts)
  lines = ["from mteb.models import ModelMeta", "", "model = ModelMeta("]
  lines += [f"  {name}={value!r}," for name, value in fields.items()]
  lines.append(")")
  unknown = ["`loader`", "`release_date`", "`training_datasets`"]
  if not facts.job.stated.name:
    unknown.append("`OWNER` (`name` in the file of `--card`)")
  if fields["languages"] is None:
    unknown.append("`languages` (as eng-Latn)")
  return sections(
    (
      "## mteb",
      f"By mteb's measure of openness, {count} of {len(found)}:",
      table(("", "", "why, or what is missing"), rows),
      "Its entry for mteb's registry; no record knows"
      f" {', '.join(unknown[:-1])} and {unknown[-1]}:",
      block(lines, "python"),
    )
  )


def _data(facts: Facts) -> str | None:
  """The address of the data if all of them are one repository of the Hub."""
  repositories = {str(s.get("repository") or "") for s in facts.sources}
  whole = len(repositories) == 1 and all(_is_named(s) for s in facts.trainings)
  name = min(repositories, default="")
  return f"{origin.SITE}datasets/{name}" if whole and name else None


def _is_named(stage: Mapping[str, Any]) -> bool:
  """Whether a stage has no data without a source."""
  about = stage.get("data")
  return not about or bool(about.get("sources"))


def _bytes(facts: Facts) -> int:
  artefact = facts.written.artefact
  paths = artefact.rglob("*.safetensors") if artefact.is_dir() else [artefact]
  return sum(path.stat().st_size for path in paths)


def _slug(title: str) -> str:
  return re.sub(r"[^\w.-]+", "-", title, flags=re.ASCII).strip("-.") or "model"


def _is_url(link: Any) -> bool:
  return isinstance(link, str) and link.startswith(("http://", "https://"))
