"""Confidence intervals of scores, by the bootstrap over a task's units.

Units are what a task is a sample of: queries, pairs or texts. A resample draws as
many of them with replacement, and the statistic is computed of it again: 95% of
1,000 such values lie in the interval (percentiles; Efron and Tibshirani 1993).
It says what another sample of units would change, and nothing of what another
training would. A resample is a row of counts, how often each unit was drawn,
which makes ranks and thresholds of all resamples sums along sorted units.

V-measure has no interval. It is no mean of units, and to fit k-means to every
resample costs more than the evaluation. With the clusters held fixed it grows in
resamples, where texts come twice, so that the interval may not hold the score.
"""

import functools
import zlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np
from jaxtyping import Float, Int, Shaped

RESAMPLES = 1000
LEVEL = 95  # per cent of the resamples within an interval
SEED = 20509
_CHUNK = 2**21  # counts that are held at a time
_PIECE = 2**16  # of which a statistic is computed at a time, within the cache

Counts = Float[np.ndarray, "R n"]  # how often each unit is in each resample
Resampled = Callable[[np.ndarray], np.ndarray]  # Counts -> the statistic (R,)


def distribution(
  statistic: Resampled, units: int, name: str
) -> Float[np.ndarray, "R"]:
  """The statistic of every resample.

  Args:
    statistic: counts (r, n) -> values (r,).
    units: n.
    name: of the task; other tasks are drawn independently, and all statistics
      of one task from the same resamples.
  """
  rows = max(1, _PIECE // units)
  return np.concatenate(
    [
      statistic(counts[start : start + rows])
      for counts in _counts(units, name)
      for start in range(0, len(counts), rows)
    ]
  )


def _counts(units: int, name: str) -> Iterator[Counts]:
  """The resamples of a task, as many at a time as _CHUNK allows."""
  if RESAMPLES * units <= _CHUNK:
    yield _small(units, name)
    return
  rng, rows = _generator(name), max(1, _CHUNK // units)
  for start in range(0, RESAMPLES, rows):
    yield _drawn(rng, min(rows, RESAMPLES - start), units)


@functools.lru_cache(maxsize=1)
def _small(units: int, name: str) -> Counts:
  """All resamples; kept, since each dimension of a task asks for them."""
  return _drawn(_generator(name), RESAMPLES, units)


def _generator(name: str) -> np.random.Generator:
  return np.random.default_rng(
    [SEED, zlib.crc32(name.encode("utf-8", "surrogateescape"))]
  )


def _drawn(rng: np.random.Generator, rows: int, units: int) -> Counts:
  places = rng.integers(units, size=(rows, units), dtype=np.int64)
  places += units * np.arange(rows)[:, None]
  counts = np.bincount(places.ravel(), minlength=rows * units)
  return counts.reshape(rows, units).astype(np.float64)


def interval(values: Float[np.ndarray, "R"]) -> list[float]:
  """The lower and the upper end of what LEVEL per cent of the values are in."""
  outside = (100 - LEVEL) / 2
  return [float(x) for x in np.percentile(values, [outside, 100 - outside])]


def mean_of(values: Shaped[np.ndarray, "n"]) -> Resampled:
  """The mean of one value, or of whether something is so, for each unit."""
  numbers = np.asarray(values, np.float64)
  return lambda counts: counts @ numbers / len(numbers)


def spearman_of(
  first: Float[np.ndarray, "n"], second: Float[np.ndarray, "n"]
) -> Resampled:
  """Spearman's correlation, of equal values the mean rank; 0 if all are equal."""
  left, right = _ranker(first), _ranker(second)

  def statistic(counts: Counts) -> Float[np.ndarray, "R"]:
    total = counts.sum(axis=1, keepdims=True)
    a, b = (rank(counts) - (total + 1) / 2 for rank in (left, right))
    of = lambda x, y: np.sum(counts * x * y, axis=1)
    size = np.sqrt(of(a, a) * of(b, b))
    return np.divide(of(a, b), size, out=np.zeros(len(a)), where=size > 0)

  return statistic


def _ranker(values: Float[np.ndarray, "n"]) -> Resampled:
  """Counts -> the rank of each unit in each resample (R, n), from 1."""
  order = np.argsort(values, kind="stable")
  placed = values[order]
  groups = np.cumsum(np.r_[True, placed[1:] != placed[:-1]]) - 1
  starts = np.flatnonzero(np.r_[True, placed[1:] != placed[:-1]])

  def ranks(counts: Counts) -> Float[np.ndarray, "R n"]:
    sizes = np.add.reduceat(counts[:, order], starts, axis=1)
    middle = np.cumsum(sizes, axis=1) - (sizes - 1) / 2
    found = np.empty_like(counts)
    found[:, order] = middle[:, groups]
    return found

  return ranks


def average_precision_of(
  orders: Sequence[Float[np.ndarray, "n"]], labels: Int[np.ndarray, "n"]
) -> Resampled:
  """The best average precision of several scores; 0 without a positive.

  Args:
    orders: scores of the pairs, higher for what is more alike.
    labels: 1 for a positive pair, 0 for another.
  """
  each = [_average_precision(scores, labels) for scores in orders]
  return lambda counts: np.max([of(counts) for of in each], axis=0)


def _average_precision(
  scores: Float[np.ndarray, "n"], labels: Int[np.ndarray, "n"]
) -> Resampled:
  curve = _threshold_sums(scores, labels)

  def statistic(counts: Counts) -> Float[np.ndarray, "R"]:
    found, taken = curve(counts)
    gained = np.diff(found, axis=1, prepend=0)
    precision = np.divide(
      found, taken, out=np.zeros_like(found), where=taken > 0
    )
    return _ratio((gained * precision).sum(axis=1), found[:, -1])

  return statistic


def accuracy_of(
  orders: Sequence[Float[np.ndarray, "n"]], labels: Int[np.ndarray, "n"]
) -> Resampled:
  """The best accuracy of several scores, each at its best threshold."""
  curves = [_threshold_sums(scores, labels) for scores in orders]

  def statistic(counts: Counts) -> Float[np.ndarray, "R"]:
    negatives = counts @ (labels == 0).astype(np.float64)
    best = np.zeros(len(counts))
    for curve in curves:
      found, taken = curve(counts)
      right = 2 * found - taken + negatives[:, None]
      parts = _parts(taken, counts)
      right = np.where(parts, right, 0).max(axis=1)
      best = np.maximum(best, right / counts.sum(axis=1))
    return best

  return statistic


def best_f1_of(
  orders: Sequence[Float[np.ndarray, "n"]], labels: Int[np.ndarray, "n"]
) -> Resampled:
  """The best F1 of several scores, each at its best threshold."""
  curves = [_threshold_sums(scores, labels) for scores in orders]

  def statistic(counts: Counts) -> Float[np.ndarray, "R"]:
    positives = counts @ (labels == 1).astype(np.float64)
    best = np.zeros(len(counts))
    for curve in curves:
      found, taken = curve(counts)
      parts = _parts(taken, counts)
      below = np.maximum(taken + positives[:, None], 1)
      f1 = np.where(parts, 2 * found / below, 0)
      best = np.maximum(best, f1.max(axis=1))
    return best

  return statistic


def _parts(taken: Float[np.ndarray, "R t"], counts: Counts) -> np.ndarray:
  """Which thresholds part a resample, by how many units are above each.

  As in mteb, one above or below all units is none.
  """
  return (taken > 0) & (taken < counts.sum(axis=1, keepdims=True))


def _threshold_sums(
  scores: Float[np.ndarray, "n"], labels: Int[np.ndarray, "n"]
) -> Callable[[np.ndarray], tuple[np.ndarray, np.ndarray]]:
  """Counts -> positives and units from the highest score to each threshold.

  Thresholds are the distinct scores, the highest first.
  """
  order = np.argsort(-scores, kind="stable")
  placed = scores[order]
  ends = np.flatnonzero(np.r_[placed[1:] != placed[:-1], True])
  positive = labels[order] == 1

  def sums(counts: Counts) -> tuple[np.ndarray, np.ndarray]:
    drawn = counts[:, order]
    found = np.cumsum(drawn * positive, axis=1)[:, ends]
    return found, np.cumsum(drawn, axis=1)[:, ends]

  return sums


def f1_of(
  found: Sequence[Int[np.ndarray, "n"]],
  gold: Int[np.ndarray, "n"],
  weighted: bool,
) -> Resampled:
  """The mean of several experiments' F1 over classes, as scikit-learn has it.

  Args:
    found: the class of each unit, in each experiment.
    gold: the right classes; all are whole numbers from 0.
    weighted: by how often a class is right, or else the plain mean over the
      classes that are right or found.
  """
  count = 1 + int(max(gold.max(), *(classes.max() for classes in found)))

  def statistic(counts: Counts) -> Float[np.ndarray, "R"]:
    support = _by_class(counts, gold, count)
    total = np.zeros(len(counts))
    for classes in found:
      right = _by_class(counts * (classes == gold), gold, count)
      below = support + _by_class(counts, classes, count)
      f1 = np.divide(
        2 * right, below, out=np.zeros_like(right), where=below > 0
      )
      weights = support if weighted else (below > 0).astype(np.float64)
      total += _ratio((weights * f1).sum(axis=1), weights.sum(axis=1))
    return total / len(found)

  return statistic


def multilabel_f1_of(
  found: Sequence[Int[np.ndarray, "n L"]], gold: Int[np.ndarray, "n L"]
) -> Resampled:
  """The mean of several experiments' F1 over labels, of which units have many.

  A label that is neither right nor found counts as 0, as in scikit-learn.
  """

  def statistic(counts: Counts) -> Float[np.ndarray, "R"]:
    total = np.zeros(len(counts))
    for labels in found:
      right = counts @ (labels * gold).astype(np.float64)
      below = counts @ (labels + gold).astype(np.float64)
      f1 = np.divide(
        2 * right, below, out=np.zeros_like(right), where=below > 0
      )
      total += f1.mean(axis=1)
    return total / len(found)

  return statistic


def _by_class(
  counts: Counts, classes: Int[np.ndarray, "n"], count: int
) -> Float[np.ndarray, "R C"]:
  """How many units of each class are in each resample."""
  from scipy import sparse

  units = len(classes)
  places = np.arange(units), classes
  member = sparse.csr_array((np.ones(units), places), shape=(units, count))
  return np.asarray(counts @ member)


def _ratio(
  above: Float[np.ndarray, "R"], below: Float[np.ndarray, "R"]
) -> Float[np.ndarray, "R"]:
  """above / below, 0 where that is 0 / 0."""
  return np.divide(above, below, out=np.zeros_like(above), where=below > 0)


def over_types(
  drawn: Mapping[str, Float[np.ndarray, "R"]],
  fixed: Mapping[str, float],
  types: Mapping[str, str],
) -> dict[str, Any]:
  """Intervals of the means over tasks, over each type's and over types.

  Args:
    drawn: task -> its score in every resample.
    fixed: task -> its score, for those whose statistic is not resampled; they
      are taken to be without error.
    types: task -> its type.

  Returns {"mean_task": interval, "mean_type": interval, "types": {type:
  interval}}, without what no drawn task is in.
  """
  rows = {**{n: np.full(RESAMPLES, x) for n, x in fixed.items()}, **drawn}
  if not drawn:
    return {"types": {}}
  by_type: dict[str, list[np.ndarray]] = {}
  for name, row in rows.items():
    by_type.setdefault(types[name], []).append(row)
  means = {kind: np.mean(own, axis=0) for kind, own in by_type.items()}
  moving = {types[name] for name in drawn}
  return {
    "mean_task": interval(np.mean(list(rows.values()), axis=0)),
    "mean_type": interval(np.mean(list(means.values()), axis=0)),
    "types": {k: interval(means[k]) for k in means if k in moving},
  }
