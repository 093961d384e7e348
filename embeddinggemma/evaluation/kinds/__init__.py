"""The kinds of tasks that a model is scored on; KINDS is their table."""

from collections.abc import Mapping

from embeddinggemma.evaluation.kinds import (
  bitext,
  classification,
  clustering,
  cross_lingual,
  instructions,
  multilabel,
  pairs,
  reranking,
  retrieval,
  sts,
  summarization,
)
from embeddinggemma.evaluation.kinds.task import EvalTask, Kind

# The name of a kind, as EvalTask has it -> the kind. Of several that recognise
# a file, the first reads it.
KINDS: dict[str, Kind] = {
  instructions.NAME: instructions.KIND,
  reranking.NAME: reranking.KIND,
  retrieval.NAME: retrieval.KIND,
  sts.NAME: sts.KIND,
  pairs.NAME: pairs.KIND,
  bitext.NAME: bitext.KIND,
  summarization.NAME: summarization.KIND,
  multilabel.NAME: multilabel.KIND,
  classification.NAME: classification.KIND,
  clustering.NAME: clustering.KIND,
  **cross_lingual.KINDS,
}


def of(task: EvalTask) -> Kind:
  """The kind of a task; ValueError if it is not in KINDS."""
  if task.kind not in KINDS:
    raise ValueError(f"{task.name}: no metric for kind {task.kind!r}")
  return KINDS[task.kind]


def type_of(task: EvalTask) -> str:
  """The task type under which the mean over types counts a task."""
  own = of(task).type_of
  return own(task.task) if own else task.kind


def main_of(task: EvalTask) -> str:
  """The metric that a task is judged by: its own, else its kind's first."""
  return task.main or of(task).metrics[0]


def main_metric(scores: Mapping[str, float]) -> str:
  """The metric that a task is judged by, inferred from its scores.

  It is the first metric of the first kind that could have given these scores. A
  task that names another is judged by `main_of`.
  """
  return next(
    kind.metrics[0]
    for kind in KINDS.values()
    if kind.metrics[0] in scores and set(scores) <= set(kind.metrics)
  )
