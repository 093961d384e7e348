"""Pair classification: rows of {"sentence1", "sentence2", "label"}.

A label is 1 for two texts that are alike in the task's sense, as paraphrases are,
and else 0; mteb calls the field "labels". `gold` is the label of each (query,
document).
"""

from collections.abc import Callable, Set
from pathlib import Path

import numpy as np
from jaxtyping import Float, Int

from embeddinggemma.data import jsonl
from embeddinggemma.evaluation import metrics
from embeddinggemma.evaluation.kinds import rows
from embeddinggemma.evaluation.kinds.sts import SENTENCES
from embeddinggemma.evaluation.kinds.task import EvalTask, Kind, named_in
from embeddinggemma.evaluation.scoring import bootstrap
from embeddinggemma.evaluation.scoring.scored import Scored
from embeddinggemma.types import BadInput

NAME = "pair classification"
PROMPT = "PairClassification"  # published, of both sides
FIELDS = ("label", "labels")


def _recognises(path: Path, keys: Callable[[], Set[str]]) -> bool:
  del path
  named = any(field in keys() for field in FIELDS)
  return named and rows.holds(keys, *SENTENCES) and "score" not in keys()


def _read(path: Path, name: str) -> list[EvalTask]:
  left, right, labels = [], [], []
  for origin, row in jsonl.read_rows(path, SENTENCES):
    left.append(row["sentence1"])
    right.append(row["sentence2"])
    field = next((name for name in FIELDS if name in row), FIELDS[0])
    if row.get(field) not in (0, 1):
      raise BadInput(
        f"{origin}: {field!r} is neither 1, of texts that are alike, nor 0"
      )
    labels.append(int(row[field]))
  if len(set(labels)) < 2:
    raise BadInput(f"{path}: needs pairs of label 0 and pairs of label 1")
  task, sides = named_in(path.parent, PROMPT), (tuple(left), tuple(right))
  return [EvalTask(name, NAME, task, *sides, gold=tuple(labels))]


def _score(task: EvalTask, left: np.ndarray, right: np.ndarray) -> Scored:
  labels, orders = np.array(task.gold), _likenesses(left, right)
  best: dict[str, float] = {}
  for name, scores in orders.items():
    found = _measured(scores, labels)
    for metric, value in found.items():
      best[f"max_{metric}"] = max(best.get(f"max_{metric}", 0.0), value)
      if name == "cosine":
        best[f"cosine_{metric}"] = value
  of = {
    "ap": bootstrap.average_precision_of,
    "accuracy": bootstrap.accuracy_of,
    "f1": bootstrap.best_f1_of,
  }
  resampled = {}
  for metric, statistic in of.items():
    resampled[f"max_{metric}"] = statistic(list(orders.values()), labels)
    resampled[f"cosine_{metric}"] = statistic([orders["cosine"]], labels)
  return Scored(metrics.finite(best), len(labels), resampled)


def _likenesses(
  left: Float[np.ndarray, "n M"], right: Float[np.ndarray, "n M"]
) -> dict[str, Float[np.ndarray, "n"]]:
  """What mteb takes the best of; higher for what is more alike.

  Of unit vectors all but the sum of absolute differences give one order.
  """
  from sklearn.metrics import pairwise

  return {
    "cosine": metrics.cosines(left, right),
    "manhattan": -pairwise.paired_manhattan_distances(left, right),
    "euclidean": -pairwise.paired_euclidean_distances(left, right),
    "dot": np.vecdot(left, right),
  }


def _measured(
  scores: Float[np.ndarray, "n"], labels: Int[np.ndarray, "n"]
) -> dict[str, float]:
  """Average precision, and accuracy and F1 at the best threshold.

  A threshold lies between two different scores; where all are equal, accuracy
  and F1 are 0.
  """
  from sklearn import metrics as sklearn

  order = np.argsort(-scores, kind="stable")
  parts = np.diff(scores[order]) != 0
  found = np.cumsum(labels[order])[:-1][parts]
  taken = np.arange(1, len(labels))[parts]
  positives = labels.sum()
  right = 2 * found - taken + len(labels) - positives
  f1 = 2 * found / (taken + positives)
  return {
    "ap": float(sklearn.average_precision_score(labels, scores)),
    "accuracy": float(np.max(right, initial=0) / len(labels)),
    "f1": float(np.max(f1, initial=0)),
  }


KIND = Kind(
  _recognises,
  _read,
  _score,
  (
    *("max_ap", "max_accuracy", "max_f1"),
    *("cosine_ap", "cosine_accuracy", "cosine_f1"),
  ),
  called="pair classification",
)
