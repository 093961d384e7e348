"""Metrics of embeddings on each kind of task, computed by standard libraries.

They are MTEB's, which the paper reports (section 3): nDCG@10 for search, MAP for
reranking, Spearman's correlation for similarity, accuracy of a linear probe,
V-measure of k-means, F1 of bitext mining, average precision of pairs. A score
that is not finite is an error, since NaN would rank first.
"""

import re
import warnings
from collections.abc import Callable, Hashable, Mapping, Sequence
from typing import Any

import numpy as np
from jaxtyping import Float, Int

from embeddinggemma import lexical
from embeddinggemma.types import Stopped

DEPTH = 100  # documents that are ranked per query
DEEP = 1000  # those of reranking and of instructions, as in mteb

Ranking = Sequence[int]  # document indices, best first
Gold = Mapping[int, int]  # document index -> grade


def dense_scores(
  queries: Float[np.ndarray, "Q M"], documents: Float[np.ndarray, "C M"]
) -> Callable[[slice], Float[np.ndarray, "q C"]]:
  """A function: slice of the queries -> their cosines with all documents.

  Raises Stopped for a vector that is zero or not finite.
  """
  require_directions(queries, documents)
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
  return means(by_query(rankings, gold))


def by_query(
  rankings: Sequence[Ranking], gold: Sequence[Gold]
) -> dict[str, Float[np.ndarray, "Q"]]:
  """The metrics of `retrieval`, of each query."""
  from ir_measures import RR, R, nDCG

  wanted = {"ndcg@10": nDCG @ 10, "recall@10": R @ 10, "recall@100": R @ 100}
  found = _by_query(wanted, rankings, gold, DEPTH)
  return found | _by_query({"mrr@10": RR}, rankings, gold, 10)


def by_query_deep(
  rankings: Sequence[Ranking], gold: Sequence[Gold]
) -> dict[str, Float[np.ndarray, "Q"]]:
  """MAP@1000, nDCG@5, @10 and @20 and MRR@10 of each query."""
  from ir_measures import AP, RR, nDCG

  wanted = {"map@1000": AP @ DEEP, "ndcg@10": nDCG @ 10}
  wanted |= {"ndcg@5": nDCG @ 5, "ndcg@20": nDCG @ 20}
  found = _by_query(wanted, rankings, gold, DEEP)
  return found | _by_query({"mrr@10": RR}, rankings, gold, 10)


def _by_query(
  wanted: Mapping[str, Any],
  rankings: Sequence[Ranking],
  gold: Sequence[Gold],
  depth: int,
) -> dict[str, Float[np.ndarray, "Q"]]:
  """Name -> a measure of ir-measures at each query; 0 without any result."""
  import ir_measures

  qrels = {
    f"q{number}": {f"d{index}": grade for index, grade in relevant.items()}
    for number, relevant in enumerate(gold)
  }
  names = {measure: name for name, measure in wanted.items()}
  found = {name: np.zeros(len(gold)) for name in wanted}
  run = _run(rankings, depth)
  for value in ir_measures.iter_calc(list(names), qrels, run):
    found[names[value.measure]][int(value.query_id[1:])] = value.value
  return found


def means(by_unit: Mapping[str, Float[np.ndarray, "n"]]) -> dict[str, float]:
  """The mean of each metric over its units, all of which must be finite."""
  return finite({name: np.mean(values) for name, values in by_unit.items()})


def p_mrr(
  rankings: Sequence[Ranking],
  pairs: Sequence[tuple[int, int, Sequence[int]]],
) -> Float[np.ndarray, "n"]:
  """How far each changed instruction moves the documents that it concerns.

  p-MRR of FollowIR (arXiv 2403.15246): 1 where documents that the changed
  instruction excludes fall from the first rank to the last, -1 for the opposite,
  0 where nothing moves.

  Args:
    rankings: of all queries.
    pairs: (the query with the original instruction, that with the changed one,
      the documents that are relevant to the first alone).
  """
  found = []
  for original, changed, documents in pairs:
    before, after = (_places(rankings[q]) for q in (original, changed))
    moved = [
      _moved(before.get(d, len(before) + 1), after.get(d, len(after) + 1))
      for d in documents
    ]
    found.append(np.mean(moved))
  return np.array(found, np.float64)


