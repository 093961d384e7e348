"""The model card of an export; SECTIONS is the table of its parts."""

import sys
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from embeddinggemma.convert.card import (
  header,
  limits,
  measured,
  model,
  mteb,
  terms,
  training,
)
from embeddinggemma.convert.card import scores as scores_lib
from embeddinggemma.convert.card.facts import Facts
from embeddinggemma.convert.card.markup import one_line, plain, sections
from embeddinggemma.convert.card.scores import Scores
from embeddinggemma.convert.write.exporting import Format, Job, Written
from embeddinggemma.data import licences
from embeddinggemma.lineage import public

SECTIONS: Sequence[Callable[[Facts], str]] = (
  header.header,
  lambda facts: f"# {plain(facts.job.title)}",
  model.what,
  model.use,
  model.prompts,
  training.training,
  training.data,
  training.commands,
  measured.scores,
  measured.checked,
  limits.limits,
  terms.terms,
  mteb.mteb,
)


def facts_of(
  form: Format,
  job: Job,
  written: Written,
  found: Mapping[str, Any],
  scores: Sequence[Scores] = (),
) -> Facts:
  """What is known of an export.

  Args:
    form: its format.
    job: what was exported.
    written: what was written of it.
    found: the content of its certificate.
    scores: of the model; where there are none, those of the run that made it.
  """
  own = None if scores else scores_lib.of_run(job, written.digest)
  return Facts(
    job,
    written,
    form.loading(job, written),
    found,
    tuple(scores) or ((own,) if own else ()),
    public.command(sys.argv),
  )


def card(facts: Facts) -> bytes:
  """The content of README.md."""
  return (sections(part(facts) for part in SECTIONS) + "\n").encode()


def summary(facts: Facts) -> str:
  """The card as one line for people: its licence, and what is not known."""
  claim = facts.claim
  unknown = sum(not part.known and not part.terms for part in claim.parts)
  lacking = [
    *([f"licences of {unknown:,} sources"] if unknown > 1 else []),
    *(["a licence"] if unknown == 1 else []),
    *([] if facts.languages else ["languages"]),
    *([] if facts.scores else ["scores"]),
  ]
  licence = claim.keys["license"]
  why = f" ({claim.reason})" if licence == licences.OTHER else ""
  rest = f"; not on record: {', '.join(lacking)}" if lacking else ""
  return one_line(f"model card: licence {licence}{why}{rest}")
