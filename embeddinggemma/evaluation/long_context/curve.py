"""Quality against length: nDCG@10 and accuracy@1 by length and position."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from jaxtyping import Bool, Float

from embeddinggemma.data import truncation
from embeddinggemma.evaluation import bootstrap, metrics, suite
from embeddinggemma.evaluation.kinds.task import EvalTask
from embeddinggemma.evaluation.long_context import documents
from embeddinggemma.evaluation.long_context.made import Suite
from embeddinggemma.evaluation.long_context.reach import Trained
from embeddinggemma.types import TextEncoder

METRICS = ("ndcg@10", "accuracy@1")
_DEPTH = 10

# {"queries", and for each of METRICS its value, and under "intervals" the ends
# of its 95% interval by the bootstrap over queries}
Score = dict[str, Any]


def rows(
  encode: TextEncoder,
  made: Suite,
  trained: Trained,
  words: Mapping[str, Mapping[str, Mapping[str, float]]],
) -> list[dict[str, Any]]:
  """A row for each task and length.

  Args:
    encode: the model.
    made: the suite.
    trained: lengths above it are marked as `beyond`.
    words: task -> "" -> metrics of search by words, for comparison.

  Returns rows of {"task", "length", "tokens": the mean of its documents,
  "beyond", "cut_at": tokens after which the model cut a text, or None, "all":
  Score, "positions": {position: Score}, "words": nDCG@10 of search by words}.
  """
  found = []
  for (name, length), task in made.tasks.items():
    with truncation.counted() as counts:
      scores = of_task(encode, task, made.places[name], name)
    found.append(
      {
        "task": name,
        "length": length,
        "tokens": made.tokens[length],
        "beyond": length > trained.length,
        "cut_at": counts.max_length if counts.cut else None,
        **scores,
        "words": words[task.name][""]["ndcg@10"],
      }
    )
  return found


def of_task(
  encode: TextEncoder, task: EvalTask, places: Sequence[str], name: str
) -> dict[str, Any]:
  """{"all": Score, "positions": {position: Score}} of a task.

  Args:
    encode: the model.
    task: with one right document for each query.
    places: the position of the answer in that document, of each query.
    name: of the task at all lengths, whose queries are the same: they are
      resampled alike, so that intervals of two lengths differ by the model.
  """
  left, right = suite.encoded(encode, task)
  score = metrics.dense_scores(left, right)
  rankings = metrics.rank(score, task.same, len(task.documents))
  values = by_query(rankings, [next(iter(gold)) for gold in task.gold])
  at = np.array(places)
  whole = np.ones(len(at), bool)
  return {
    "all": _score(values, whole, name),
    "positions": {
      position: _score(values, at == position, f"{name} {position}")
      for position in documents.POSITIONS
    },
  }


def by_query(
  rankings: Sequence[metrics.Ranking], gold: Sequence[int]
) -> dict[str, Float[np.ndarray, "Q"]]:
  """METRICS of each query, of which one document is right."""
  places = np.array(
    [
      ranking.index(right) if right in ranking else len(ranking)
      for ranking, right in zip(rankings, gold, strict=True)
    ]
  )
  found = np.array([right in r for r, right in zip(rankings, gold)])
  gain = np.where(found & (places < _DEPTH), 1 / np.log2(places + 2), 0.0)
  return {
    "ndcg@10": gain,
    "accuracy@1": np.where(found & (places == 0), 1.0, 0),
  }


def _score(
  values: Mapping[str, Float[np.ndarray, "Q"]],
  of: Bool[np.ndarray, "Q"],
  name: str,
) -> Score:
  own = {metric: values[metric][of] for metric in METRICS}
  drawn = {
    metric: bootstrap.distribution(bootstrap.mean_of(row), len(row), name)
    for metric, row in own.items()
  }
  return {
    "queries": int(of.sum()),
    **{metric: float(row.mean()) for metric, row in own.items()},
    "intervals": {m: bootstrap.interval(row) for m, row in drawn.items()},
  }


def chance(count: int) -> dict[str, float]:
  """METRICS of a random order of so many documents, expected."""
  gains = 1 / np.log2(np.arange(min(_DEPTH, count)) + 2)
  return {"ndcg@10": float(gains.sum() / count), "accuracy@1": 1 / count}
