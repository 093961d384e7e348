"""A mesh of the devices of a TPU topology that is not attached."""

import jax
from jax.experimental import topologies
from jax.sharding import Mesh

from embeddinggemma import sharding
from embeddinggemma.aot import environment
from embeddinggemma.config import MeshConfig
from embeddinggemma.generations import Slice
from embeddinggemma.types import BadInput


def devices(slice_: Slice, num_slices: int = 1) -> tuple[jax.Device, ...]:
  """The devices as the compiler sees them; BadInput if libtpu is missing."""
  environment.require_libtpu()
  several = {"num_slices": num_slices} if num_slices > 1 else {}
  try:
    found = topologies.get_topology_desc(
      platform="tpu",
      topology_name=slice_.name,
      wrap=slice_.wrap,
      **several,
      **slice_.generation.topology_options,
    )
  except jax.errors.JaxRuntimeError as error:
    raise BadInput(f"--topology={slice_.name}: libtpu says: {error}") from None
  return tuple(found.devices)


def make_mesh(sizes: MeshConfig, slice_: Slice, num_slices: int = 1) -> Mesh:
  """The mesh that training would have on the slices; `data` spans the slices.

  Raises BadInput if the sizes do not divide the devices.
  """
  if num_slices < 1:
    raise BadInput(f"--num_slices={num_slices} must be at least 1")
  return sharding.make_mesh(sizes.data, sizes.fsdp, devices(slice_, num_slices))
