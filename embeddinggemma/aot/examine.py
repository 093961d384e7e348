"""The verb `compile`: from a config and a topology to a report."""

from collections.abc import Mapping
from typing import Any

from embeddinggemma import generations
from embeddinggemma.aot import compiling, report
from embeddinggemma.aot import fit as fits
from embeddinggemma.training import stages
from embeddinggemma.training.config import TrainConfig
from embeddinggemma.types import BadInput


def config_of(tree: Mapping[str, Any], name: str | None) -> TrainConfig:
  """The stage's config from a config tree, which may hold several stages.

  `name` selects a stage; None if there is only one. Raises BadInput for a tree
  without a stage, or without the named one.
  """
  if "base" in tree:
    raise BadInput(
      "compile: the sizes of own pairs' recipe are those of its base; give"
      " configs/finetune.py:PRESET instead"
    )
  if "stage" in tree:
    if name not in (None, tree["stage"]):
      raise BadInput(
        f"--stage={name}: the config is of {tree['stage']!r} alone"
      )
    return stages.build(tree)
  inner = {
    key: value
    for key, value in tree.items()
    if isinstance(value, Mapping) and "stage" in value
  }
  if not inner:
    raise BadInput("compile: --config is no stage of training, and holds none")
  name = name or (
    "prefinetune" if "prefinetune" in inner else next(iter(inner))
  )
  if name not in inner:
    raise BadInput(f"--stage={name}: the config holds {', '.join(inner)}")
  found = dict(inner[name])
  if specs := found.pop("specs", ()):  # of a recipe; the first stands for all
    found |= {"quantize": {"spec": specs[0]}}
  found.pop("lr", None)
  return stages.build(found)


def examine(
  config: TrainConfig,
  topology: str,
  num_slices: int,
  fit: bool,
  shardings: bool,
) -> dict[str, Any]:
  """The report on a config's step on a topology such as v5e:16x16.

  Args:
    config: of the stage.
    topology: of one slice.
    num_slices: of that topology.
    fit: include "fit", the changes that were tried until the step fits.
    shardings: include "shardings", a row for every array of the state.
  """
  slice_ = generations.parse(topology)
  compiled = compiling.compile_step(config, slice_, num_slices)
  found = report.as_json(compiled)
  if fit:
    found["fit"] = fits.search(compiled)
  if shardings:
    found["shardings"] = report.shardings(compiled)
  return found
