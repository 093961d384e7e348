"""Metrics of embeddings on each kind of task, computed by standard libraries.

They are MTEB's, which the paper reports (section 3): nDCG@10 for search,
Spearman's correlation for similarity, accuracy of a linear probe, V-measure of
k-means, F1 of bitext mining. A score that is not finite is an error, since NaN
would rank first.
"""

import warnings
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
from jaxtyping import Float

from embeddinggemma import lexical
from embeddinggemma.types import Stopped

DEPTH = 100  # documents that are ranked per query

Ranking = Sequence[int]  # document indices, best first
Gold = Mapping[int, int]  # document index -> grade


def dense_scores(
  queries: Float[np.ndarray, "Q M"], documents: Float[np.ndarray, "C M"]
) -> Callable[[slice], Float[np.ndarray, "q C"]]:
  """A function: slice of the queries -> their cosines with all documents.

  Raises Stopped for a vector that is zero or not finite.
  """
  _require_directions(queries, documents)
  return lambda chunk: queries[chunk] @ documents.T


def rank(
  score: Callable[[slice], Float[np.ndarray, "q C"]],
  same: Sequence[int],
  num_documents: int,
  positive_only: bool = False,
) -> list[Ranking]:
  """The DEPTH best documents of each query, computed in chunks of queries.

  Args:
    score: a slice of queries -> their scores of all documents.
    same: per query, the document that is the query itself and is left out; -1
      for none.
    num_documents: C.
    positive_only: leave out scores of 0, which with BM25 are no match.
  """
  rankings: list[Ranking] = []
  for chunk in lexical.query_chunks(len(same), num_documents):
    best, values = lexical.top_k(score(chunk), DEPTH + 1)
    for row, cosines, itself in zip(best, values, same[chunk], strict=True):
      if positive_only:
        row = row[cosines > 0]
      rankings.append(row[row != itself][:DEPTH].tolist())
  return rankings


def retrieval(
  rankings: Sequence[Ranking], gold: Sequence[Gold]
) -> dict[str, float]:
  """nDCG@10, recall@10, recall@100 and MRR@10, by ir-measures.

  A query without any result counts as 0.
  """
  import ir_measures
  from ir_measures import RR, R, nDCG

  qrels = {
    f"q{number}": {f"d{index}": grade for index, grade in relevant.items()}
    for number, relevant in enumerate(gold)
  }
  deep = ir_measures.calc_aggregate(
    [nDCG @ 10, R @ 10, R @ 100], qrels, _run(rankings, DEPTH)
  )
  first = ir_measures.calc_aggregate([RR], qrels, _run(rankings, 10))
  return _finite(
    {
      "ndcg@10": deep[nDCG @ 10],
      "recall@10": deep[R @ 10],
      "recall@100": deep[R @ 100],
      "mrr@10": first[RR],
    }
  )


def similarity(
  left: Float[np.ndarray, "n M"],
  right: Float[np.ndarray, "n M"],
  gold: Sequence[float],
) -> dict[str, float]:
  """Spearman's correlation of cosines with human scores (SciPy)."""
  from scipy import stats

  _require_directions(left, right)
  cosines = np.sum(left * right, axis=1)
  if np.ptp(cosines) == 0:
    return {"spearman": 0.0}  # a collapsed model orders nothing
  return _finite({"spearman": stats.spearmanr(cosines, gold).statistic})


def probe(
  train: Float[np.ndarray, "n M"],
  train_labels: Sequence[str],
  test: Float[np.ndarray, "m M"],
  test_labels: Sequence[str],
) -> dict[str, float]:
  """Accuracy of a logistic regression fitted on frozen vectors."""
  from sklearn import exceptions, linear_model

  _require_directions(train, test)
  model = linear_model.LogisticRegression(max_iter=100)
  with warnings.catch_warnings():  # 100 iterations is MTEB's setting
    warnings.simplefilter("ignore", exceptions.ConvergenceWarning)
    model.fit(train, np.asarray(train_labels))
  return _finite({"accuracy": model.score(test, np.asarray(test_labels))})


def clusters(
  vectors: Float[np.ndarray, "n M"], labels: Sequence[str]
) -> dict[str, float]:
  """V-measure of k-means with as many clusters as labels, seed 0."""
  from sklearn import cluster, exceptions, metrics

  _require_directions(vectors)
  k_means = cluster.KMeans(len(set(labels)), n_init=1, random_state=0)
  with warnings.catch_warnings():  # fewer distinct points than clusters
    warnings.simplefilter("ignore", exceptions.ConvergenceWarning)
    found = k_means.fit_predict(vectors)
  return _finite({"v_measure": metrics.v_measure_score(labels, found)})


def bitext(
  left: Float[np.ndarray, "n M"],
  right: Float[np.ndarray, "n M"],
  translations: Sequence[str],
) -> dict[str, float]:
  """Accuracy and weighted F1 of the nearest translation, as in MTEB.

  Translations with equal texts count as one answer.
  """
  from sklearn import metrics

  _require_directions(left, right)
  first: dict[str, int] = {}
  gold = [first.setdefault(text, i) for i, text in enumerate(translations)]
  found: list[int] = []
  for chunk in lexical.query_chunks(len(left), len(right)):
    best, _ = lexical.top_k(left[chunk] @ right.T, 1)
    found += [gold[index] for index in best[:, 0]]
  return _finite(
    {
      "accuracy": metrics.accuracy_score(gold, found),
      "f1": metrics.f1_score(gold, found, average="weighted", zero_division=0),
    }
  )


def _run(rankings: Sequence[Ranking], depth: int) -> dict[str, dict]:
  return {
    f"q{number}": {
      f"d{index}": float(depth - place)
      for place, index in enumerate(ranking[:depth])
    }
    for number, ranking in enumerate(rankings)
    if ranking
  }


def _require_directions(*arrays: Float[np.ndarray, "_n _M"]) -> None:
  """Raise Stopped for a row that is zero or not finite, which has no cosine."""
  for array in arrays:
    with np.errstate(all="ignore"):
      squares = np.einsum("nm,nm->n", array, array)
    good = np.isfinite(squares) & (squares > 0)
    if not good.all():
      raise Stopped(
        f"embedding {int(np.argmin(good))} of {len(array)} is zero or not"
        " finite; the weights are damaged"
      )


def _finite(scores: Mapping[str, Any]) -> dict[str, float]:
  for name, value in scores.items():
    if not np.isfinite(value):
      raise Stopped(f"{name} is {value}; look at the embeddings")
  return {name: float(value) for name, value in scores.items()}
