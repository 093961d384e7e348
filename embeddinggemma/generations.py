"""The one table of TPU generations: what launching and compiling need to know.

Sources: cloud.google.com/tpu/docs (runtimes, the page of each generation), the
topologies that libtpu 0.0.52 accepts, jax's tpu_info, and the scaling book for
the clock. A chip is what is bought; a device is what JAX shows, and v4 (without
megacore) and tpu7x have two of them on a chip.
"""

import dataclasses
import math
from collections.abc import Mapping
from typing import Any

from embeddinggemma.types import BadInput


@dataclasses.dataclass(frozen=True)
class Generation:
  """One generation of TPU; peaks are of a chip."""

  name: str
  # Ways to get machines, the default first: "sky" (SkyPilot over the Cloud TPU
  # API), "jobset" (GKE), "gcloud" (a queued resource).
  routes: tuple[str, ...]
  accelerator: str  # name in the Cloud TPU API without the count; "": not there
  counts: str  # unit of that count: "cores" or "chips"
  runtime: str  # image of the Cloud TPU API
  image_family: str  # of Compute Engine; "": not there
  machine: str  # machine type of a host in a slice of several
  chips_per_host: int
  largest_host: int  # chips of the largest single-host slice of Cloud TPU API
  containers_per_host: int  # on GKE, each with its share of the chips
  gke_accelerator: str  # node label
  gke_placement: bool  # GKE needs a placement policy, and the shape in pods
  dimensions: int  # of the torus
  devices_per_chip: int  # as JAX shows them with `topology_options`
  device_kind: str  # name of the devices in JAX
  cores_per_device: int  # TensorCores: two with megacore
  topology_options: Mapping[str, str]  # arguments of jax's get_topology_desc
  topologies: tuple[str, ...]  # for which libtpu can compile
  clock: float  # Hz
  bf16_flops: float  # per second
  hbm_bytes: float
  hbm_usable: float  # of a device, from libtpu 0.0.52's out-of-memory message
  hbm_bandwidth: float  # bytes per second
  ici_bandwidth: float  # bytes per second, both directions, all links
  dcn_bandwidth: float  # bytes per second


_GCE_SHARED = "ubuntu-accel-2204-amd64-tpu-v5e-v5p-v6e"
_FLAT = ("1x1", "2x2", "2x4", "4x4", "4x8", "8x8", "8x16", "16x16")
_CUBES = (
  *("2x2x1", "2x2x2", "2x2x4", "2x4x4", "4x4x4", "4x4x8", "4x8x8"),
  *("8x8x8", "8x8x16", "8x16x16", "16x16x16"),
)

GENERATIONS = {
  g.name: g
  for g in (
    Generation(
      name="v4",
      routes=("sky", "jobset", "gcloud"),
      accelerator="v4",
      counts="cores",
      runtime="tpu-ubuntu2204-base",
      image_family="",
      machine="ct4p-hightpu-4t",
      chips_per_host=4,
      largest_host=4,
      containers_per_host=1,
      gke_accelerator="tpu-v4-podslice",
      gke_placement=False,
      dimensions=3,
      devices_per_chip=1,
      device_kind="TPU v4",
      cores_per_device=2,
      topology_options={"chip_config_name": "megacore"},
      topologies=_CUBES,
      clock=1.05e9,
      bf16_flops=275e12,
      hbm_bytes=32e9,
      hbm_usable=30.75 * 2**30,
      hbm_bandwidth=1228e9,
      ici_bandwidth=600e9,
      dcn_bandwidth=25e9 / 8,
    ),
    Generation(
      name="v5e",
      routes=("sky", "jobset", "gcloud"),
      accelerator="v5litepod",
      counts="chips",
      runtime="v2-alpha-tpuv5-lite",
      image_family=_GCE_SHARED,
      machine="ct5lp-hightpu-4t",
      chips_per_host=4,
      largest_host=8,
      containers_per_host=1,
      gke_accelerator="tpu-v5-lite-podslice",
      gke_placement=False,
      dimensions=2,
      devices_per_chip=1,
      device_kind="TPU v5 lite",
      cores_per_device=1,
      topology_options={},
      topologies=_FLAT,
      clock=1.5e9,
      bf16_flops=197e12,
      hbm_bytes=16e9,
      hbm_usable=15.75 * 2**30,
      hbm_bandwidth=819e9,
      ici_bandwidth=400e9,
      dcn_bandwidth=25e9 / 8,
    ),
    Generation(
      name="v5p",
      routes=("sky", "jobset", "gcloud"),
      accelerator="v5p",
      counts="cores",
      runtime="v2-alpha-tpuv5",
      image_family=_GCE_SHARED,
      machine="ct5p-hightpu-4t",
      chips_per_host=4,
      largest_host=4,
      containers_per_host=1,
      gke_accelerator="tpu-v5p-slice",
      gke_placement=False,
      dimensions=3,
      devices_per_chip=1,
      device_kind="TPU v5",
      cores_per_device=2,
      topology_options={},
      topologies=_CUBES,
      clock=1.75e9,
      bf16_flops=459e12,
      hbm_bytes=95e9,
      hbm_usable=95.73 * 2**30,
      hbm_bandwidth=2765e9,
      ici_bandwidth=1200e9,
      dcn_bandwidth=50e9 / 8,
    ),
    Generation(
      name="v6e",
      routes=("sky", "jobset", "gcloud"),
      accelerator="v6e",
      counts="chips",
      runtime="v2-alpha-tpuv6e",
      image_family=_GCE_SHARED,
      machine="ct6e-standard-4t",
      chips_per_host=4,
      largest_host=8,
      containers_per_host=1,
      gke_accelerator="tpu-v6e-slice",
      gke_placement=False,
      dimensions=2,
      devices_per_chip=1,
      device_kind="TPU v6 lite",
      cores_per_device=1,
      topology_options={},
      topologies=_FLAT,
      clock=1.75e9,
      bf16_flops=918e12,
      hbm_bytes=32e9,
      hbm_usable=31.24 * 2**30,
      hbm_bandwidth=1638e9,
      ici_bandwidth=800e9,
      dcn_bandwidth=100e9 / 8,
    ),
    Generation(
      name="tpu7x",
      routes=("jobset",),
      accelerator="",
      counts="cores",
      runtime="",
      image_family="ubuntu-accel-2404-amd64-tpu-tpu7x",
      machine="tpu7x-standard-4t",
      chips_per_host=4,
      largest_host=4,
      containers_per_host=2,
      gke_accelerator="tpu7x",
      gke_placement=True,
      dimensions=3,
      devices_per_chip=2,
      device_kind="TPU7x",
      cores_per_device=1,
      topology_options={},
      topologies=("1x1x1", *_CUBES),
      clock=2.2e9,
      bf16_flops=2307e12,
      hbm_bytes=192e9,
      hbm_usable=94.74 * 2**30,
      hbm_bandwidth=7380e9,
      ici_bandwidth=1200e9,
      dcn_bandwidth=100e9 / 8,
    ),
  )
}


