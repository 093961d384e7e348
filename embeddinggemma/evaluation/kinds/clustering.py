"""Clustering: rows of {"text", "label"}; `gold` is the queries' labels."""

from collections.abc import Callable, Set
from pathlib import Path

from embeddinggemma.data import jsonl
from embeddinggemma.evaluation import metrics
from embeddinggemma.evaluation.kinds.task import EvalTask, Kind, named_in
from embeddinggemma.types import BadInput

NAME = "clustering"


def labelled(path: Path, keys: Callable[[], Set[str]]) -> bool:
  """Whether the rows of a file are texts and labels."""
  del path
  return {"text", "label"} <= keys()


def read_labels(path: Path) -> tuple[tuple[str, ...], tuple[str, ...]]:
  """Texts and labels of a JSONL file.

  Raises BadInput for a bad line, or if all texts have the same label.
  """
  texts, labels = [], []
  for origin, row in jsonl.read_rows(path, ("text",)):
    label = row.get("label")
    if isinstance(label, bool) or not isinstance(label, str | int):
      raise BadInput(f"{origin}: 'label' is neither text nor a whole number")
    try:
      labels.append(jsonl.checked("label", str(label)).strip())
    except ValueError as error:
      raise BadInput(f"{origin}: {error}") from None
    texts.append(row["text"])
  if len(set(labels)) < 2:
    raise BadInput(f"{path}: needs at least two different labels")
  return tuple(texts), tuple(labels)


def _read(path: Path, name: str) -> list[EvalTask]:
  texts, labels = read_labels(path)
  named_in(path.parent, NAME)  # a broken task.json is told, though not used
  return [EvalTask(name, NAME, NAME, texts, gold=labels)]


def _notes(task: EvalTask) -> list[str]:
  if len(set(task.gold)) == len(task.gold):
    return ["each text has a label of its own: V-measure is always 1"]
  return []


KIND = Kind(
  labelled,
  _read,
  lambda task, left, right: metrics.clusters(left, task.gold),
  ("v_measure",),
  notes=_notes,
)
