"""A model's scores beside BM25, hybrid search and the model untrained."""

from collections.abc import Sequence
from typing import Any

from rich.console import Console

from embeddinggemma import progress as progress_lib
from embeddinggemma.data import arguments, truncation
from embeddinggemma.evaluation import kinds, suite
from embeddinggemma.evaluation.scoring import scored
from embeddinggemma.loading import Model
from embeddinggemma.losses import matryoshka
from embeddinggemma.types import TextEncoder

# Names of the rows of the quality table.
MODEL = scored.MODEL
UNTRAINED, HYBRID = "untrained", "model + BM25"


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
  found = systems(encode, dims, fresh, tasks, console, name)
  return {system: suite.values(scores) for system, scores in found.items()}


def systems(
  encode: TextEncoder,
  dims: Sequence[int],
  fresh: Model | None,
  tasks: Sequence[suite.EvalTask],
  console: Console,
  name: str,
  failed: suite.Failed | None = None,
) -> dict[str, suite.ScoredTasks]:
  """What `quality` returns, with the resamples of each score.

  `failed` gets the tasks that the model cannot be scored on (`suite.scored`).
  """
  table: dict[str, suite.ScoredTasks] = {}
  with progress_lib.Progress(console, name, 4) as progress:
    table.update(suite.by_words(tasks))
    progress.show(1, "word baselines")
    if fresh is not None:
      table[UNTRAINED] = suite.scored(fresh, tasks, dims[:1])
    progress.show(2, "untrained model")
    say = lambda note: progress.show(2, note)
    table[MODEL] = suite.scored(encode, tasks, dims, say, failed)
    tasks = [task for task in tasks if task.name in table[MODEL]]
    progress.show(3, "model")
    with truncation.counted():  # they were counted with the model
      table[HYBRID] = suite.fused(encode, tasks, dims[0])
    progress.show(4, "hybrid")
  return table


def evaluate(
  model: Model,
  tasks: Sequence[suite.EvalTask],
  console: Console,
  dim: int | None = None,
) -> dict[str, Any]:
  """Scores of a model on a suite, at each of its Matryoshka dimensions.

  `dim` is the only dimension; None: all of them. BadValue for one that the
  model lacks.

  Returns {"quality": what `quality` returns, "intervals": {system: {task: {dim:
  the ends of the 95% interval of the task's main metric}}}, "summary": by
  dimension, the means over tasks and over task types with their "intervals", and
  each task's main metric; "prompts": {task: {"query" or "document": the words
  before it}}; "protocols": {task: the settings that its scores depend on},
  "truncated": {task: {"queries" or "documents": {"cut", "of", "longest",
  "max_length"}}}; "parts": {task: its scores by language and family, of a task
  that has them}; "notes": {task: what its scores say less than they seem to};
  "failed": {task: why it has no scores}}. There is no mean over a failed task.

  Raises the error of the first task if none can be scored.
  """
  dims = matryoshka.dims_of(model.config.embed_dim)
  if dim is not None:
    dims = (arguments.whole("dim", dim, 1, dims[0]),)
  encode = suite.remember(model)
  failed: suite.Failed = {}
  table = systems(encode, dims, None, tasks, console, "evaluate", failed)
  lost = [task for task in tasks if task.name in failed]
  tasks = [task for task in tasks if task.name not in failed]
  rows = {system: suite.drawn(tasks, found) for system, found in table.items()}
  scores = {system: suite.values(found) for system, found in table.items()}
  summary = suite.summarise(tasks, scores[MODEL])
  summary["intervals"] = suite.summary_intervals(
    tasks, table[MODEL], rows[MODEL]
  )
  for means in summary, summary["intervals"]:
    _without_means_over(lost, means)
  return {
    "quality": scores,
    "intervals": {name: suite.intervals(row) for name, row in rows.items()},
    "summary": {k: v for k, v in summary.items() if k != "tasks"},
    "prompts": {task.name: _words(model, task) for task in tasks},
    "protocols": {t.name: dict(t.protocol) for t in tasks if t.protocol},
    "truncated": {
      task: {side: counts.as_json() for side, counts in sides.items()}
      for task, sides in suite.truncated(encode, tasks).items()
    },
    "parts": parts(tasks, scores[MODEL]),
    "notes": notes(tasks),
    "failed": {name: str(error) for name, error in failed.items()},
  }


def _without_means_over(
  lost: Sequence[suite.EvalTask], means: dict[str, Any]
) -> None:
  """Take out the means that failed tasks are a part of, as mteb does."""
  if lost:
    means |= {"mean_task": {}, "mean_type": {}}
  for task in lost:
    means["types"].pop(kinds.type_of(task), None)


def _words(model: Model, task: suite.EvalTask) -> dict[str, str]:
  """The model's prompts of a task, by side."""
  names = suite.prompts_of(task)
  return {side: model.prompt(name) for side, name in names.items()}


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
