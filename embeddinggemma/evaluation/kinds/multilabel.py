"""Multilabel classification: as classification, each "label" a list of labels.

The probe is the nearest labelled texts, as in mteb, and 3,000 texts of a larger
file are scored, chosen so that labels stay as frequent as in all.
"""

from collections.abc import Callable, Set
from pathlib import Path

import numpy as np

from embeddinggemma.data import jsonl
from embeddinggemma.evaluation import metrics
from embeddinggemma.evaluation.kinds import (
  about,
  classification,
  labelled,
  rows,
)
from embeddinggemma.evaluation.kinds.task import EvalTask, Kind, named_in
from embeddinggemma.evaluation.scoring import probes, strata
from embeddinggemma.evaluation.scoring.scored import Scored
from embeddinggemma.types import BadInput

NAME = "multilabel classification"
PROMPT = "MultilabelClassification"  # published
MOST = "max_eval_samples"  # the setting of how many texts are scored, at most
SETTINGS = {**classification.SETTINGS, MOST: 3000}

Labels = tuple[tuple[str, ...], ...]


def _recognises(path: Path, keys: Callable[[], Set[str]]) -> bool:
  if not labelled.recognised(path, keys):
    return False
  return isinstance(rows.first(path)["label"], list)


def _read(path: Path, name: str) -> list[EvalTask]:
  train = labelled.fitted_on(path)
  if train is None:
    raise BadInput(
      f"{path}: each label is a list, and there is no {labelled.FITTED[0]} beside"
      " it, on which to fit a probe"
    )
  texts, labels = _labels(path)
  known, known_labels = _labels(train)
  settings = about.settings_in(path.parent, SETTINGS)
  most = settings[MOST]
  if most != about.ALL and most < len(texts):
    places = strata.part(_numbers(labels), most, settings["seed"])
    texts = tuple(texts[place] for place in places)
    labels = tuple(labels[place] for place in places)
  drawn = classification.draws(
    known_labels, settings, probes.multilabel_samples
  )
  fewest = min(map(len, drawn or [known]))
  if fewest < probes.NEIGHBOURS:
    raise BadInput(
      f"{train}: the probe is fitted on {fewest} texts, and looks at the nearest"
      f" {probes.NEIGHBOURS}; give more"
    )
  used, gold = classification.sampled(known_labels, drawn)
  return [
    EvalTask(
      name,
      NAME,
      named_in(path.parent, PROMPT),
      texts,
      tuple(known[place] for place in used),
      gold=(gold[0], labels, *gold[1:]),
      protocol=settings,
    )
  ]


def _labels(path: Path) -> tuple[tuple[str, ...], Labels]:
  """Texts and labels; a text may have none. BadInput names a bad line."""
  texts, labels = [], []
  for origin, row in jsonl.read_rows(path, ("text",)):
    values = row.get("label")
    if not isinstance(values, list):
      raise BadInput(f"{origin}: 'label' is not a list, as in the first line")
    labels.append(tuple(rows.label(origin, "label", x) for x in values))
    texts.append(row["text"])
  if len({label for own in labels for label in own}) < 2:
    raise BadInput(f"{path}: needs at least two different labels")
  return tuple(texts), tuple(labels)


def _numbers(labels: Labels) -> list[list[int]]:
  """The labels of each text as numbers in rising order."""
  rows = metrics.numbered(*labels)
  return [sorted(set(row.tolist())) for row in rows]


def _score(task: EvalTask, left: np.ndarray, right: np.ndarray) -> Scored:
  known, asked, drawn = classification.experiments(task)
  return probes.multilabel(right, known, left, asked, drawn)


def _notes(task: EvalTask) -> list[str]:
  fitted, asked, _ = classification.experiments(task)
  labels = {label for own in fitted for label in own}
  unknown = sum(not labels.issuperset(own) for own in asked)
  return classification.notes_of(task, unknown)


KIND = Kind(
  _recognises,
  _read,
  _score,
  ("accuracy", "lrap", "f1", "hamming"),
  called="multilabel classification",
  notes=_notes,
)
