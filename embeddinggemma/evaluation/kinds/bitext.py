"""Bitext mining: JSONL rows of {"sentence1", "sentence2"}, without a score.

Document i is the translation of query i.
"""

from pathlib import Path

from embeddinggemma.data import jsonl
from embeddinggemma.evaluation import metrics
from embeddinggemma.evaluation.kinds.sts import SENTENCES
from embeddinggemma.evaluation.kinds.task import EvalTask, Kind, named_in

NAME = "bitext"


def _read(path: Path, name: str) -> list[EvalTask]:
  left, right = [], []
  for _, row in jsonl.read_rows(path, SENTENCES):
    left.append(row["sentence1"])
    right.append(row["sentence2"])
  task = named_in(path.parent, NAME)
  return [EvalTask(name, NAME, task, tuple(left), tuple(right))]


def _notes(task: EvalTask) -> list[str]:
  if len(set(task.documents)) == 1:
    return ["one translation: any model scores 1"]
  return []


KIND = Kind(
  lambda path, keys: {*SENTENCES} <= keys() and "score" not in keys(),
  _read,
  lambda task, left, right: metrics.bitext(left, right, task.documents),
  ("f1", "accuracy"),
  called="bitext",
  notes=_notes,
)
