"""What would fit, when a step does not: more groups on a device.

A device that embeds its part of the batch in several groups holds the
activations of one at a time, for one more forward pass.
"""

import dataclasses
from collections.abc import Iterator
from typing import Any

from embeddinggemma.stages import TrainConfig
from embeddinggemma.tpu import compiling
from embeddinggemma.tpu.compiling import Compiled


def changes(config: TrainConfig, devices: int) -> Iterator[dict[str, Any]]:
  """What may be tried, the cheapest first."""
  on_device = config.batch_size // devices
  groups = 2 * config.groups_per_device
  while groups <= on_device:
    if on_device % groups == 0:
      yield {"groups_per_device": groups}
    groups *= 2


def search(compiled: Compiled) -> list[dict[str, Any]]:
  """Compiles one change after another until one fits; all that were tried."""
  rows = [_row({}, compiled)]
  for change in changes(compiled.config, compiled.mesh.size):
    if rows[-1]["fits"]:
      break
    config = dataclasses.replace(compiled.config, **change)
    again = compiling.compile_step(config, compiled.slice_, compiled.num_slices)
    rows.append(_row(change, again))
  return rows


def _row(change: dict[str, Any], compiled: Compiled) -> dict[str, Any]:
  return {
    "change": change,
    "fits": compiled.fits,
    "needed_bytes": compiled.memory.needed,
    "capacity_bytes": compiled.capacity,
  }
