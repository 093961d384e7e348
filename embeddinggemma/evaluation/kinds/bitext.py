"""Bitext mining: JSONL rows of {"sentence1", "sentence2"}, without a score.

Document i is the translation of query i, and of it alone, as in mteb. With
`"equal_translations_are_one": true` in task.json any equal text is right, too.
"""

from pathlib import Path

import numpy as np

from embeddinggemma.data import jsonl
from embeddinggemma.evaluation import metrics
from embeddinggemma.evaluation.kinds import about, rows
from embeddinggemma.evaluation.kinds.sts import SENTENCES
from embeddinggemma.evaluation.kinds.task import EvalTask, Kind, named_in
from embeddinggemma.evaluation.scoring import bootstrap
from embeddinggemma.evaluation.scoring.scored import Scored

NAME = "bitext"
PROMPT = "BitextMining"  # published, of both sides
_MERGED = "equal_translations_are_one"


def _read(path: Path, name: str) -> list[EvalTask]:
  left, right = [], []
  for _, row in jsonl.read_rows(path, SENTENCES):
    left.append(row["sentence1"])
    right.append(row["sentence2"])
  task = named_in(path.parent, PROMPT)
  settings = about.settings_in(path.parent, {_MERGED: False})
  sides = tuple(left), tuple(right)
  return [EvalTask(name, NAME, task, *sides, protocol=settings)]


def _score(task: EvalTask, left: np.ndarray, right: np.ndarray) -> Scored:
  merged = task.protocol.get(_MERGED, False)
  answers = task.documents if merged else range(len(task.documents))
  found, gold = metrics.nearest(left, right, answers)
  resampled = {
    "f1": bootstrap.f1_of([found], gold, weighted=True),
    "accuracy": bootstrap.mean_of(found == gold),
  }
  return Scored(metrics.bitext_of(found, gold), len(gold), resampled)


def _notes(task: EvalTask) -> list[str]:
  if len(set(task.documents)) == 1:
    if task.protocol.get(_MERGED, False):
      return ["one translation: any model scores 1"]
    return ["one translation: any model finds one of them"]
  again = len(task.documents) - len(set(task.documents))
  if again and not task.protocol.get(_MERGED, False):
    return [
      f"{again} of {len(task.documents)} translations equal an earlier one, and"
      " only that of the line itself is right, as in mteb"
    ]
  return []


KIND = Kind(
  lambda path, keys: rows.holds(keys, *SENTENCES) and "score" not in keys(),
  _read,
  _score,
  ("f1", "accuracy"),
  called="bitext",
  notes=_notes,
)
