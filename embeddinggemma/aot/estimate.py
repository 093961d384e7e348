"""A roofline of a compiled step, over the peaks of a chip.

step = max(products / peak, HBM bytes / bandwidth) + bytes over ICI + over DCN.

It leaves out what is neither a product nor a byte (softmax, norms and lookups
inside of the vector unit), latency, the padding of tiles, the host and the
input pipeline; and it hides nothing of the network behind the computation, as
the compiler partly does. The compiler's own cycles have the vector unit in
them, and lack collectives, sorts and scatters.
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
  """Seconds of a step on one device."""

  compute: float
  hbm: float
  ici: float
  dcn: float

  @property
  def step(self) -> float:
    """Products and HBM overlap, the network does not."""
    return max(self.compute, self.hbm) + self.ici + self.dcn


def roofline(
  flops: float,
  hbm_bytes: float,
  found: Sequence[Collective],
  mesh: Mesh,
  generation: Generation,
) -> Roofline:
  """Of what one device does in a step."""
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
  """Whether a group has devices of several slices; `send` is between them."""
  devices = mesh.devices.flat
  slices = {getattr(devices[i], "slice_index", 0) for i in one.group}
  return len(slices) > 1 or one.kind == "send"


def link_seconds(one: Collective, mesh: Mesh, generation: Generation) -> float:
  """Over ICI: rings along the dimensions of the torus that the group spans.

  The table has the bytes of all links in both directions: half of them leave
  the chip, shared by its dimensions.
  """
  if len(one.group) < 2:
    return 0.0
  coords = [mesh.devices.flat[i].coords for i in one.group]
  spans = sum(len(set(axis)) > 1 for axis in zip(*coords))
  # Two devices of one chip: as if over all of its links.
  share = (spans or generation.dimensions) / generation.dimensions
  bandwidth = generation.ici_bandwidth / 2 / generation.devices_per_chip
  return one.times * one.sent / (bandwidth * share)
