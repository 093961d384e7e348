"""The header of a model card, in YAML: what the Hub and mteb read."""

from collections.abc import Iterator
from typing import Any

import yaml

from embeddinggemma import quantize
from embeddinggemma.convert.card.facts import Facts
from embeddinggemma.convert.card.markup import one_line
from embeddinggemma.convert.card.scores import Score, Scores
from embeddinggemma.lineage import stages

_TASK = "sentence-similarity"
_TAGS = ("sentence-similarity", "feature-extraction", "embeddinggemma")
_MOST = 200  # results; mteb's largest suite has 131 tasks


def header(facts: Facts) -> str:
  """The header, between its two lines of dashes."""
  text = yaml.safe_dump(
    tree(facts), sort_keys=False, allow_unicode=True, width=10**6
  )
  return f"---\n{text}---"


def tree(facts: Facts) -> dict[str, Any]:
  """What the header holds; what is not known is left out."""
  base, languages = facts.base.repository, facts.languages
  repositories = [s.get("repository") for s in facts.sources]
  datasets = [one_line(str(name)) for name in repositories if name]
  licence = {key: one_line(text) for key, text in facts.claim.keys.items()}
  relation = _relation(facts) if base else ""
  found = {
    **licence,
    "language": languages[0] if len(languages) == 1 else languages,
    "base_model": base,
    "base_model_relation": relation,
    "datasets": datasets,
    "pipeline_tag": _TASK,
    "library_name": facts.loading.library,
    "tags": tags(facts),
    "model-index": _index(facts),
  }
  return {key: value for key, value in found.items() if value}


def tags(facts: Facts) -> list[str]:
  """The tags; "mteb" if mteb scored the model."""
  scored = ["mteb"] if any(found.mteb for found in facts.scores) else []
  return list(dict.fromkeys([*facts.loading.tags, *_TAGS, *scored]))


def _relation(facts: Facts) -> str:
  """How the model came from its base, in the Hub's words; "": it is the base."""
  if facts.trainings or not stages.is_whole(facts.recipe):
    return "finetune"
  is_rounded = facts.job.precision != quantize.FLOAT and facts.job.rounded
  return "quantized" if is_rounded else ""


def _index(facts: Facts) -> list[dict[str, Any]]:
  results = [
    _result(found, score)
    for found in facts.scores
    for score in found.scores
    if not score.is_mean
  ]
  if not results:
    return []
  return [{"name": one_line(facts.job.title), "results": results[:_MOST]}]


def _result(found: Scores, score: Score) -> dict[str, Any]:
  """A result of model-index, with whole vectors and with shorter ones."""
  name = one_line(score.task)
  dataset = {"name": name, "type": one_line(score.dataset) or name}
  if score.revision:
    dataset["revision"] = one_line(score.revision)
  kind = one_line(score.kind)
  task = {"type": kind or _TASK, **({"name": kind} if kind else {})}
  by = one_line(found.title.replace("`", ""))
  metrics = list(_metrics(score, by))
  return {"task": task, "dataset": dataset, "metrics": metrics}


def _metrics(score: Score, by: str) -> Iterator[dict[str, Any]]:
  metric = one_line(score.metric).replace("@", "_at_") or "score"
  for number, (dim, value) in enumerate(score.at.items()):
    at = f" at {dim} dimensions" if dim else ""
    yield {
      "type": metric if not number else f"{metric}_{dim}d",
      "value": round(value.score, 6),
      "name": f"{one_line(score.metric) or 'score'}{at}, by {by}",
    }
