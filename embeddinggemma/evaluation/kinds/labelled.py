"""Files of texts and labels, and those beside them that a probe is fitted on."""

from collections.abc import Callable, Set
from pathlib import Path

from embeddinggemma.data import jsonl
from embeddinggemma.evaluation.kinds import rows
from embeddinggemma.types import BadInput

FITTED = ("train.jsonl", "labeled.jsonl")  # what a probe is fitted on


def recognised(path: Path, keys: Callable[[], Set[str]]) -> bool:
  """Whether the rows of a file are texts and labels."""
  del path
  return rows.holds(keys, "text", "label")


def fitted_on(path: Path) -> Path | None:
  """The file beside a file of labels that the probe is fitted on, if any."""
  others = (path.parent / name for name in FITTED)
  train = next((other for other in others if other.is_file()), None)
  return None if train == path else train


def read(path: Path) -> tuple[tuple[str, ...], tuple[str, ...]]:
  """Texts and labels of a JSONL file.

  Raises BadInput for a bad line, or if all texts have the same label.
  """
  texts, labels = [], []
  for origin, row in jsonl.read_rows(path, ("text",)):
    labels.append(rows.label(origin, "label", row.get("label")))
    texts.append(row["text"])
  if len(set(labels)) < 2:
    raise BadInput(f"{path}: needs at least two different labels")
  return tuple(texts), tuple(labels)
