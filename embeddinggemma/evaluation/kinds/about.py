"""task.json: the prompts of a folder's tasks, and the settings of its protocol.

The settings have the names and the defaults of mteb's tasks, so that a folder
can say what a task of mteb says of itself.
"""

import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from embeddinggemma.config import suggest
from embeddinggemma.data import prompts
from embeddinggemma.types import BadInput

FILE = "task.json"
ALL = "all"  # instead of a number: every text


def _whole(value: Any) -> int:
  if isinstance(value, bool) or not isinstance(value, int) or value < 1:
    raise ValueError("a whole number from 1")
  return value


def _seed(value: Any) -> int:
  if isinstance(value, bool) or not isinstance(value, int):
    raise ValueError("a whole number")
  if not 0 <= value < 2**32:
    raise ValueError("a whole number from 0 to 4294967295")
  return value


def _whole_or_all(value: Any) -> int | str:
  if value == ALL:
    return ALL
  try:
    return _whole(value)
  except ValueError as error:
    raise ValueError(f'{error}, or "{ALL}"') from None


def _whole_all_or_null(value: Any) -> int | str:
  return ALL if value is None else _whole_or_all(value)


def _share(value: Any) -> float:
  number = isinstance(value, int | float) and not isinstance(value, bool)
  if not number or not 0 < value <= 1:
    raise ValueError("a number above 0, up to 1")
  return float(value)


def _flag(value: Any) -> bool:
  if not isinstance(value, bool):
    raise ValueError("true or false")
  return value


def _text(value: Any) -> str:
  if not isinstance(value, str) or not value:
    raise ValueError("text")
  return value


# Setting -> what checks its value; ValueError says what is expected.
SETTINGS: Mapping[str, Callable[[Any], Any]] = {
  "main_score": _text,
  "seed": _seed,
  # Classification and multilabel classification.
  "samples_per_label": _whole_or_all,
  "n_experiments": _whole,
  "max_eval_samples": _whole_all_or_null,  # of several labels each
  # Clustering.
  "n_clusters": _whole,
  "max_documents_per_cluster": _whole,
  "max_document_to_embed": _whole,
  "max_fraction_of_documents_to_embed": _share,
  "k_mean_batch_size": _whole,
  "max_depth": _whole,
  # Bitext mining; mteb has no such setting.
  "equal_translations_are_one": _flag,
}


def settings_in(
  folder: Path, defaults: Mapping[str, Any], also: tuple[str, ...] = ()
) -> dict[str, Any]:
  """The settings of a folder's protocol, by name.

  Args:
    folder: where a task.json may be.
    defaults: the settings that its tasks take, and their values without a
      task.json; a None is left out.
    also: settings that other tasks of the folder take.

  Raises BadInput for a setting that no task of the folder takes.
  """
  about = read(folder)
  for name in about.keys() & SETTINGS.keys():
    if name not in (*defaults, *also, "main_score"):
      takes = ", ".join(sorted({*defaults, *also, "main_score"}))
      raise BadInput(
        f"{folder / FILE}: {name!r} is no setting of these files; they take"
        f" {takes}"
      )
  found = {name: about.get(name, value) for name, value in defaults.items()}
  return {name: value for name, value in found.items() if value is not None}


def read(folder: Path) -> dict[str, Any]:
  """What a folder's task.json says, checked; {} if there is none.

  Keys that are neither settings nor like one are left to whoever wrote them.
  BadInput names what is wrong.
  """
  path = folder / FILE
  if not path.is_file():
    return {}
  expected = BadInput(f'{path}: expected {{"task": NAME}}')
  try:
    about = json.loads(path.read_text(encoding="utf-8"))
  except ValueError:
    raise expected from None
  if not isinstance(about, dict):
    raise expected
  if "task" in about:
    if not isinstance(about["task"], str):
      raise expected
    prompts.task_named(about["task"])
  for name, value in about.items():
    if name in SETTINGS:
      try:
        about[name] = SETTINGS[name](value)
      except ValueError as error:
        raise BadInput(
          f"{path}: {name!r} is {json.dumps(value)}; expected {error}"
        ) from None
    elif name != "task" and "did you mean" in (
      meant := suggest(name, ["task", *SETTINGS])
    ):
      raise BadInput(f"{path}: unknown setting {name!r}{meant}")
  if not {"task", *SETTINGS} & about.keys():
    raise expected
  return about


def metric_named(name: str, known: Sequence[str]) -> str:
  """The metric that mteb calls this, as ndcg_at_10 for ndcg@10; "" for none.

  Where all similarities are cosines, mteb's cosine_spearman is spearman.
  """
  own = name.lower().replace("_at_", "@")
  names = (own, own.removeprefix("cosine_"))
  return next((found for found in names if found in known), "")
