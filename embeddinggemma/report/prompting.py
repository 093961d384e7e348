"""Prompts for the terminal: which were used, and what they are worth."""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from embeddinggemma.evaluation.prompting import NONE, RIGHT, WRONG
from embeddinggemma.report.published import signed
from embeddinggemma.terminal.table import Cell, Table

_LITTLE = 0.005  # of a mean: what other texts would change as well


def used(by_task: Mapping[str, Mapping[str, str]]) -> Table:
  """The prompts of all tasks, those with equal ones in a row."""
  tasks: dict[tuple[str, str], list[str]] = {}
  for task, words in by_task.items():
    query = words.get("query", words.get("document", ""))
    sides = repr(query), repr(words.get("document", query))
    tasks.setdefault(sides, []).append(task)
  rows = [
    [query, "as queries" if document == query else document, ", ".join(names)]
    for (query, document), names in tasks.items()
  ]
  header = ("before queries", "before documents", "tasks")
  return Table(header, rows, "Prompts", prose=(2,))


def checked(found: Mapping[str, Mapping[str, Any]]) -> Table:
  """Scores with the right prompts, none and wrong ones; the means at the end."""
  kinds = (RIGHT, NONE, WRONG)
  rows: list[Sequence[Cell]] = [
    [task, *(f"{found[kind]['tasks'][task]:.3f}" for kind in kinds)]
    for task in found[RIGHT]["tasks"]
  ]
  for key, name in (("task", "mean over tasks"), ("type", "mean over types")):
    means = [found[kind][f"mean_{key}"] for kind in kinds]
    rows.append(
      [[(name, "bold")], *([(f"{mean:.3f}", "bold")] for mean in means)]
    )
  return Table(["", *kinds], rows, "Scores by prompt, main metric of each task")


def verdict(found: Mapping[str, Mapping[str, Any]]) -> Iterator[str]:
  """What missing and wrong prompts cost, in points of the mean over tasks."""
  right = found[RIGHT]["mean_task"]
  losses = {kind: found[kind]["mean_task"] - right for kind in (NONE, WRONG)}
  yield (
    f"prompts: without them {signed(100 * losses[NONE])} points in the mean over"
    f" tasks, with another task's {signed(100 * losses[WRONG])}"
  )
  if max(losses.values()) > -_LITTLE:
    yield (
      "note: the right prompts make little or no difference; was the model"
      " trained with them?"
    )
