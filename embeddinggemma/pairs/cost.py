"""How long scoring and indexing take after training: from what they read."""

import time
from collections.abc import Mapping
from typing import Any

from embeddinggemma import indexing
from embeddinggemma.load import Model
from embeddinggemma.pairs import scores
from embeddinggemma.retrieval import reading

_SAMPLES = (64, 512, 2048)  # texts, until encoding them takes
_SAMPLED = 2.0  # seconds
_CHUNKS = 512  # of an index, that the length of all is taken from


def scoring(
  model: Model,
  loading: float,
  save: float,
  costs: Mapping[str, Mapping[str, Any]],
  suites: scores.Suites,
  inner: int,
  source: indexing.Source,
) -> float:
  """Seconds of all that follows training.

  Args:
    loading: seconds in which a model is read.
    save: seconds in which a checkpoint is written.
    costs: of scoring, by suite.
    inner: points of the soup's path that are neither base nor result.
    source: what is indexed.
  """
  pace = seconds_a_token(model, suites)
  seconds = {
    name: cost["ranking"] + cost["tokens"] * pace
    for name, cost in costs.items()
  }
  whole = loading + sum(seconds.values())
  if scores.VALIDATION in seconds:
    # A soup of two is read twice and written once, then read as a model.
    point = 3 * save + loading
    judged = sum(s for name, s in seconds.items() if name != scores.TEST)
    whole += inner * (point + judged) + point + seconds.get(scores.TEST, 0)
  return whole + loading + pace * _tokens(model, source)


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


def _tokens(model: Model, source: indexing.Source) -> float:
  """About how many tokens an index of a source reads."""
  rows = reading.read(source.path, source.excluded).chunks
  sample = rows[:: max(len(rows) // _CHUNKS, 1)]
  texts, titles = [row.text for row in sample], [row.title for row in sample]
  read = scores.tokens(model, texts, "document", titles)
  return read * len(rows) / max(len(sample), 1)
