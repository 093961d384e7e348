"""The step through the real TPU compiler, where libtpu is installed."""

import importlib.util
import os
import pathlib
import subprocess
import sys

import pytest
import test_mesh

QUIET = {
  "JAX_PLATFORMS": "cpu",
  "XLA_FLAGS": "",
  "TPU_SKIP_MDS_QUERY": "1",
  "TPU_ACCELERATOR_TYPE": "v5litepod-8",
  "TPU_WORKER_HOSTNAMES": "localhost",
  "TPU_WORKER_ID": "0",
  "ALLOW_MULTIPLE_LIBTPU_LOAD": "1",
}
PROGRAM = """
import jax
from jax.experimental import topologies
import test_mesh
from embeddinggemma import sharding, stages
from embeddinggemma.training import step

devices = topologies.get_topology_desc(
  platform="tpu", topology_name="v5e:2x4"
).devices
mesh = sharding.make_mesh(4, 2, devices)
stage = stages.prefinetune(test_mesh.config("separate"), mesh)
state = jax.eval_shape(lambda: step.abstract_state(stage, 0))
shardings = sharding.tree_shardings(state, mesh)
place = lambda x, s: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=s)
state = jax.tree.map(place, state, shardings)
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
from embeddinggemma.model.config import preset

attention, mlp = sys.argv[1:]
config = dataclasses.replace(
  preset("tiny"), width=256, mlp_width=256, num_heads=2, head_dim=256,
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
needs_libtpu = pytest.mark.skipif(
  importlib.util.find_spec("libtpu") is None, reason="libtpu is not installed"
)


def compiled(program: str, *args: str) -> str:
  """The text that a program prints which compiles for a TPU."""
  here = str(pathlib.Path(__file__).parent)
  paths = os.pathsep.join([here, os.environ.get("PYTHONPATH", "")])
  done = subprocess.run(
    [sys.executable, "-c", program, *args],
    env=os.environ | QUIET | {"PYTHONPATH": paths},
    capture_output=True,
    text=True,
  )
  assert done.returncode == 0, done.stderr[-2000:]
  return done.stdout


@needs_libtpu
def test_no_collective_in_a_loop_for_a_v5e() -> None:
  text = compiled(PROGRAM)
  assert " while(" in text
  assert test_mesh.collectives(text)
  assert not test_mesh.collectives_in_loops(text)


@needs_libtpu
@pytest.mark.parametrize(
  "attention, mlp, calls",
  # Of two layers: forward and backward; splash has two of the latter.
  [("splash", "xla", 2 * 3), ("fused", "fused", 2 * 4)],
)
def test_every_kernel_compiles_for_a_v5e(
  attention: str, mlp: str, calls: int
) -> None:
  text = compiled(KERNELS, attention, mlp)
  assert text.count('custom_call_target="tpu_custom_call"') == calls
