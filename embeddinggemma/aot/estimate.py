"""A roofline estimate of a compiled step from the peak rates of a chip.

step = max(matrix products / peak, HBM bytes / bandwidth) + bytes over ICI /
bandwidth + bytes over DCN / bandwidth. It leaves out operations that are
neither a matrix product nor memory traffic (softmax, norms and lookups inside
the vector unit), latency, padding of tiles, the host and the input pipeline. It
also assumes that no communication overlaps with computation, which the compiler
partly achieves. The compiler's own cycle counts include the vector unit, and
lack collectives, sorts and scatters.
"""

import dataclasses
from collections.abc import Sequence

from jax.sharding import Mesh

from embeddinggemma.aot.collectives import Collective
from embeddinggemma.generations import Generation

LEAVES_OUT = (
  "vector operations, latency, tile padding, the host; nothing of the network"
  " is hidden"
)


@dataclasses.dataclass(frozen=True)
class Roofline:
  """Seconds of a step on one device, by resource."""

  compute: float  # matrix products at peak
  hbm: float  # memory traffic
  ici: float  # communication between the chips of a slice
  dcn: float  # communication between slices

  @property
  def step(self) -> float:
    """Seconds of a step: products and HBM overlap, communication does not."""
    return max(self.compute, self.hbm) + self.ici + self.dcn


def roofline(
  flops: float,
  hbm_bytes: float,
  found: Sequence[Collective],
  mesh: Mesh,
  generation: Generation,
) -> Roofline:
  """The roofline of a step.

  Args:
    flops: of matrix products, on one device.
    hbm_bytes: read and written by one device.
    found: the collectives.
    mesh: the devices.
    generation: of TPU.
  """
  ici = sum(
    link_seconds(c, mesh, generation)
    for c in found
    if not crosses_slices(c, mesh)
  )
  dcn = sum(
    c.times * c.sent / (generation.dcn_bandwidth / generation.devices_per_chip)
    for c in found
    if crosses_slices(c, mesh)
  )
  parts = generation.devices_per_chip
  return Roofline(
    flops / (generation.bf16_flops / parts),
    hbm_bytes / (generation.hbm_bandwidth / parts),
    ici,
    dcn,
  )


def crosses_slices(one: Collective, mesh: Mesh) -> bool:
  """Whether a collective communicates between slices; `send` always does."""
  devices = mesh.devices.flat
  slices = {getattr(devices[i], "slice_index", 0) for i in one.group}
  return len(slices) > 1 or one.kind == "send"


def link_seconds(one: Collective, mesh: Mesh, generation: Generation) -> float:
  """Seconds of a collective over ICI, on the torus dimensions that it spans.

  The generation's bandwidth counts all links in both directions: half of it
  leaves the chip, shared by the dimensions.
  """
  if len(one.group) < 2:
    return 0.0
  coords = [mesh.devices.flat[i].coords for i in one.group]
  spans = sum(len(set(axis)) > 1 for axis in zip(*coords))
  # Two devices of one chip: as if over all of its links.
  share = (spans or generation.dimensions) / generation.dimensions
  bandwidth = generation.ici_bandwidth / 2 / generation.devices_per_chip
  return one.times * one.sent / (bandwidth * share)
