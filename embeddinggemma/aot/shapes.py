"""The batch that a config would train on, as shapes, without any data.

Training chooses the shapes of its batches by the texts that it reads. Here
every text has max_length tokens and fills a row of its own, whose length is the
smallest row length in use that holds it. No batch of this config is larger,
except for a language model whose batches need more rows than texts.
"""

from typing import Any

import jax
from jax.sharding import Mesh

from embeddinggemma import sharding
from embeddinggemma.data import packing
from embeddinggemma.generations import Slice
from embeddinggemma.training import stages
from embeddinggemma.training.config import TrainConfig


def groups(config: TrainConfig, mesh: Mesh, slice_: Slice) -> int:
  """The number of groups that a device goes through in a step."""
  capacity = int(slice_.generation.hbm_usable)
  config = stages.for_device(config, mesh.devices.flat[0])
  return stages.groups(config, mesh.size, capacity)


def batch(config: TrainConfig, mesh: Mesh, slice_: Slice) -> Any:
  """ShapeDtypeStructs of a global batch, split over the mesh."""
  count = mesh.size * groups(config, mesh, slice_)
  tree = stages.kind_of(config).batch(config, count)
  return jax.tree.map(
    lambda x: jax.ShapeDtypeStruct(
      x.shape, x.dtype, sharding=sharding.batch_sharding(mesh, x.shape)
    ),
    tree,
  )


def describe(config: TrainConfig, mesh: Mesh, slice_: Slice) -> str:
  """The batch's shape in words."""
  number = groups(config, mesh, slice_)
  count = mesh.size * number
  length, rows = packing.rung(config.max_length), config.batch_size // count
  sides = stages.kind_of(config).sides(config)
  parts = ", ".join(
    f"{name} {rows * n} x {length}" for name, n in sides.items()
  )
  return (
    f"{count} groups ({number} a device) of {parts} (rows x positions; every"
    f" text fills max_length={config.max_length})"
  )
