"""mteb's protocols, against transcriptions of its code and numbers by hand.

test_kinds_parity.py compares with mteb itself where that is installed.
"""

import kind_files
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats
from sklearn import metrics as sklearn

from embeddinggemma.evaluation import metrics
from embeddinggemma.evaluation.kinds import pairs, summarization
from embeddinggemma.evaluation.kinds.task import EvalTask
from embeddinggemma.evaluation.scoring import clusters, probes, strata
from embeddinggemma.types import Stopped


def test_draws_are_those_of_mteb():
  """Recorded from mteb 2.26 with seed 42."""
  labels = [str(n % 3) for n in range(12)]
  assert probes.samples(labels, 2, 3, 42) == [
    [10, 9, 0, 8, 5, 1],
    [3, 7, 10, 2, 0, 5],
    [8, 11, 3, 0, 10, 7],
  ]
  several = [[str(n % 3), str(n % 2)] for n in range(12)]
  assert probes.multilabel_samples(several, 2, 2, 42) == [
    [0, 7, 11, 5],
    [5, 11, 2, 4],
  ]
  settings = {"seed": 42, "max_document_to_embed": 4}
  assert clusters.embedded(10, settings) == [1, 0, 4, 9]
  settings = {"seed": 42, "max_fraction_of_documents_to_embed": 0.4}
  assert clusters.embedded(10, settings) == [1, 0, 4, 9]
  assert clusters.embedded(10, {"seed": 42}) is None


def test_a_part_has_the_labels_of_the_whole():
  rng = np.random.default_rng(0)
  labels = [
    sorted({0} if n % 4 else set(rng.integers(1, 5, size=2).tolist()))
    for n in range(400)
  ]
  labels[7] = []
  chosen = strata.part(labels, 100, 42)
  assert chosen == sorted(set(chosen)) and 90 <= len(chosen) <= 110
  for label in range(5):
    whole = sum(label in own for own in labels)
    taken = sum(label in labels[place] for place in chosen)
    assert taken == pytest.approx(whole / 4, abs=2)
  assert strata.part(labels, 100, 42) == chosen


def test_labels_that_are_numbers_are_in_their_order():
  known, asked = metrics.numbered(["10", "2"], ["-1", "2"])
  assert (known.tolist(), asked.tolist()) == ([2, 1], [0, 1])
  (words,) = metrics.numbered(["10", "2", "x"])
  assert words.tolist() == [0, 1, 2]


def test_p_mrr_by_hand():
  rankings = [[7, 8, 9, 5], [8, 9, 5, 7], [5, 6], [6]]
  pairs = [(0, 1, [7, 8]), (2, 3, [5])]
  # 7 falls from 1 to 4, 8 rises from 2 to 1; 5 is gone, so falls from 1 to 2.
  wanted = [np.mean([1 - 1 / 4, 1 / 2 - 1]), 1 - 1 / 2]
  assert metrics.p_mrr(rankings, pairs) == pytest.approx(wanted)


def test_metrics_of_rankings_by_hand():
  found = metrics.by_query_deep([[3, 0, 1], []], [{0: 2, 1: 1, 9: 0}, {4: 1}])
  assert found["map@1000"] == pytest.approx([(1 / 2 + 2 / 3) / 2, 0])
  assert found["mrr@10"] == pytest.approx([1 / 2, 0])
  dcg = 2 / np.log2(3) + 1 / np.log2(4)
  ideal = 2 + 1 / np.log2(3)
  for name in "ndcg@5", "ndcg@10", "ndcg@20":
    assert found[name] == pytest.approx([dcg / ideal, 0])


def _mteb_thresholds(scores, labels):
  """_find_best_acc_and_threshold and _find_best_f1_and_threshold of mteb."""
  rows = sorted(zip(scores, labels), key=lambda row: row[0], reverse=True)
  accuracy = f1 = 0.0
  right, negatives = 0, sum(labels == 0)
  for place, (score, label) in enumerate(rows[:-1]):
    right += label == 1
    negatives -= label != 1
    if score == rows[place + 1][0]:
      continue
    accuracy = max(accuracy, (right + negatives) / len(labels))
    if right:
      precision, recall = right / (place + 1), right / sum(labels)
      f1 = max(f1, 2 * precision * recall / (precision + recall))
  return accuracy, f1


@settings(deadline=None)
@given(
  st.lists(
    st.tuples(st.integers(0, 4), st.integers(0, 1)), min_size=2, max_size=30
  ).filter(lambda rows: len({label for _, label in rows}) == 2)
)
def test_thresholds_are_those_of_mteb(rows):
  scores, labels = (np.array(side) for side in zip(*rows))
  found = pairs._measured(scores.astype(float), labels)
  wanted = _mteb_thresholds(scores, labels)
  assert (found["accuracy"], found["f1"]) == pytest.approx(wanted)


def test_manhattan_may_be_the_best_distance():
  left = np.eye(4, dtype=np.float32)[[0, 0]]
  right = np.array([[0.8, 0.6, 0, 0], [0.8, 0.45, 0.39686, 0]], np.float32)
  task = EvalTask("t", pairs.NAME, "sts", ("a", "b"), ("c", "d"), gold=(1, 0))
  found = pairs.KIND.score(task, left, right).values
  assert found["max_ap"] == found["max_f1"] == found["max_accuracy"] == 1
  assert metrics.cosines(left, right) == pytest.approx([0.8, 0.8], abs=1e-5)


