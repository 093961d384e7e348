"""Clustering, in two formats and so two protocols.

Rows of {"text", "label"} are clustered at once by k-means, `gold` is the queries'
labels. Rows of {"sentences", "labels"} are mteb's: of one text each, whose
label may be a list from coarse to fine (`gold` is these lists), or of a whole set
of texts each, as in its older version (`gold` is the labels of each set). mteb draws
16,384 texts ten times, however few there are, which takes seconds where k-means
on all texts takes milliseconds; a setting of mteb's in task.json asks for it.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from embeddinggemma.data import jsonl
from embeddinggemma.evaluation import metrics
from embeddinggemma.evaluation.kinds import about, labelled, rows
from embeddinggemma.evaluation.kinds.task import EvalTask, Kind, named_in
from embeddinggemma.evaluation.scoring import clusters
from embeddinggemma.evaluation.scoring.scored import Scored
from embeddinggemma.types import BadInput

NAME = "clustering"
# mteb's; its own class embeds .04 of the texts, which its tasks mostly change.
SETTINGS: Mapping[str, Any] = {
  "n_clusters": 10,
  "max_documents_per_cluster": 16_384,
  "k_mean_batch_size": 512,
  "seed": 42,
  "max_depth": None,
  "max_document_to_embed": None,
  "max_fraction_of_documents_to_embed": None,
}
# How a task is scored, under "method" in its protocol.
ONCE, SAMPLED, SETS = "k-means", "samples", "sets"


def of_labels(
  name: str,
  path: Path,
  texts: tuple[str, ...],
  labels: tuple[str, ...],
  also: Mapping[str, Any],
) -> EvalTask:
  """Clustering of texts with a label each; `also` are others' settings."""
  own = set(SETTINGS) - set(also)
  if own & about.read(path.parent).keys():
    levels = tuple((label,) for label in labels)
    return _sampled(name, path.parent, NAME, texts, levels, also)
  about.settings_in(path.parent, also, tuple(SETTINGS))
  return EvalTask(name, NAME, NAME, texts, gold=labels)


def _read(path: Path, name: str) -> list[EvalTask]:
  if "sentences" not in rows.first(path):
    texts, labels = labelled.read(path)
    named_in(path.parent, NAME)  # a broken one is told, though not used
    return [of_labels(name, path, texts, labels, {})]
  task = named_in(path.parent, NAME)
  if isinstance(rows.first(path)["sentences"], list):
    return [_sets(name, path, task)]
  texts, levels = [], []
  for origin, row in jsonl.read_rows(path, ("sentences",)):
    values = row.get("labels")
    given = values if isinstance(values, list) else [values]
    if not given:
      raise BadInput(f"{origin}: 'labels' is empty")
    levels.append(tuple(_label(origin, value) for value in given))
    texts.append(row["sentences"])
  if len({own[0] for own in levels}) < 2:
    raise BadInput(f"{path}: needs at least two different labels")
  found = tuple(texts), tuple(levels)
  return [_sampled(name, path.parent, task, *found, {})]


def _label(origin: str, value: object) -> str | int:
  """A label as it is, which keeps numbers apart from texts, as mteb does."""
  rows.label(origin, "labels", value)
  assert isinstance(value, str | int)
  return value


def _sampled(
  name: str,
  folder: Path,
  task: str,
  texts: tuple[str, ...],
  levels: tuple[tuple[str | int, ...], ...],
  also: Mapping[str, Any],
) -> EvalTask:
  """The task by mteb's protocol, of the texts that it embeds."""
  settings = about.settings_in(folder, SETTINGS, tuple(also))
  limits = [key for key in settings if key.endswith("_to_embed")]
  if len(limits) == 2:
    raise BadInput(f"{folder / about.FILE}: give one of {' and '.join(limits)}")
  places = clusters.embedded(len(texts), settings)
  protocol = {"method": SAMPLED, **settings}
  if places is not None:
    protocol["of"] = len(texts)
    texts = tuple(texts[place] for place in places)
    levels = tuple(levels[place] for place in places)
  if limits and len({own[0] for own in levels}) < 2:
    raise BadInput(
      f"{folder / about.FILE}: with {limits[0]}, {name} has {len(texts)} texts and"
      " fewer than two labels; embed more"
    )
  return EvalTask(name, NAME, task, texts, gold=levels, protocol=protocol)


def _sets(name: str, path: Path, task: str) -> EvalTask:
  """The task of sets of texts, by mteb's older protocol."""
  texts: list[str] = []
  labels = []
  for origin, row in jsonl.read_rows(path, ()):
    own = rows.texts(origin, row, "sentences", 1)
    given = row.get("labels")
    if not isinstance(given, list) or len(given) != len(own):
      raise BadInput(f"{origin}: 'labels' is no list with a label a sentence")
    labels.append(tuple(_label(origin, value) for value in given))
    texts += own
  if all(len(set(own)) == 1 for own in labels):
    raise BadInput(f"{path}: no set has two different labels")
  settings = about.settings_in(path.parent, {"seed": SETTINGS["seed"]})
  protocol = {"method": SETS, **settings}
  return EvalTask(
    name, NAME, task, tuple(texts), gold=tuple(labels), protocol=protocol
  )


def _score(
  task: EvalTask, left: np.ndarray, right: np.ndarray
) -> dict[str, float] | Scored:
  del right
  settings = task.protocol
  method = settings.get("method", ONCE)
  if method == SAMPLED:
    return clusters.sampled(left, task.gold, settings, settings.get("of"))
  if method == SETS:
    return clusters.sets(left, task.gold, settings["seed"])
  return metrics.clusters(left, task.gold)


def _notes(task: EvalTask) -> list[str]:
  method = task.protocol.get("method", ONCE)
  if method == SETS:
    single = sum(len(set(own)) == 1 for own in task.gold)
    if single:
      return [
        f"{single} of {len(task.gold)} sets have one label and count as 1"
      ]
    return []
  if method == ONCE and len(set(task.gold)) == len(task.gold):
    return ["each text has a label of its own: V-measure is always 1"]
  return []


KIND = Kind(
  lambda path, keys: (
    labelled.recognised(path, keys) or rows.holds(keys, "sentences", "labels")
  ),
  _read,
  _score,
  ("v_measure",),
  notes=_notes,
  rows="sentences and labels (clustering)",
)
