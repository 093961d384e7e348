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
stage = stages.make(test_mesh.config("separate"), mesh)
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


@pytest.mark.skipif(
  importlib.util.find_spec("libtpu") is None, reason="libtpu is not installed"
)
def test_no_collective_in_a_loop_for_a_v5e() -> None:
  here = str(pathlib.Path(__file__).parent)
  paths = os.pathsep.join([here, os.environ.get("PYTHONPATH", "")])
  done = subprocess.run(
    [sys.executable, "-c", PROGRAM],
    env=os.environ | QUIET | {"PYTHONPATH": paths},
    capture_output=True,
    text=True,
  )
  assert done.returncode == 0, done.stderr[-2000:]
  assert " while(" in done.stdout
  assert test_mesh.collectives(done.stdout)
  assert not test_mesh.collectives_in_loops(done.stdout)
