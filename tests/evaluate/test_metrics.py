"""Metrics against numbers worked out by hand."""

import math

import numpy as np
import pytest

from embeddinggemma import lexical
from embeddinggemma.evaluation import kinds, metrics
from embeddinggemma.evaluation.scoring import probes
from embeddinggemma.types import Stopped


def _rank(scores, same=None, **options):
  scores = np.asarray(scores, np.float32)
  same = same or [-1] * len(scores)
  width = scores.shape[1]
  return metrics.rank(lambda chunk: scores[chunk], same, width, **options)


def test_retrieval_by_hand():
  rankings = [[3, 0, 1], [5, 6, 7, 2], []]
  gold = [{0: 2, 1: 1, 9: 0}, {2: 1}, {4: 1}]
  first = (2 / math.log2(3) + 1 / math.log2(4)) / (2 + 1 / math.log2(3))
  second = 1 / math.log2(5)
  scores = metrics.retrieval(rankings, gold)
  assert scores["ndcg@10"] == pytest.approx((first + second) / 3)
  assert scores["mrr@10"] == pytest.approx((1 / 2 + 1 / 4) / 3)
  assert scores["recall@10"] == pytest.approx(2 / 3)


def test_cutoffs():
  ranking = list(range(100))
  scores = metrics.retrieval([ranking, ranking], [{10: 1}, {99: 1, 500: 1}])
  assert scores["mrr@10"] == 0
  assert scores["recall@10"] == 0
  assert scores["recall@100"] == pytest.approx(0.75)


def test_rank_leaves_out_the_query_itself_and_wordless_documents():
  assert _rank([[0.1, 0.9, 0.5]]) == [[1, 2, 0]]
  assert _rank([[0.1, 0.9, 0.5]], [1]) == [[2, 0]]
  assert _rank([[0.0, 0.9, 0.0]], positive_only=True) == [[1]]


def test_rank_in_chunks_is_rank_at_once(monkeypatch):
  scores = np.random.default_rng(0).normal(size=(50, 200))
  whole = _rank(scores)
  monkeypatch.setattr(lexical, "CHUNK_BYTES", 200 * 4 * 7)
  assert _rank(scores) == whole
  assert len(whole[0]) == metrics.DEPTH


def test_similarity_is_a_rank_correlation():
  left = np.array([[1.0, 0.0]] * 4)
  angles = np.array([0.1, 0.5, 0.9, 1.3])
  right = np.stack([np.cos(angles), np.sin(angles)], axis=1)
  gold = [5, 4, 1, 2]
  found = metrics.correlation(metrics.cosines(left, right), gold)
  assert found == pytest.approx(1 - 6 * 2 / (4 * 15))
  assert metrics.correlation(metrics.cosines(left, left), gold) == 0.0
  with pytest.raises(Stopped, match="not finite"):
    metrics.cosines(left, right * np.nan)


def _blobs():
  generator = np.random.default_rng(0)
  centers = np.eye(3).repeat(20, axis=0)
  labels = [name for name in "abc" for _ in range(20)]
  return centers + generator.normal(scale=0.05, size=centers.shape), labels


def _probe(train, labels, test):
  """The accuracy of a probe that is fitted once, to all."""
  every = [range(len(train))]
  found = probes.classification(train, labels, test, labels, every)
  return found.values["accuracy"]


def test_probe_and_clusters_on_separable_vectors():
  vectors, labels = _blobs()
  assert _probe(vectors, labels, vectors) == 1.0
  assert metrics.clusters(vectors, labels)["v_measure"] == pytest.approx(1.0)
  with pytest.raises(Stopped, match="not finite"):
    _probe(vectors * np.nan, labels, vectors)
  with pytest.raises(Stopped, match="not finite"):
    metrics.clusters(vectors * np.inf, labels)


def test_clusters_of_a_collapsed_model_are_worth_nothing():
  _, labels = _blobs()
  assert metrics.clusters(np.ones((60, 3)), labels) == {"v_measure": 0.0}


def test_bitext_counts_equal_translations_as_one():
  eye = np.eye(4)
  swapped = eye[[1, 0, 2, 3]]
  bitext = lambda names: metrics.bitext_of(
    *metrics.nearest(eye, swapped, names)
  )
  assert bitext("abcd") == {"accuracy": 0.5, "f1": 0.5}
  assert bitext("xxcd")["accuracy"] == 1.0


def test_non_finite_scores_raise():
  with pytest.raises(Stopped, match="ndcg is nan"):
    metrics.finite({"ndcg": math.nan})
  with pytest.raises(Stopped, match="not finite"):
    _rank([[1.0, np.nan]])


def test_main_metric():
  assert kinds.main_metric({"mrr@10": 1, "ndcg@10": 0}) == "ndcg@10"
  assert kinds.main_metric({"accuracy": 1, "f1": 0}) == "f1"


@pytest.mark.parametrize("bad", [0.0, np.nan])
@pytest.mark.parametrize(
  "score",
  [
    metrics.dense_scores,
    lambda broken, rows: metrics.dense_scores(rows, broken),
    lambda broken, rows: metrics.cosines(broken, rows),
    lambda broken, rows: _probe(broken, "aabb", rows),
    lambda broken, rows: metrics.clusters(broken, "aabb"),
    lambda broken, rows: metrics.nearest(rows, broken, "aabb"),
  ],
)
def test_a_vector_without_direction_is_never_ranked(score, bad):
  rows = np.eye(4)
  broken = rows.copy()
  broken[2] = bad
  with pytest.raises(Stopped, match="embedding 2 of 4 is zero or not finite"):
    score(broken, rows)
