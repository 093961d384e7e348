"""The verb `compile`: a config and a topology in, a report out."""

from typing import Any

from embeddinggemma.stages import TrainConfig
from embeddinggemma.tpu import compiling, generations, report


def examine(
  config: TrainConfig,
  topology: str,
  num_slices: int,
  fit: bool,
  shardings: bool,
) -> dict[str, Any]:
  """The report of a config's step on a topology such as v5e:16x16."""
  slice_ = generations.parse(topology)
  compiled = compiling.compile_step(config, slice_, num_slices)
  found = report.as_json(compiled)
  if shardings:
    found["shardings"] = report.shardings(compiled)
  return found
