"""The batch that a config would train on, without any data: shapes alone.

Training sizes its batches by the texts that it reads. Here every text is
max_length tokens long and fills a row of its own, so the rows are as long as
the ladder's first rung that holds it: no batch of this config is larger, but
for a language model's whose batches need more rows than texts.
"""

from typing import Any

import jax
import numpy as np
from jax.sharding import Mesh

from embeddinggemma import sharding
from embeddinggemma.data import packing
from embeddinggemma.generations import Slice
from embeddinggemma.training import stages
from embeddinggemma.training.config import AdaptConfig, PairConfig, TrainConfig
from embeddinggemma.types import DenoiseBatch, PairBatch, Teacher, Text


def groups(config: TrainConfig, mesh: Mesh, slice_: Slice) -> int:
  """How many groups a device goes through in a step."""
  capacity = int(slice_.generation.hbm_usable)
  config = stages.on(config, mesh.devices.flat[0])
  return stages.groups(config, mesh.size, capacity)


def batch(config: TrainConfig, mesh: Mesh, slice_: Slice) -> Any:
  """ShapeDtypeStructs of a global batch, split over the mesh."""
  tree = _shapes(config, mesh.size * groups(config, mesh, slice_))
  return jax.tree.map(
    lambda x: jax.ShapeDtypeStruct(
      x.shape, x.dtype, sharding=sharding.batch_sharding(mesh, x.shape)
    ),
    tree,
  )


def describe(config: TrainConfig, mesh: Mesh, slice_: Slice) -> str:
  """The shape in words."""
  number = groups(config, mesh, slice_)
  count = mesh.size * number
  length, rows = packing.rung(config.max_length), config.batch_size // count
  sides = {"query": rows, "positive": rows}
  if isinstance(config, AdaptConfig):
    sides = {"input": rows, "target": rows}
  elif not isinstance(config, PairConfig):
    sides = {"text": rows}
  elif config.negatives:
    sides["negatives"] = rows * config.negatives
  parts = ", ".join(f"{name} {n} x {length}" for name, n in sides.items())
  return (
    f"{count} groups ({number} a device) of {parts} (rows x positions; every"
    f" text fills max_length={config.max_length})"
  )


def _shapes(config: TrainConfig, groups: int) -> Any:
  texts, size = config.batch_size // groups, config.batch_size
  length = packing.rung(config.max_length)
  one = _text(groups, texts, length)
  if isinstance(config, AdaptConfig):
    return DenoiseBatch(one, one)
  if not isinstance(config, PairConfig):
    return one
  count = config.negatives
  return PairBatch(
    query=one,
    positive=one,
    negative=_text(groups, texts * count, length) if count else None,
    teacher=_teacher(config) if config.loss.distill else None,
    keys=jax.ShapeDtypeStruct((size, 2), np.uint32),
    task=jax.ShapeDtypeStruct((), np.int32),
  )


# Types of shapes, not of arrays, so that their annotations are Any.
def _text(groups: int, texts: int, length: int) -> Any:
  ids = jax.ShapeDtypeStruct((groups, texts, length), np.int32)
  return Text(ids, ids, jax.ShapeDtypeStruct((groups, texts), np.bool_))


def _teacher(config: PairConfig) -> Any:
  width = config.loss.teacher_width or config.model.embed_dim
  of = lambda *dims: jax.ShapeDtypeStruct(
    (config.batch_size, *dims, width), np.float32
  )
  return Teacher(of(), of(), of(config.negatives) if config.negatives else None)
