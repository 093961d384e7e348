"""Intervals: the statistic of resamples, as if each were data of its own."""

import numpy as np
import pytest
from scipy import stats
from sklearn import metrics as sklearn

from embeddinggemma.evaluation import bootstrap

COUNT = 40


def _data(seed):
  rng = np.random.default_rng(seed)
  scores = rng.integers(0, 8, COUNT).astype(float)  # many are equal
  return rng, scores, rng.integers(0, 2, COUNT)


def _resamples():
  """Counts of resamples, and the same as the places that were drawn."""
  counts = np.concatenate(list(bootstrap._counts(COUNT, "task")))[:50]
  return counts, [np.repeat(np.arange(COUNT), c.astype(int)) for c in counts]


def _agree(statistic, of_data):
  counts, places = _resamples()
  wanted = [of_data(drawn) for drawn in places]
  np.testing.assert_allclose(statistic(counts), wanted, atol=1e-12)


@pytest.mark.parametrize("seed", range(3))
def test_correlation_of_resamples(seed):
  rng, first, _ = _data(seed)
  second = np.round(first + 3 * rng.normal(size=COUNT))
  _agree(
    bootstrap.spearman_of(first, second),
    lambda drawn: stats.spearmanr(first[drawn], second[drawn]).statistic,
  )
  equal = np.ones(COUNT)
  assert (bootstrap.spearman_of(first, equal)(_resamples()[0]) == 0).all()


@pytest.mark.parametrize("seed", range(3))
def test_precision_of_resamples(seed):
  rng, scores, labels = _data(seed)
  other = rng.normal(size=COUNT)
  precision = sklearn.average_precision_score
  _agree(
    bootstrap.average_precision_of([scores, other], labels),
    lambda drawn: max(
      precision(labels[drawn], x[drawn]) for x in (scores, other)
    ),
  )


def _at_thresholds(scores, labels):
  """Accuracy and F1 at the best threshold between two different scores."""
  found = [(0.0, 0.0)]
  for threshold in np.unique(scores)[1:]:
    taken = (scores >= threshold).astype(int)
    f1 = 2 * (taken * labels).sum() / max((taken + labels).sum(), 1)
    found.append((np.mean(taken == labels), f1))
  return np.max(found, axis=0)


@pytest.mark.parametrize("seed", range(3))
def test_thresholds_of_resamples(seed):
  _, scores, labels = _data(seed)
  for place, statistic in enumerate(
    (bootstrap.accuracy_of, bootstrap.best_f1_of)
  ):
    _agree(
      statistic([scores], labels),
      lambda drawn, place=place: _at_thresholds(scores[drawn], labels[drawn])[
        place
      ],
    )


@pytest.mark.parametrize("weighted", [True, False])
def test_f1_of_resamples(weighted):
  rng, _, _ = _data(0)
  gold, found = rng.integers(0, 5, COUNT), rng.integers(0, 6, COUNT)
  average = "weighted" if weighted else "macro"
  f1 = lambda a, b: sklearn.f1_score(a, b, average=average, zero_division=0)
  _agree(
    bootstrap.f1_of([found, gold], gold, weighted),
    lambda drawn: (f1(gold[drawn], found[drawn]) + 1) / 2,
  )


def test_multilabel_f1_of_resamples():
  rng, _, _ = _data(0)
  gold, found = rng.integers(0, 2, (2, COUNT, 4))
  _agree(
    bootstrap.multilabel_f1_of([found], gold),
    lambda drawn: sklearn.f1_score(
      gold[drawn], found[drawn], average="macro", zero_division=0
    ),
  )


def test_the_interval_of_a_mean_is_the_textbooks():
  """Of many values it is 1.96 standard errors wide to both sides."""
  data = np.random.default_rng(0).normal(size=3000)
  drawn = bootstrap.distribution(bootstrap.mean_of(data), len(data), "a")
  low, high = bootstrap.interval(drawn)
  error = data.std() / np.sqrt(len(data))
  assert low == pytest.approx(data.mean() - 1.96 * error, abs=0.15 * error)
  assert high == pytest.approx(data.mean() + 1.96 * error, abs=0.15 * error)


def test_resamples_are_the_same_each_time_and_others_for_another_task():
  draw = lambda name, units: np.concatenate(
    list(bootstrap._counts(units, name))
  )
  first = draw("a", COUNT)
  assert first.shape == (bootstrap.RESAMPLES, COUNT)
  assert (first.sum(axis=1) == COUNT).all()
  assert (first == draw("a", COUNT)).all()
  assert (first != draw("b", COUNT)).any()
  draw("folder/\udcff", 2)  # a name that is no UTF-8, as paths may be


def test_resamples_of_many_units_are_drawn_in_parts(monkeypatch):
  monkeypatch.setattr(bootstrap, "_CHUNK", 7 * COUNT)
  monkeypatch.setattr(bootstrap, "_PIECE", 3 * COUNT)
  parts = list(bootstrap._counts(COUNT, "a"))
  assert {len(part) for part in parts} == {7, bootstrap.RESAMPLES % 7}
  data = np.arange(COUNT, dtype=float)
  found = bootstrap.distribution(bootstrap.mean_of(data), COUNT, "a")
  whole = np.concatenate(parts) @ data / COUNT
  np.testing.assert_allclose(found, whole)


def test_means_over_tasks_and_types():
  """Independent tasks: their mean is surer than each of them."""
  rng = np.random.default_rng(0)
  size = bootstrap.RESAMPLES
  drawn = {name: rng.normal(0.5, 0.1, size) for name in "abc"}
  types = dict(a="x", b="x", c="y", d="z")
  found = bootstrap.over_types(drawn, {"d": 0.3}, types)
  assert set(found["types"]) == {"x", "y"}
  width = lambda ends: ends[1] - ends[0]
  one = width(bootstrap.interval(drawn["c"]))
  assert width(found["types"]["y"]) == one
  assert width(found["types"]["x"]) == pytest.approx(one / 2**0.5, rel=0.1)
  assert width(found["mean_task"]) == pytest.approx(one * 3**0.5 / 4, rel=0.1)
  assert np.mean(found["mean_task"]) == pytest.approx(0.45, abs=0.01)
  assert np.mean(found["mean_type"]) == pytest.approx(1.3 / 3, abs=0.01)
  assert bootstrap.over_types({}, {"d": 0.3}, types) == {"types": {}}