def _places(ranking: Ranking) -> dict[int, int]:
  return {document: place for place, document in enumerate(ranking, 1)}


def _moved(before: int, after: int) -> float:
  return after / before - 1 if before >= after else 1 - before / after


def correlation(found: Float[np.ndarray, "n"], gold: Sequence[float]) -> float:
  """Spearman's; 0 if all found are equal, as of a collapsed model."""
  from scipy import stats

  if np.ptp(found) == 0:
    return 0.0
  value = stats.spearmanr(found, gold).statistic
  return finite({"spearman": value})["spearman"]


def cosines(
  left: Float[np.ndarray, "n M"], right: Float[np.ndarray, "n M"]
) -> Float[np.ndarray, "n"]:
  """The cosine of each row with the same row of the other.

  Computed as mteb does, from the distance: 1 of equal vectors, to the last bit,
  so that equal texts tie.
  """
  from sklearn.metrics import pairwise

  require_directions(left, right)
  return 1 - pairwise.paired_cosine_distances(left, right)


def predicted(
  train: Float[np.ndarray, "n M"],
  labels: Int[np.ndarray, "n"],
  test: Float[np.ndarray, "m M"],
) -> Int[np.ndarray, "m"]:
  """The labels that a logistic regression, fitted as MTEB does, gives."""
  from sklearn import exceptions, linear_model

  model = linear_model.LogisticRegression(max_iter=100)
  with warnings.catch_warnings():  # 100 iterations is MTEB's setting
    warnings.simplefilter("ignore", exceptions.ConvergenceWarning)
    model.fit(train, labels)
  return model.predict(test)


def numbered(*sides: Sequence[str]) -> list[Int[np.ndarray, "_"]]:
  """Labels as numbers from 0, which keep their order: of numbers, or of text."""
  names = {label for side in sides for label in side}
  numeric = all(re.fullmatch(r"0|-?[1-9][0-9]*", name) for name in names)
  ordered = sorted(names, key=int) if numeric else sorted(names)
  places = {label: place for place, label in enumerate(ordered)}
  return [
    np.array([places[label] for label in side], np.int64) for side in sides
  ]


def clusters(
  vectors: Float[np.ndarray, "n M"], labels: Sequence[str]
) -> dict[str, float]:
  """V-measure of k-means with as many clusters as labels, seed 0."""
  from sklearn import cluster, exceptions, metrics

  require_directions(vectors)
  k_means = cluster.KMeans(len(set(labels)), n_init=1, random_state=0)
  with warnings.catch_warnings():  # fewer distinct points than clusters
    warnings.simplefilter("ignore", exceptions.ConvergenceWarning)
    found = k_means.fit_predict(vectors)
  return finite({"v_measure": metrics.v_measure_score(labels, found)})


def nearest(
  left: Float[np.ndarray, "n M"],
  right: Float[np.ndarray, "n M"],
  translations: Sequence[Hashable],
) -> tuple[Int[np.ndarray, "n"], Int[np.ndarray, "n"]]:
  """The answer that is nearest to each row, and the right one, as numbers.

  The first of those that are equally near is taken; so does mteb of 64 texts or
  more, of fewer any of them.
  """
  require_directions(left, right)
  first: dict[Hashable, int] = {}
  gold = np.array([first.setdefault(t, i) for i, t in enumerate(translations)])
  found: list[int] = []
  for chunk in lexical.query_chunks(len(left), len(right)):
    best, _ = lexical.top_k(left[chunk] @ right.T, 1)
    found += gold[best[:, 0]].tolist()
  return np.array(found), gold


def bitext_of(
  found: Int[np.ndarray, "n"], gold: Int[np.ndarray, "n"]
) -> dict[str, float]:
  """Accuracy and weighted F1 of answers."""
  from sklearn import metrics

  return finite(
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


def require_directions(*arrays: Float[np.ndarray, "_n _M"]) -> None:
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


def finite(scores: Mapping[str, Any]) -> dict[str, float]:
  """The scores as plain numbers; Stopped if one is not finite."""
  for name, value in scores.items():
    if not np.isfinite(value):
      raise Stopped(f"{name} is {value}; look at the embeddings")
  return {name: float(value) for name, value in scores.items()}
