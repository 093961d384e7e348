"""The step through the real TPU compiler, where libtpu is installed."""

import importlib.util
import os
import pathlib
import re
import subprocess
import sys

import pytest
import test_mesh

from embeddinggemma.aot import environment

QUIET = environment.QUIET | {"JAX_PLATFORMS": "cpu", "XLA_FLAGS": ""}
PROGRAM = """
import sys
import jax
from jax.experimental import topologies
import test_mesh
from embeddinggemma import sharding, stages
from embeddinggemma.training import step

topology, slices, fsdp, rules = sys.argv[1:]
devices = topologies.get_topology_desc(
  platform="tpu", topology_name=topology, num_slices=int(slices)
).devices
mesh = sharding.make_mesh(-1, int(fsdp), devices)
assert mesh.size == 8
# `data` goes from slice to slice, `fsdp` stays in one.
slice_of = lambda device: getattr(device, "slice_index", 0)
assert all(len({slice_of(d) for d in row}) == 1 for row in mesh.devices)
assert len({slice_of(d) for d in mesh.devices[:, 0]}) == int(slices)
stage = stages.make(test_mesh.config("separate", rules), mesh)
state = step.abstract_state(stage, 0, mesh)
place = lambda x, s: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=s)
batch = jax.tree.map(
  lambda x: place(x, sharding.batch_sharding(mesh, x.shape)),
  test_mesh.batch(0, 8 * 4),
)
print(step.compile_step(stage, 0, mesh).lower(state, batch).compile().as_text())
"""
# One layer of a kind, as wide as a TPU's vectors; the gradient of its vectors.
KERNELS = """
import dataclasses, sys
import jax
from jax.experimental import topologies
from embeddinggemma.model import embedder
from embeddinggemma.presets import preset

attention, mlp = sys.argv[1:]
config = dataclasses.replace(
  preset("tiny").model, width=256, mlp_width=256, num_heads=2, head_dim=256,
  window=64, dtype="bfloat16", attention=attention, mlp=mlp,
)
device = topologies.get_topology_desc(
  platform="tpu", topology_name="v5e:1x1", chips_per_host_bounds=(1, 1, 1)
).devices[0]
place = lambda shape, dtype: jax.ShapeDtypeStruct(
  shape, dtype, sharding=jax.sharding.SingleDeviceSharding(device)
)
params = jax.eval_shape(embedder.init(config), jax.random.key(0))
params = jax.tree.map(lambda x: place(x.shape, x.dtype), params)
rows = place((2, 256), "int32")
encode = embedder.encode_group(config)
loss = lambda *a: encode(*a)[:, 0].sum()
step = jax.jit(jax.grad(loss)).lower(params, rows, rows, place((4,), "bool"))
print(step.compile().as_text())
"""
NEEDS_LIBTPU = pytest.mark.skipif(
  importlib.util.find_spec("libtpu") is None, reason="libtpu is not installed"
)


def run(program: str, *arguments: str) -> subprocess.CompletedProcess[str]:
  """A program in a process of its own, where the TPU compiler is quiet."""
  here = str(pathlib.Path(__file__).parent)
  paths = os.pathsep.join([here, os.environ.get("PYTHONPATH", "")])
  return subprocess.run(
    [sys.executable, "-c", program, *arguments],
    env=os.environ | QUIET | {"PYTHONPATH": paths},
    capture_output=True,
    text=True,
  )


@NEEDS_LIBTPU
@pytest.mark.parametrize(
  ("topology", "slices", "fsdp", "rules"),
  [
    ("v5e:2x4", "1", "2", "fsdp"),
    ("v5e:2x4", "1", "-1", "zero1"),  # data 2, a ring of 4
    ("v5e:2x2", "2", "-1", "zero1"),  # data over the network, a ring of 2
  ],
)
def test_the_step_for_a_v5e(topology, slices, fsdp, rules) -> None:
  done = run(PROGRAM, topology, slices, fsdp, rules)
  assert done.returncode == 0, done.stderr[-2000:]
  text = done.stdout
  assert " while(" in text
  assert test_mesh.collectives(text)
  assert not test_mesh.collectives_in_loops(text)
  assert not re.search(r" sort\(", text), "ids are sorted"
  # Each device is left with its part of the table's gradient.
  assert re.search(r" reduce-scatter\(|all-reduce-scatter", text)
  assert not re.search(r"= f32\[1024,32\]\S* all-reduce\(", text)


@NEEDS_LIBTPU
def test_an_axis_that_would_cross_slices_is_named() -> None:
  program = """
from jax.experimental import topologies
from embeddinggemma import sharding
devices = topologies.get_topology_desc(
  platform="tpu", topology_name="v5e:2x2", num_slices=2
).devices
try:
  sharding.make_mesh(-1, 8, devices)
except sharding.BadInput as error:
  print(error)
"""
  said = run(program).stdout
  assert said.startswith("mesh.fsdp=8 does not divide the 4 devices of one of")


@NEEDS_LIBTPU
@pytest.mark.parametrize(
  "attention, mlp, calls",
  # Of two layers: forward and backward; splash has two of the latter.
  [("splash", "xla", 2 * 3), ("fused", "fused", 2 * 4)],
)
def test_every_kernel_compiles_for_a_v5e(
  attention: str, mlp: str, calls: int
) -> None:
  done = run(KERNELS, attention, mlp)
  assert done.returncode == 0, done.stderr[-2000:]
  assert done.stdout.count('custom_call_target="tpu_custom_call"') == calls
