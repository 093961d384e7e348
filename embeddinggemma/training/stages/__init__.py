"""The stages of training: each kind one file, each name one line of KINDS.

Pre-finetuning, finetuning and quantisation-aware training are one function of
three configs (paper sections 2.3 and 3.5); the language-model stages before
them differ in objective and batch alone.
"""

import dataclasses
from collections.abc import Callable, Mapping
from typing import Any

import jax
from jax.sharding import Mesh

from embeddinggemma import config as config_lib
from embeddinggemma import sharding
from embeddinggemma.config import suggest
from embeddinggemma.data import packing
from embeddinggemma.model.kernels import choose
from embeddinggemma.training import memory
from embeddinggemma.training.config import TrainConfig
from embeddinggemma.training.stages import language, pairs, qat
from embeddinggemma.training.stages.kind import Kind
from embeddinggemma.types import BadInput, Key, Params, Stage

KINDS: dict[str, Kind] = {
  "pretrain": language.PRETRAIN,
  "adapt": language.ADAPT,
  "prefinetune": pairs.KIND,
  "finetune": pairs.KIND,
  "distil": pairs.KIND,  # of a student
  "qat": qat.KIND,
}


def named(name: str) -> Kind:
  """The kind of the stage with this name; BadInput if there is none."""
  if name not in KINDS:
    raise BadInput(f"unknown stage {name!r}{suggest(str(name), list(KINDS))}")
  return KINDS[name]


def kind_of(config: TrainConfig) -> Kind:
  """The kind of a config's stage, which answers everything that differs."""
  return named(config.stage)


def build(tree: Mapping[str, Any]) -> TrainConfig:
  """The stage's config from a (resolved) ConfigDict's tree."""
  return config_lib.build(named(tree.get("stage", "")).config, tree)


def make(config: TrainConfig, mesh: Mesh) -> Stage:
  """The stage of a config; BadInput where its devices cannot run it."""
  config = for_device(config, mesh.devices.flat[0])
  return kind_of(config).make(config, mesh)


def for_device(config: TrainConfig, device: jax.Device) -> TrainConfig:
  """The config as this kind of device runs it; BadInput if it cannot."""
  run = lambda model: choose.for_device(
    model, device.platform, device.device_kind
  )
  sides: dict[str, Any] = {
    key: run(getattr(config, key)) for key in kind_of(config).models
  }
  return dataclasses.replace(config, **sides)


def init(config: TrainConfig) -> Callable[[Key], Params]:
  """A function key -> fresh parameters of the stage's model."""
  return kind_of(config).init(config)


def groups(
  config: TrainConfig, devices: int, capacity: int | None = None
) -> int:
  """The number of groups that a device goes through in a step.

  Args:
    config: of the stage.
    devices: number of devices of the mesh.
    capacity: bytes of a device's memory; None: as this machine's devices
      report. A device that reports none, such as a CPU, gets one group.

  Raises:
    BadInput: the batch does not divide into the groups of all devices.
  """
  number = config.groups_per_device or 1
  packing.check_groups(config.batch_size, devices * number, config.stage)
  if config.groups_per_device:
    return number
  if capacity is None:
    config = for_device(config, jax.devices()[0])
    capacity = sharding.memory_limit()
  if not capacity:
    return 1
  return memory.fewest_groups(work(config, devices), capacity)


def work(config: TrainConfig, devices: int) -> memory.Work:
  """What each device computes in a step, to estimate its memory.

  Each text counts as the longest. The sharding of the state follows from the
  config alone, so no device is needed.
  """
  kind = kind_of(config)
  calls, losses = kind.work(config, devices)
  shapes = jax.eval_shape(init(config), jax.random.key(0))
  size = 4 * sum(leaf.size for leaf in jax.tree.leaves(shapes))
  moments = (
    devices if config.mesh.rules == "zero1" else max(config.mesh.fsdp, 1)
  )
  whole = 1 if config.mesh.rules == "zero1" else moments
  return memory.Work(
    texts=config.batch_size // devices,
    calls=calls,
    state_bytes=kind.copies * size // whole + 2 * size // moments,
    parameter_bytes=size,
    loss_bytes=losses,
  )
