"""A model's scores beside BM25, hybrid search and the model untrained."""

from collections.abc import Sequence
from typing import Any

from rich.console import Console

from embeddinggemma import progress as progress_lib
from embeddinggemma.data import truncation
from embeddinggemma.evaluation import kinds, suite
from embeddinggemma.loading import Model
from embeddinggemma.losses import matryoshka
from embeddinggemma.types import TextEncoder

# Names of the rows of the quality table.
UNTRAINED, MODEL, HYBRID = "untrained", "model", "model + BM25"


def quality(
  encode: TextEncoder,
  dims: Sequence[int],
  fresh: Model | None,
  tasks: Sequence[suite.EvalTask],
  console: Console,
  name: str,
) -> dict[str, Any]:
  """Scores of all systems: {system: {task: {dim: {metric: value}}}}.

  Args:
    encode: the model; it must keep its results (`suite.remember`), since hybrid
      search asks for them again.
    dims: the Matryoshka dimensions.
    fresh: the untrained model; None leaves it out.
    tasks: the suite.
    console: where progress is shown.
    name: the suite's, for the progress bar.
  """
  table: dict[str, Any] = {}
  with progress_lib.Progress(console, name, 4) as progress:
    table.update(suite.baselines(tasks))
    progress.show(1, "word baselines")
    if fresh is not None:
      table[UNTRAINED] = suite.evaluate(fresh, tasks, dims[:1])["tasks"]
    progress.show(2, "untrained model")
    say = lambda note: progress.show(2, note)
    table[MODEL] = suite.evaluate(encode, tasks, dims, say)["tasks"]
    progress.show(3, "model")
    with truncation.counted():  # they were counted with the model
      table[HYBRID] = suite.hybrid(encode, tasks, dims[0])
    progress.show(4, "hybrid")
  return table


def evaluate(
  model: Model, tasks: Sequence[suite.EvalTask], console: Console
) -> dict[str, Any]:
  """Scores of a model on a suite, at each of its Matryoshka dimensions.

  Returns {"quality": what `quality` returns, "summary": by dimension, the means
  over tasks and over task types, and each task's main metric; "truncated":
  {task: {"queries" or "documents": {"cut", "of", "longest", "max_length"}}};
  "parts": {task: its scores by language and family, of a task that has them};
  "notes": {task: what its scores say less than they seem to}}.
  """
  dims = matryoshka.dims_of(model.config.embed_dim)
  encode = suite.remember(model)
  table = quality(encode, dims, None, tasks, console, "evaluate")
  summary = suite.summarise(tasks, table[MODEL])
  return {
    "quality": table,
    "summary": {k: v for k, v in summary.items() if k != "tasks"},
    "truncated": {
      task: {side: counts.as_json() for side, counts in sides.items()}
      for task, sides in suite.truncated(encode, tasks).items()
    },
    "parts": parts(tasks, table[MODEL]),
    "notes": notes(tasks),
  }


def parts(
  tasks: Sequence[suite.EvalTask], scores: suite.TaskScores
) -> dict[str, Any]:
  """{task: the parts of its scores}, of the tasks whose kind has parts."""
  found = {}
  for task in tasks:
    if split := kinds.of(task).parts:
      found[task.name] = split(task, scores[task.name])
  return found


def notes(tasks: Sequence[suite.EvalTask]) -> dict[str, list[str]]:
  """What tasks' scores say less than they seem to, of those with such notes."""
  found = {task.name: list(kinds.of(task).notes(task)) for task in tasks}
  return {name: lines for name, lines in found.items() if lines}
