"""How long scoring and indexing will take, from the tokens that they encode."""

import time
from collections.abc import Mapping, Sequence

from embeddinggemma.loading import Model
from embeddinggemma.recipes import index
from embeddinggemma.recipes.own import scores
from embeddinggemma.retrieval import reading

_SAMPLES = (64, 512, 2048)  # texts to time, the next number only if
_SAMPLED = 2.0  # seconds have not passed yet
_CHUNKS = 512  # sampled to estimate the tokens of a whole index


def scoring(
  costs: Mapping[str, Mapping[str, float]],
  pace: float,
  loading: float,
  save: float,
  trained: int,
  soups: int,
) -> float:
  """Seconds to score the base and all candidates.

  Args:
    costs: per suite, what `scores.costs` returns.
    pace: seconds to encode a token.
    loading: seconds to read a model.
    save: seconds to write a checkpoint.
    trained: how many checkpoints of the training are scored.
    soups: how many means of base and checkpoint are scored. For each, two
      checkpoints are read and one is written, then read as a model.
  """
  seconds = {
    name: cost["ranking"] + cost["tokens"] * pace
    for name, cost in costs.items()
  }
  test = seconds.pop(scores.TEST, 0.0)
  judged = sum(seconds.values())
  base = loading + judged + test
  return (
    base
    + trained * (loading + judged)
    + soups * (2 * save + loading + judged)
    + (2 * save + loading + test)  # of what is chosen
  )


def searching(model: Model, pace: float, source: index.Source) -> float:
  """Estimated seconds to index a source, from a sample of its chunks."""
  measure = index.measure(model)
  read = reading.read(source.path, source.excluded, measure=measure)
  rows = read.chunks
  sample = rows[:: max(len(rows) // _CHUNKS, 1)]
  texts, titles = [row.text for row in sample], [row.title for row in sample]
  tokens = scores.tokens(model, texts, "document", titles)
  return pace * tokens * len(rows) / max(len(sample), 1)


def texts_of(suites: scores.Suites) -> list[str]:
  """All texts of suites."""
  return [
    text
    for tasks in suites.values()
    for task in tasks
    for text in (*task.queries, *task.documents)
  ]


def seconds_a_token(model: Model, texts: Sequence[str]) -> float:
  """Seconds to encode a token of texts, without compilation."""
  seconds, sample = 0.0, texts
  for count in _SAMPLES:
    sample = texts[:: max(len(texts) // count, 1)]
    model(sample, "document")
    began = time.perf_counter()
    model(sample, "document")
    seconds = time.perf_counter() - began
    if seconds > _SAMPLED:
      break
  return seconds / scores.tokens(model, sample, "document")
