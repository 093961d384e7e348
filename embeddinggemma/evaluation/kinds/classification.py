"""Classification: labelled texts, beside others that a probe is fitted on.

Both are JSONL files. The documents train the probe; `gold` is (their labels, the
queries' labels), and with samples of the documents also (documents of each
experiment): as in mteb the probe is fitted on a few texts of each label, several
times. `"samples_per_label": "all"` in task.json fits it once, on all of them.
"""

from collections.abc import Callable, Set
from pathlib import Path
from typing import Any

import numpy as np

from embeddinggemma.evaluation.kinds import about, clustering, labelled
from embeddinggemma.evaluation.kinds.task import EvalTask, Kind, named_in
from embeddinggemma.evaluation.scoring import probes
from embeddinggemma.evaluation.scoring.scored import Scored

NAME = "classification"
SETTINGS = {"samples_per_label": 8, "n_experiments": 10, "seed": 42}


def _recognises(path: Path, keys: Callable[[], Set[str]]) -> bool:
  if not labelled.recognised(path, keys) or labelled.fitted_on(path) is None:
    return False
  return named_in(path.parent, NAME) != clustering.NAME


def _read(path: Path, name: str) -> list[EvalTask]:
  """The classification task, and clustering of the same texts."""
  train = labelled.fitted_on(path)
  assert train, "a file of labels alone is clustering's"
  texts, labels = labelled.read(path)
  known, known_labels = labelled.read(train)
  task = named_in(path.parent, NAME)
  settings = about.settings_in(
    path.parent, SETTINGS, tuple(clustering.SETTINGS)
  )
  drawn = draws(known_labels, settings, probes.samples)
  used, gold = sampled(known_labels, drawn)
  return [
    EvalTask(
      name,
      NAME,
      task,
      texts,
      tuple(known[place] for place in used),
      gold=(gold[0], labels, *gold[1:]),
      protocol=settings,
    ),
    clustering.of_labels(f"{name}/clustering", path, texts, labels, SETTINGS),
  ]


def draws(
  labels: tuple[Any, ...],
  settings: dict[str, Any],
  draw: Callable[[tuple[Any, ...], int, int, int], list[list[int]]],
) -> list[list[int]] | None:
  """The texts of each experiment, by `draw`; None: all of them, in one.

  The number of experiments is then no setting, and leaves `settings`.
  """
  if settings["samples_per_label"] == about.ALL:
    del settings["n_experiments"]
    return None
  return draw(
    labels,
    settings["samples_per_label"],
    settings["n_experiments"],
    settings["seed"],
  )


def sampled(
  labels: tuple[Any, ...], drawn: list[list[int]] | None
) -> tuple[list[int], tuple[Any, ...]]:
  """The texts that any experiment is fitted on, and what `gold` says of them.

  Args:
    labels: of all texts.
    drawn: the texts of each experiment; None: all, in one.

  Returns their places, and (their labels,) or (their labels, the rows of each
  experiment among them).
  """
  if drawn is None:
    return list(range(len(labels))), (labels,)
  used = sorted(set().union(*drawn))
  row = {place: number for number, place in enumerate(used)}
  rows = tuple(tuple(row[place] for place in own) for own in drawn)
  return used, (tuple(labels[place] for place in used), rows)


def experiments(task: EvalTask) -> tuple[Any, Any, Any]:
  """A task's labels to fit, labels to find, and rows of each experiment."""
  known, asked, *rest = task.gold
  return known, asked, rest[0] if rest else (tuple(range(len(known))),)


def _score(task: EvalTask, left: np.ndarray, right: np.ndarray) -> Scored:
  known, asked, drawn = experiments(task)
  return probes.classification(right, known, left, asked, drawn)


def _notes(task: EvalTask) -> list[str]:
  """Texts that the probe has seen, and labels that it has not."""
  fitted, asked, _ = experiments(task)
  labels = set(fitted)
  return notes_of(task, sum(label not in labels for label in asked))


def notes_of(task: EvalTask, unknown: int) -> list[str]:
  """The notes where so many texts have a label that the probe never sees."""
  known, whole, found = set(task.documents), len(task.queries), []
  if seen := sum(text in known for text in task.queries):
    found.append(f"{seen} of {whole} texts are among those it is fitted on")
  if unknown:
    found.append(f"{unknown} of {whole} texts have a label that it never sees")
  return found


KIND = Kind(
  _recognises,
  _read,
  _score,
  ("accuracy", "f1", "f1_weighted"),
  called="classification",
  notes=_notes,
  rows="text and label",
)