@dataclasses.dataclass(frozen=True)
class Slice:
  """A generation in a shape, such as v5e:16x16."""

  generation: Generation
  topology: str

  @property
  def name(self) -> str:
    """The name that `parse` reads, such as v5e:16x16."""
    return f"{self.generation.name}:{self.topology}"

  @property
  def sizes(self) -> tuple[int, ...]:
    """Chips along each axis."""
    return tuple(map(int, self.topology.split("x")))

  @property
  def chips(self) -> int:
    """Number of chips of the slice."""
    return math.prod(self.sizes)

  @property
  def chips_per_host(self) -> int:
    """Chips of a host; a small slice may have a smaller host than usual."""
    return min(self.chips, self.generation.chips_per_host)

  @property
  def hosts(self) -> int:
    """Number of hosts of the slice."""
    return self.chips // self.chips_per_host

  @property
  def queued_hosts(self) -> int:
    """Number of hosts of the slice if it comes from the Cloud TPU API."""
    small = self.chips <= self.generation.largest_host
    return 1 if small else self.hosts

  @property
  def machine(self) -> str:
    """The machine type of a host."""
    usual = f"-{self.generation.chips_per_host}t"
    stem = self.generation.machine.removesuffix(usual)
    return f"{stem}-{self.chips_per_host}t"

  @property
  def accelerator_type(self) -> str:
    """The type's name in the Cloud TPU API, such as v5litepod-256."""
    each = 2 if self.generation.counts == "cores" else 1
    return f"{self.generation.accelerator}-{self.chips * each}"

  @property
  def devices(self) -> int:
    """Number of devices that JAX shows."""
    return self.chips * self.generation.devices_per_chip

  @property
  def wrap(self) -> tuple[bool, ...]:
    """Which dimensions are rings.

    In two-dimensional generations a dimension of 16 chips is a ring; in others
    all are rings if every size is a multiple of 4.
    """
    if self.generation.dimensions == 2:
      return (*(size == 16 for size in self.sizes), False)
    return (all(size % 4 == 0 for size in self.sizes),) * 3


def parse(text: str) -> Slice:
  """'v5e:16x16' -> Slice; BadInput lists the shapes that libtpu supports."""
  name, _, topology = text.partition(":")
  if name not in GENERATIONS:
    raise BadInput(
      f"--topology={text}: no TPU generation {name!r}; there are"
      f" {', '.join(GENERATIONS)}, such as v5e:16x16"
    )
  generation = GENERATIONS[name]
  if topology not in generation.topologies:
    raise BadInput(
      f"--topology={text}: no such shape of {name}; known are"
      f" {', '.join(generation.topologies)}"
    )
  return Slice(generation, topology)


def compiler_options(
  options: Mapping[str, Mapping[str, Any]], platform: str, device_kind: str
) -> dict[str, Any]:
  """A config's compiler options for a device.

  Options are given by platform ("cpu", "gpu", "tpu") and by generation ("v5e"),
  since one generation's compiler may refuse those of another. Those of the
  generation take precedence.
  """
  known = {g.device_kind: name for name, g in GENERATIONS.items()}
  names = ("cpu", "gpu", "tpu", *GENERATIONS)
  for key in options:
    if key not in names:
      raise BadInput(
        f"compiler_options.{key}: no such platform; use {', '.join(names)}"
      )
  platform = {"cuda": "gpu", "rocm": "gpu"}.get(platform, platform)
  own = options.get(known.get(device_kind, ""), {})
  return {**options.get(platform, {}), **own}
