"""Classification: labelled texts, beside others that a probe is fitted on.

Both are JSONL files. The documents train the probe; `gold` is (their labels,
the queries' labels).
"""

from collections.abc import Callable, Set
from pathlib import Path

from embeddinggemma.evaluation import metrics
from embeddinggemma.evaluation.kinds import clustering
from embeddinggemma.evaluation.kinds.task import EvalTask, Kind, named_in

NAME = "classification"
FITTED = ("train.jsonl", "labeled.jsonl")  # what a probe is fitted on


def _fitted_on(path: Path) -> Path | None:
  """The file beside a file of labels that the probe is fitted on, if any."""
  others = (path.parent / name for name in FITTED)
  train = next((other for other in others if other.is_file()), None)
  return None if train == path else train


def _recognises(path: Path, keys: Callable[[], Set[str]]) -> bool:
  if not clustering.labelled(path, keys) or _fitted_on(path) is None:
    return False
  return named_in(path.parent, NAME) != clustering.NAME


def _read(path: Path, name: str) -> list[EvalTask]:
  """The classification task, and clustering of the same texts."""
  train = _fitted_on(path)
  assert train, "a file of labels alone is clustering's"
  texts, labels = clustering.read_labels(path)
  train_texts, train_labels = clustering.read_labels(train)
  task = named_in(path.parent, NAME)
  gold = (train_labels, labels)
  return [
    EvalTask(name, NAME, task, texts, train_texts, (), gold),
    EvalTask(
      f"{name}/clustering",
      clustering.NAME,
      clustering.NAME,
      texts,
      gold=labels,
    ),
  ]


def _notes(task: EvalTask) -> list[str]:
  """Texts that the probe has seen, and labels that it has not."""
  fitted, asked = task.gold
  known, labels = set(task.documents), set(fitted)
  seen = sum(text in known for text in task.queries)
  unknown = sum(label not in labels for label in asked)
  whole = len(task.queries)
  found = []
  if seen:
    found.append(f"{seen} of {whole} texts are among those it is fitted on")
  if unknown:
    found.append(f"{unknown} of {whole} texts have a label that it never sees")
  return found


KIND = Kind(
  _recognises,
  _read,
  lambda task, left, right: metrics.probe(
    right, task.gold[0], left, task.gold[1]
  ),
  ("accuracy",),
  called="classification",
  notes=_notes,
  rows="text and label",
)
