"""Sections on what was measured: scores, and the certificate."""

from collections.abc import Sequence

from embeddinggemma.convert.card.facts import Facts
from embeddinggemma.convert.card.markup import (
  code,
  plain,
  sections,
  table,
)
from embeddinggemma.convert.card.scores import Score, Scores, Value

_MOST = 200  # rows; mteb's largest suite has 131 tasks
_NOTES = 20
_HEAD = "## Scores"


def scores(facts: Facts) -> str:
  """A table for each evaluation, with prompts and intervals."""
  if not facts.scores:
    return sections(
      (
        _HEAD,
        "Not evaluated, as far as is recorded. `embeddinggemma evaluate"
        " --output=scores.json` and `embeddinggemma export --scores=scores.json`"
        " put scores here.",
      )
    )
  return sections([_HEAD, *(_one(facts, found) for found in facts.scores)])


def _one(facts: Facts, found: Scores) -> str:
  alone = [score for score in found.scores if _is_bare(score)]
  rest = [score for score in found.scores if not _is_bare(score)]
  by = plain(found.title.replace("`", ""))
  return sections(
    (
      f"By {by}{_precision(facts, found)}:",
      _table(facts, rest) if rest else "",
      _bare(alone) if alone else "",
      _missing(rest),
      "\n".join(f"- {plain(note)}" for note in found.notes[:_NOTES]),
    )
  )


def _is_bare(score: Score) -> bool:
  """Whether only a name and a number are known."""
  [*values] = score.at.values()
  is_one = len(values) == 1 and values[0].low is None and 0 in score.at
  return is_one and not score.metric and score.prompts is None


def _bare(found: Sequence[Score]) -> str:
  rows = [(plain(s.task), f"{s.at[0].score:.4f}") for s in found]
  return table(("suite", "score"), rows, _MOST)


def _table(facts: Facts, found: Sequence[Score]) -> str:
  """A row for each task and mean, a column for each dimension."""
  dims = sorted({dim for score in found for dim in score.at}, reverse=True)
  titles = [f"{dim} dimensions" if dim else "score" for dim in dims]
  rows = [
    (
      plain(score.task),
      plain(score.metric),
      _prompts(facts, score),
      *(_value(score.at.get(dim)) for dim in dims),
    )
    for score in found
  ]
  return table(("task", "metric", "prompts", *titles), rows, _MOST)


def _value(value: Value | None) -> str:
  if value is None:
    return ""
  if value.low is None or value.high is None:
    return f"{value.score:.4f}"
  return f"{value.score:.4f} ({value.low:.4f} to {value.high:.4f})"


def _prompts(facts: Facts, score: Score) -> str:
  """The prompts of a task in words; some files have their names."""
  if score.is_mean:
    return ""
  if score.prompts is None:
    return "not recorded"
  said = []
  for side, told in score.prompts.items():
    words = facts.job.prompts.get(told, told)
    said.append(f"{plain(side)}: {code(words) if words else 'none'}")
  return "; ".join(said)


def _precision(facts: Facts, found: Scores) -> str:
  """In which precision the model was scored, if that is not the export's."""
  written = facts.job.precision
  scored = found.precision or facts.job.trained
  if scored == written:
    return ""
  return f", scored in {plain(scored)} where this export is in {plain(written)}"


def _missing(found: Sequence[Score]) -> str:
  """What is not known of the scores."""
  values = [value for score in found for value in score.at.values()]
  said = []
  if values and any(value.low is not None for value in values):
    said.append("In brackets: the 95% interval over other samples of queries.")
  if values and any(value.low is None for value in values):
    said.append("Scores without brackets have no interval on record.")
  return " ".join(said)


def checked(facts: Facts) -> str:
  """What the certificate says, and what the export costs."""
  found = facts.certificate
  head = "## Checked"
  verdict = f"certificate.json: {plain(str(found['verdict']))}"
  if "cosine" not in found:
    reason = plain(str(found.get("reason", "")))
    return sections((head, f"{verdict}. {reason}".strip()))
  runtime = plain(f"{found['runtime']} through {found['through']}")
  return sections(
    (
      head,
      f"{verdict} in {runtime}, on {found['texts']} texts: cosine"
      f" {found['cosine']['min']:.6f} at least to the written weights in JAX.",
    )
  )
