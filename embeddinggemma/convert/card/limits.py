"""Sections on limits: what the model was not made for, and what nobody measured."""

from collections.abc import Iterator, Mapping

from embeddinggemma import quantize
from embeddinggemma.convert.card.facts import Facts
from embeddinggemma.convert.card.markup import plain, sections
from embeddinggemma.lineage import stages

_FLOAT16 = (
  "in float16, activations of models of this class can exceed its range, and"
  " vectors are then wrong without an error: use float32 or bfloat16"
)


def limits(facts: Facts) -> str:
  """A line for each limit."""
  lines = [
    *_length(facts),
    *_languages(facts),
    *_precision(facts),
    *_unmeasured(facts),
    *map(plain, facts.job.stated.limits),
  ]
  return sections(("## Limits", "\n".join(f"- {line}." for line in lines)))


def _length(facts: Facts) -> Iterator[str]:
  """The longest text it reads, and was trained on."""
  most = facts.job.config.max_length
  yield f"texts are cut after {most} tokens, the prompt included"
  lengths = [
    (stage["max_length"], stage["stage"])
    for stage in facts.trainings
    if type(stage.get("max_length")) is int
  ]
  if lengths:
    longest, stage = lengths[-1]
    if longest < most:
      yield (
        f"the last training ({plain(stage)}) read {longest} tokens of a text at"
        " most; what it does with longer ones was not trained then"
      )


def _languages(facts: Facts) -> Iterator[str]:
  counted = facts.counted
  if counted:
    names = ", ".join(map(plain, list(counted)[:20]))
    more = f" and {len(counted) - 20:,} more" if len(counted) > 20 else ""
    yield f"trained here on {names}{more}; other languages were not counted"
  elif facts.trainings:
    yield "the languages of its training data are not recorded"


def _precision(facts: Facts) -> Iterator[str]:
  """What rounding cost, by the certificate."""
  job, found = facts.job, facts.certificate
  to_model = found.get("to_model")
  if isinstance(to_model, Mapping):
    cosine = to_model["cosine"]
    yield (
      f"this export in {plain(job.dtype)} differs from the model in"
      f" {plain(str(to_model['precision']))}: cosine {cosine['min']:.5f} at"
      f" least, {cosine['mean']:.5f} on average,"
      f" {to_model['top10_overlap']:.0%} of nearest neighbours are the same"
    )
  elif job.rounded and job.precision != quantize.FLOAT:
    yield (
      f"weights were rounded to {plain(job.precision)} after the training, and"
      " what that costs was not measured"
    )
  yield _FLOAT16


def _unmeasured(facts: Facts) -> Iterator[str]:
  """What nobody measured, as far as is recorded."""
  if not facts.scores:
    yield "no score is on record"
  if "cosine" not in facts.certificate:
    yield "nothing on record has run this export"
  if not stages.is_whole(facts.recipe):
    yield "the data of its parents are not recorded"
  yield "bias and safety were not measured"
