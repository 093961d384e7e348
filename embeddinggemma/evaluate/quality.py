"""The table of quality: a model beside word baselines, itself untrained, and hybrid."""

from collections.abc import Sequence
from typing import Any

from rich.console import Console

from embeddinggemma import progress as progress_lib
from embeddinggemma.evaluate import suite
from embeddinggemma.load import Model
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
