"""Tables of models that were scored side by side, for the terminal."""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from embeddinggemma.report import page
from embeddinggemma.terminal.table import Cell, Table

_MEANS = (("mean_task", "mean over tasks"), ("mean_type", "mean over types"))
_NONE = "none"
_FAILED = "failed"
_UNKNOWN = "not known"


def tables(found: Mapping[str, Any]) -> Iterator[Table]:
  """The tables of what `side_by_side.running.evaluate` returns."""
  yield _scores(found)
  if table := _by_dimension(found):
    yield table
  yield _models(found)
  if any(about.get("prompts") for about in found["models"].values()):
    yield _prompts(found)


def lines(found: Mapping[str, Any]) -> Iterator[str]:
  """What is to be said below the tables: notes, and what failed."""
  for task, said in found["notes"].items():
    yield f"note: {task}: {'; '.join(said)}"
  for label, by_task in found["failed"].items():
    for task, why in by_task.items():
      yield f"failed: {label}{task and ': '}{task}: {why}"


def _scores(found: Mapping[str, Any]) -> Table:
  """A row for each task, a column for each model and search by words."""
  quality, failed = found["quality"], found["failed"]
  systems = [
    *found["models"],
    *(s for s in quality if s not in found["models"]),
  ]
  tasks = list(dict.fromkeys(task for s in systems for task in quality[s]))
  lost = {task for by_task in failed.values() for task in by_task if task}
  rows: list[list[Cell]] = []
  for task in [*tasks, *sorted(lost - set(tasks))]:
    metric = found["main"].get(task, "")
    values: list[float | None] = []
    for system in systems:
      by_dim = quality[system].get(task)
      own = next(iter(by_dim.values())) if by_dim else {}
      values.append(own.get(metric))
    name = f"{task} {metric}".strip()
    rows.append([name, *_cells(values, systems, task, failed)])
  title, common = "Quality at full dimension", found["common"]
  if common and len(common) < len(rows):
    title += f"; means over the {len(common)} of {len(rows)} tasks that all models have"
  rows += _mean_rows(found, systems)
  return Table(["", *systems], rows, title)


def _cells(
  values: Sequence[float | None],
  systems: Sequence[str],
  task: str,
  failed: Mapping[str, Mapping[str, str]],
) -> Iterator[Cell]:
  """The figures of a row, the best in green; what failed is named so."""
  known = [value for value in values if value is not None]
  for system, value in zip(systems, values, strict=True):
    if value is None:
      own = failed.get(system, {})
      failing = task in own or "" in own
      yield [(_FAILED, "red")] if failing else page.figure(None)
    else:
      best = value == max(known) and len(known) > 1
      yield [(page.figure(value), "bold green" if best else "")]


def _mean_rows(
  found: Mapping[str, Any], systems: Sequence[str]
) -> Iterator[list[Cell]]:
  summary = found["summary"]
  for key, name in _MEANS if found["common"] else ():
    values = [
      next(iter(summary[system][key].values())) if system in summary else None
      for system in systems
    ]
    yield [[(name, "bold")], *_cells(values, systems, "", {})]


def _by_dimension(found: Mapping[str, Any]) -> Table | None:
  """Means over tasks by dimension, if a model has shorter ones."""
  means = {
    label: summary["mean_task"] for label, summary in found["summary"].items()
  }
  dims = sorted({int(dim) for by in means.values() for dim in by}, reverse=True)
  if len(dims) < 2 or all(len(by) < 2 for by in means.values()):
    return None
  rows = [
    [str(dim), *(page.figure(by.get(str(dim))) for by in means.values())]
    for dim in dims
  ]
  return Table(["dimension", *means], rows, "Mean over tasks by dimension")


def _models(found: Mapping[str, Any]) -> Table:
  """A row for each model: what ran it, and how."""
  header = ("model", "through", "dimension", "precision", "texts cut")
  rows = [
    [
      label,
      about["through"],
      str(about["dims"][0]),
      about["precision"] or _UNKNOWN,
      _cut(about["truncated"]),
    ]
    if "through" in about
    else [label, _FAILED, "", "", ""]
    for label, about in found["models"].items()
  ]
  return Table(header, rows, "Models", prose=(1,))


def _cut(truncated: Mapping[str, Mapping[str, int]] | None) -> str:
  """How many texts of all tasks were cut; not every runtime says."""
  if truncated is None:
    return _UNKNOWN
  cut, of = (sum(one[k] for one in truncated.values()) for k in ("cut", "of"))
  return f"{cut} of {of}"


def _prompts(found: Mapping[str, Any]) -> Table:
  """A row for words that stood before texts, and the models that had them."""
  models: dict[tuple[str, str], list[str]] = {}  # (words, tasks) -> labels
  for label, about in found["models"].items():
    tasks: dict[str, list[str]] = {}
    for task, used in about.get("prompts", {}).items():
      for words in dict.fromkeys(used.values()):
        tasks.setdefault(words, []).append(task)
    for words, names in tasks.items():
      models.setdefault((words, ", ".join(names)), []).append(label)
  rows = [
    [repr(words) if words else _NONE, names, ", ".join(labels)]
    for (words, names), labels in models.items()
  ]
  header = ("before texts", "of tasks", "models")
  return Table(header, rows, "Prompts", prose=(1, 2))
