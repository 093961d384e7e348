"""How long scoring and indexing take beside training: from what they read."""

import time
from collections.abc import Mapping

from embeddinggemma.load import Model
from embeddinggemma.recipes import index
from embeddinggemma.recipes.pairs import scores
from embeddinggemma.retrieval import reading

_SAMPLES = (64, 512, 2048)  # texts, until encoding them takes
_SAMPLED = 2.0  # seconds
_CHUNKS = 512  # of an index, that the length of all is taken from


def scoring(
  costs: Mapping[str, Mapping[str, float]],
  pace: float,
  loading: float,
  save: float,
  trained: int,
  soups: int,
) -> float:
  """Seconds in which base and candidates are scored.

  Args:
    costs: of scoring, by suite.
    pace: seconds a token.
    loading: seconds in which a model is read.
    save: seconds in which a checkpoint is written.
    trained: checkpoints of the training that are scored.
    soups: means of base and result that are scored. One of two is read twice
      and written once, then read as a model.
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
  """About the seconds in which an index of a source is made."""
  rows = reading.read(source.path, source.excluded).chunks
  sample = rows[:: max(len(rows) // _CHUNKS, 1)]
  texts, titles = [row.text for row in sample], [row.title for row in sample]
  read = scores.tokens(model, texts, "document", titles)
  return pace * read * len(rows) / max(len(sample), 1)


def seconds_a_token(model: Model, suites: scores.Suites) -> float:
  """Of encoding, in shapes that are compiled."""
  texts = [
    text
    for tasks in suites.values()
    for task in tasks
    for text in (*task.queries, *task.documents)
  ]
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
