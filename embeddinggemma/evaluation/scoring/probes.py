"""Probes of labels: fitted on several samples of the labelled texts, as in mteb.

A probe is fitted on a few texts of each label, and the score is the mean over
several such samples. The draws are mteb's to the bit (its classes
AbsTaskClassification and AbsTaskMultilabelClassification, version 2.26), so that
equal vectors get equal scores.
"""

import collections
from collections.abc import Sequence

import numpy as np
from jaxtyping import Float, Int

from embeddinggemma.evaluation import metrics
from embeddinggemma.evaluation.scoring import bootstrap
from embeddinggemma.evaluation.scoring.scored import Scored

NEIGHBOURS = 5  # of the probe of several labels


def samples(
  labels: Sequence[str], per_label: int, experiments: int, seed: int
) -> list[list[int]]:
  """For each experiment the texts that the probe is fitted on, in their order.

  A shuffle of the last experiment's order, always by the same seed; then the
  first `per_label` texts of each label.
  """
  order, found = list(range(len(labels))), []
  for _ in range(experiments):
    np.random.RandomState(seed).shuffle(order)
    taken: dict[str, int] = collections.defaultdict(int)
    chosen = []
    for place in order:
      if taken[labels[place]] < per_label:
        chosen.append(place)
        taken[labels[place]] += 1
    found.append(chosen)
  return found


def multilabel_samples(
  labels: Sequence[Sequence[str]], per_label: int, experiments: int, seed: int
) -> list[list[int]]:
  """The same where a text has several labels: it is taken for any that lacks."""
  rng = np.random.default_rng(seed)
  found = []
  for _ in range(experiments):
    order = list(range(len(labels)))
    rng.shuffle(order)
    taken: dict[str, int] = collections.defaultdict(int)
    chosen = []
    for place in order:
      if any(taken[label] < per_label for label in labels[place]):
        chosen.append(place)
        for label in labels[place]:
          taken[label] += 1
    found.append(chosen)
  return found


def classification(
  train: Float[np.ndarray, "n M"],
  train_labels: Sequence[str],
  test: Float[np.ndarray, "m M"],
  test_labels: Sequence[str],
  drawn: Sequence[Sequence[int]],
) -> Scored:
  """Accuracy, macro F1 and weighted F1: means over logistic regressions.

  Args:
    train: vectors of labelled texts.
    train_labels: their labels.
    test: vectors of the texts to be labelled.
    test_labels: their right labels.
    drawn: rows of `train` for each experiment.
  """
  from sklearn import metrics as sklearn

  metrics.require_directions(train, test)
  known, gold = metrics.numbered(train_labels, test_labels)
  found = [
    metrics.predicted(train[list(rows)], known[list(rows)], test)
    for rows in drawn
  ]
  f1 = lambda average: np.mean(
    [
      sklearn.f1_score(gold, labels, average=average, zero_division=0)
      for labels in found
    ]
  )
  right = np.mean([labels == gold for labels in found], axis=0)
  values = {"accuracy": np.mean(right), "f1": f1("macro")}
  resampled = {
    "accuracy": bootstrap.mean_of(right),
    "f1": bootstrap.f1_of(found, gold, weighted=False),
    "f1_weighted": bootstrap.f1_of(found, gold, weighted=True),
  }
  values["f1_weighted"] = f1("weighted")
  return Scored(metrics.finite(values), len(gold), resampled)


def multilabel(
  train: Float[np.ndarray, "n M"],
  train_labels: Sequence[Sequence[str]],
  test: Float[np.ndarray, "m M"],
  test_labels: Sequence[Sequence[str]],
  drawn: Sequence[Sequence[int]],
) -> Scored:
  """The same for several labels a text, by the five nearest labelled texts.

  Accuracy (all labels of a text), label ranking average precision, macro F1 and
  the Hamming score, which is the share of the labels found or right that are
  both. Labels that no test text has count for nothing.
  """
  from sklearn import metrics as sklearn

  metrics.require_directions(train, test)
  names = sorted({label for own in test_labels for label in own})
  known, gold = (
    _indicators(train_labels, names),
    _indicators(test_labels, names),
  )
  found = [
    _neighbours(train[list(rows)], known[list(rows)], test) for rows in drawn
  ]
  exact = np.mean([(labels == gold).all(axis=1) for labels in found], axis=0)
  lrap = np.mean([_ranking_precision(gold, labels) for labels in found], axis=0)
  alike = np.mean([_alike(gold, labels) for labels in found], axis=0)
  f1 = [
    sklearn.f1_score(gold, labels, average="macro", zero_division=0)
    for labels in found
  ]
  values = {
    "accuracy": np.mean(exact),
    "lrap": np.mean(lrap),
    "f1": np.mean(f1),
    "hamming": np.mean(alike),
  }
  resampled = {
    "accuracy": bootstrap.mean_of(exact),
    "lrap": bootstrap.mean_of(lrap),
    "f1": bootstrap.multilabel_f1_of(found, gold),
    "hamming": bootstrap.mean_of(alike),
  }
  return Scored(metrics.finite(values), len(gold), resampled)


def _indicators(
  labels: Sequence[Sequence[str]], names: Sequence[str]
) -> Int[np.ndarray, "n L"]:
  """Whether each text has each of the named labels, as 0 and 1."""
  places = {name: place for place, name in enumerate(names)}
  found = np.zeros((len(labels), len(names)), np.int64)
  for row, own in zip(found, labels, strict=True):
    row[[places[label] for label in own if label in places]] = 1
  return found


def _neighbours(
  train: Float[np.ndarray, "n M"],
  labels: Int[np.ndarray, "n L"],
  test: Float[np.ndarray, "m M"],
) -> Int[np.ndarray, "m L"]:
  """The labels that most of the nearest labelled texts have."""
  from sklearn import neighbors

  model = neighbors.KNeighborsClassifier(n_neighbors=NEIGHBOURS)
  model.fit(train, labels)
  return np.asarray(model.predict(test)).reshape(len(test), labels.shape[1])


def _ranking_precision(
  gold: Int[np.ndarray, "m L"], found: Int[np.ndarray, "m L"]
) -> Float[np.ndarray, "m"]:
  """Label ranking average precision of each text.

  The labels found are 0 or 1, so there are two ranks: a right label that is found
  has as precision the share of right ones among those found, another that among
  all labels. A text with no right label, or with all of them, counts as 1.
  """
  right, count = gold.sum(axis=1), gold.shape[1]
  both, taken = (gold * found).sum(axis=1), found.sum(axis=1)
  early = both * both / np.maximum(taken, 1)
  late = (right - both) * right / count
  mean = (early + late) / np.maximum(right, 1)
  return np.where((right == 0) | (right == count), 1.0, mean)


def _alike(
  gold: Int[np.ndarray, "m L"], found: Int[np.ndarray, "m L"]
) -> Float[np.ndarray, "m"]:
  """Labels both right and found, of those that are either; 1 if there are none."""
  both, either = (gold & found).sum(axis=1), (gold | found).sum(axis=1)
  return np.where(either == 0, 1.0, both / np.maximum(either, 1))
