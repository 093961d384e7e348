"""Quality against length: nDCG@10 and accuracy@1 by length and position."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from jaxtyping import Bool, Float

from embeddinggemma import lexical
from embeddinggemma.data import truncation
from embeddinggemma.evaluation import metrics, suite
from embeddinggemma.evaluation.kinds.task import EvalTask
from embeddinggemma.evaluation.long_context import documents
from embeddinggemma.evaluation.long_context.made import Suite
from embeddinggemma.evaluation.long_context.reach import Trained
from embeddinggemma.evaluation.scoring import bootstrap
from embeddinggemma.types import TextEncoder

METRICS = ("ndcg@10", "accuracy@1")
_DEPTH = 10

# {"queries", and for each of METRICS its value, and under "intervals" the ends
# of its 95% interval by the bootstrap over queries}
Score = dict[str, Any]


def rows(
  encode: TextEncoder, made: Suite, trained: Trained
) -> list[dict[str, Any]]:
  """A row for each task and length, with the model beside search by words.

  Search by words (BM25, stemmed) does not see where in a document words stand:
  by position, its scores say how hard the queries are whose answer stands there.

  Args:
    encode: the model.
    made: the suite.
    trained: lengths above it are marked as `beyond`.

  Returns rows of {"task", "length", "tokens": the mean of its documents,
  "beyond", "cut_at": tokens after which the model cut a text, or None, "model"
  and "words": {"all": Score, "positions": {position: Score}}}.
  """
  found = []
  for (name, length), task in made.tasks.items():
    with truncation.counted() as counts:
      left, right = suite.encoded(encode, task)
    systems = {
      "model": metrics.rank(
        metrics.dense_scores(left, right), task.same, len(task.documents)
      ),
      "words": _by_words(task),
    }
    found.append(
      {
        "task": name,
        "length": length,
        "tokens": made.tokens[length],
        "beyond": length > trained.length,
        "cut_at": counts.max_length if counts.cut else None,
        **{
          system: scores(rankings, task, made.places[name], name)
          for system, rankings in systems.items()
        },
      }
    )
  return found


def _by_words(task: EvalTask) -> list[metrics.Ranking]:
  index = lexical.bm25(task.documents, "stemmed")
  score = lambda chunk: index(task.queries[chunk])
  return metrics.rank(score, task.same, len(task.documents), positive_only=True)


def scores(
  rankings: Sequence[metrics.Ranking],
  task: EvalTask,
  places: Sequence[str],
  name: str,
) -> dict[str, Any]:
  """{"all": Score, "positions": {position: Score}} of rankings of a task.

  Args:
    rankings: of the documents, for each query.
    task: with one right document for each query.
    places: the position of the answer in that document, of each query.
    name: of the task at all lengths, whose queries are the same: they are
      resampled alike, so that intervals of two lengths differ by the model.
  """
  values = by_query(rankings, [next(iter(gold)) for gold in task.gold])
  at = np.array(places)
  return {
    "all": _score(values, np.ones(len(at), bool), name),
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