@pytest.mark.parametrize("seed", range(4))
def test_label_ranking_precision_is_scikit_learns(seed):
  gold, found = np.random.default_rng(seed).integers(0, 2, size=(2, 30, 4))
  gold[0], gold[1], found[2], found[3] = 0, 1, 0, 1
  own = probes._ranking_precision(gold, found)
  wanted = sklearn.label_ranking_average_precision_score(gold, found)
  assert own.mean() == pytest.approx(wanted)
  each = [
    sklearn.label_ranking_average_precision_score(a[None], b[None])
    for a, b in zip(gold, found)
  ]
  assert own == pytest.approx(each)


def test_multilabel_by_hand():
  """Ten texts at two places; the labels of most of the nearest five."""
  train = np.eye(2, dtype=np.float32)[[0] * 5 + [1] * 5]
  labels = [["a"]] * 3 + [["a", "b"]] * 2 + [["b", "unknown"]] * 5
  test = np.eye(2, dtype=np.float32)[[0, 1, 1, 0]]
  gold = [["a"], ["b"], ["a"], []]
  found = probes.multilabel(train, labels, test, gold, [range(10)])
  assert found.units == 4
  assert found.values == pytest.approx(
    {
      "accuracy": 2 / 4,
      "lrap": (1 + 1 + 1 / 2 + 1) / 4,
      "f1": (2 / 4 + 2 / 3) / 2,
      "hamming": (1 + 1 + 0 + 0) / 4,
    }
  )


def test_a_probe_is_the_mean_of_experiments():
  vectors = np.eye(2, dtype=np.float32)[[0, 1, 0, 1]]
  labels, wrong = ["x", "y", "y", "x"], ["x", "y", "x", "y"]
  drawn = [[0, 1], [2, 3]]  # right of `wrong`, then the opposite
  found = probes.classification(vectors, labels, vectors, wrong, drawn)
  assert found.values["accuracy"] == 0.5
  assert found.values["f1"] == pytest.approx(0.5)
  counts = np.ones((1, 4))
  for name, statistic in found.resampled.items():
    assert statistic(counts) == pytest.approx([found.values[name]])


@pytest.mark.parametrize("name", ["accuracy", "f1", "f1_weighted"])
def test_a_probe_without_resampling_is_its_own_resample(name):
  rng = np.random.default_rng(0)
  train, test = rng.normal(size=(2, 60, 8)).astype(np.float32)
  known = [str(x) for x in rng.integers(4, size=60)]
  asked = [str(x) for x in rng.integers(5, size=60)]
  drawn = probes.samples(known, 4, 3, 0)
  found = probes.classification(train, known, test, asked, drawn)
  once = found.resampled[name](np.ones((1, 60)))
  assert once == pytest.approx([found.values[name]])


SAMPLED = {
  "n_clusters": 3,
  "max_documents_per_cluster": 60,
  "k_mean_batch_size": 512,
  "seed": 42,
}


def test_clusters_of_separable_vectors():
  rng = np.random.default_rng(0)
  places = np.arange(40) % 4
  vectors = np.eye(8)[places] + 0.01 * rng.normal(size=(40, 8))
  vectors = vectors.astype(np.float32)
  coarse = [(int(place < 2), int(place)) for place in places]
  score = lambda labels, **more: clusters.sampled(
    vectors, labels, SAMPLED | more, None
  ).values["v_measure"]
  assert score([(int(place),) for place in places]) > 0.9
  fine = score(coarse)
  assert score(coarse, max_depth=1) < fine or fine == 1
  labels = [tuple(places[:20].tolist()), (1,) * 20]
  assert clusters.sets(vectors, labels, 42).values["v_measure"] > 0.9


def test_clusters_of_collapsed_and_of_broken_vectors():
  same, labels = np.ones((40, 3), np.float32), [(n % 2,) for n in range(40)]
  assert clusters.sampled(same, labels, SAMPLED, None).values["v_measure"] == 0
  own = [tuple(label for (label,) in labels)]
  assert clusters.sets(same, own, 42).values["v_measure"] == 0
  with pytest.raises(Stopped, match="not finite"):
    clusters.sampled(same * np.nan, labels, SAMPLED, None)
  with pytest.raises(Stopped, match="not finite"):
    clusters.sets(same * np.nan, own, 42)


def test_summaries_by_hand():
  machine = kind_files.vectors("chance", [f"m{n}" for n in range(9)])
  human = kind_files.vectors("chance", [f"h{n}" for n in range(5)])
  gold = ((2, (1.0, 3.0, 2.0, 4.0)), (2, (5.0, 5.0)), (1, (2.0, 1.0, 3.0)))
  task = EvalTask("t", summarization.NAME, "sts", (), gold=gold)
  found = summarization.KIND.score(task, machine, human)
  first = (machine[:4] @ human[:2].T).max(axis=1)
  last = (machine[6:] @ human[4:].T).max(axis=1)
  wanted = [
    stats.spearmanr(first, gold[0][1]).statistic,
    stats.spearmanr(last, gold[2][1]).statistic,
  ]
  assert found.values["cosine_spearman"] == pytest.approx(np.mean(wanted))
  assert found.units == 2
  with pytest.raises(Stopped, match="not finite"):
    summarization.KIND.score(task, machine * np.nan, human)


def test_equal_sentences_have_equal_cosines():
  rng = np.random.default_rng(0)
  rows = rng.normal(size=(500, 768)).astype(np.float32)
  rows /= np.linalg.norm(rows, axis=1, keepdims=True)
  assert set(metrics.cosines(rows, rows).tolist()) == {1.0}
