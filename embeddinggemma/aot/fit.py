"""Search for a change that makes a step fit a TPU's memory.

Tried are more groups, and settings that recompute more of a layer.
"""

import dataclasses
from typing import Any

from embeddinggemma.aot import compiling, shapes
from embeddinggemma.aot.compiling import Compiled
from embeddinggemma.model.config import REMATS
from embeddinggemma.training import fitting, stages
from embeddinggemma.training.fitting import Try


def search(first: Compiled) -> list[dict[str, Any]]:
  """Compile with other numbers of groups; returns a row for each attempt.

  Settings that recompute more of a layer are tried as well, with the config's
  number of groups.
  """
  groups = shapes.groups(first.config, first.mesh, first.slice_)

  def compile_again(**changed: Any) -> Compiled:
    config = dataclasses.replace(first.config, **changed)
    return compiling.compile_step(config, first.slice_, first.num_slices)

  def attempt(groups: int) -> Try:
    again = compile_again(groups_per_device=groups)
    return Try(groups, again.fits, again.memory.needed)

  made = fitting.tries(
    Try(groups, first.fits, first.memory.needed),
    fitting.choices(first.config.batch_size // first.mesh.size, groups),
    first.capacity,
    attempt,
  )
  rows = [
    _row({"groups_per_device": one.groups}, one.fits, one.needed)
    for one in made
  ]
  if first.fits:
    return rows
  for policy in REMATS[REMATS.index(first.config.model.remat) + 1 :]:
    sides = stages.kind_of(first.config).models
    again = compile_again(
      groups_per_device=groups,
      **{
        side: dataclasses.replace(getattr(first.config, side), remat=policy)
        for side in sides
      },
    )
    change = {f"{side}.remat": policy for side in sides}
    rows.append(_row(change, again.fits, again.memory.needed))
  return rows


def _row(change: dict[str, Any], fits: bool, needed: int) -> dict[str, Any]:
  return {"change": change, "fits": fits, "needed_bytes": needed}
