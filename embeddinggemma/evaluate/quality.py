"""A model beside what it must beat: words alone, itself untrained, hybrid."""

from collections.abc import Sequence
from typing import Any

from rich.console import Console

from embeddinggemma import progress as progress_lib
from embeddinggemma.evaluate import suite
from embeddinggemma.load import Model
from embeddinggemma.losses import matryoshka
from embeddinggemma.types import TextEncoder

# Rows of the quality table, from the least to the most.
UNTRAINED, MODEL, HYBRID = "untrained", "model", "model + BM25"


def quality(
  encode: TextEncoder,
  dims: Sequence[int],
  fresh: Model | None,
  tasks: Sequence[suite.EvalTask],
  console: Console,
  name: str,
) -> dict[str, Any]:
  """{system: {task: {dim: {metric: value}}}} for one suite.

  `encode` remembers, since hybrid search asks it again.
  """
  table: dict[str, Any] = {}
  with progress_lib.Progress(console, name, 4) as progress:
    table.update(suite.baselines(tasks))
    progress.show(1, "word baselines")
    if fresh is not None:
      table[UNTRAINED] = suite.evaluate(fresh, tasks, dims[:1])["tasks"]
    progress.show(2, "untrained model")
    table[MODEL] = suite.evaluate(encode, tasks, dims)["tasks"]
    progress.show(3, "model")
    table[HYBRID] = suite.hybrid(encode, tasks, dims[0])
    progress.show(4, "hybrid")
  return table


def evaluate(
  model: Model, tasks: Sequence[suite.EvalTask], console: Console
) -> dict[str, Any]:
  """A model's scores on a suite, at each of its Matryoshka dimensions.

  Returns {"quality": what `quality` returns, "summary": means over tasks and
  over task types, and each task's main metric, by dimension}.
  """
  dims = matryoshka.dims_of(model.config.embed_dim)
  encode = suite.remember(model)
  table = quality(encode, dims, None, tasks, console, "evaluate")
  summary = suite.summarise(tasks, table[MODEL])
  return {
    "quality": table,
    "summary": {k: v for k, v in summary.items() if k != "tasks"},
  }
