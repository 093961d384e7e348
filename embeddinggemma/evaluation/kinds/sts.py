"""Similarity of sentences: rows of {"sentence1", "sentence2", "score"}.

`gold` is the score of each (query, document).
"""

from pathlib import Path

import numpy as np

from embeddinggemma.data import jsonl
from embeddinggemma.evaluation import metrics
from embeddinggemma.evaluation.kinds import rows
from embeddinggemma.evaluation.kinds.task import EvalTask, Kind, named_in
from embeddinggemma.evaluation.scoring import bootstrap
from embeddinggemma.evaluation.scoring.scored import Scored
from embeddinggemma.types import BadInput

NAME = "sts"
SENTENCES = ("sentence1", "sentence2")


def _read(path: Path, name: str) -> list[EvalTask]:
  left, right, scores = [], [], []
  for origin, row in jsonl.read_rows(path, SENTENCES):
    left.append(row["sentence1"])
    right.append(row["sentence2"])
    scores.append(rows.number(origin, "score", row.get("score")))
  if len(set(scores)) < 2:
    raise BadInput(f"{path}: all scores are equal; nothing to correlate with")
  task, sides = named_in(path.parent, NAME), (tuple(left), tuple(right))
  return [EvalTask(name, NAME, task, *sides, gold=tuple(scores))]


def _score(task: EvalTask, left: np.ndarray, right: np.ndarray) -> Scored:
  cosines, gold = metrics.cosines(left, right), np.array(task.gold, float)
  values = {"spearman": metrics.correlation(cosines, task.gold)}
  resampled = {"spearman": bootstrap.spearman_of(cosines, gold)}
  return Scored(values, len(gold), resampled)


def _notes(task: EvalTask) -> list[str]:
  if len(task.gold) == 2:
    return ["two pairs: a correlation can only be -1, 0 or 1"]
  return []


KIND = Kind(
  lambda path, keys: rows.holds(keys, *SENTENCES, "score"),
  _read,
  _score,
  ("spearman",),
  called="STS",
  notes=_notes,
  rows="sentence1 and sentence2 (with score: STS, with label: pair"
  " classification, without: bitext)",
)
