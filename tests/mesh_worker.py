"""A process of a mesh: losses and first gradients of a few steps, to an .npz.

Started by tests/test_processes.py: mesh_worker.py OUTPUT KIND:DATA:FSDP:GROUPS ...
"""

import dataclasses
import functools
import pathlib
import sys

import jax
import numpy as np
import optax

sys.path.insert(0, str(pathlib.Path(__file__).parent))

import test_mesh

from embeddinggemma import distributed, sharding
from embeddinggemma.training import stages, step
from embeddinggemma.training.stages.pairs import CALLS


def run(kind: str, data: int, fsdp: int, groups: int) -> dict[str, np.ndarray]:
  """What `test_mesh.train` returns of one process, from all of them."""
  mesh = sharding.make_mesh(data, fsdp)
  if kind in CALLS:
    chosen, make = test_mesh.config(kind), test_mesh.batch
  else:
    chosen = test_mesh.language_config(kind)
    make = functools.partial(test_mesh.language_batch, kind)
  stage = stages.make(chosen, mesh)
  stage = dataclasses.replace(
    stage, optimizer=optax.chain(test_mesh.capture(), stage.optimizer)
  )
  state = step.init_state(stage, 0, mesh)
  program = step.ByShape(step.compile_step(stage, 0, mesh))
  losses, gradients = [], None
  for number in range(test_mesh.STEPS):
    batch = sharding.to_devices(make(number, mesh.size * groups), mesh)
    ready = program.compiled(state, batch)
    distributed.barrier("compiled")
    state, metrics = ready(state, batch)
    losses.append(float(metrics["loss"]))
    if gradients is None:
      whole = jax.sharding.NamedSharding(mesh, jax.sharding.PartitionSpec())
      gather = jax.jit(lambda tree: tree, out_shardings=whole)
      gradients = jax.device_get(gather(state.opt_state[0]))
  named = {
    f"{kind}/{n}": leaf for n, leaf in enumerate(jax.tree.leaves(gradients))
  }
  return {f"{kind}/losses": np.array(losses), **named}


def main() -> None:
  output, *cases = sys.argv[1:]
  with distributed.together():
    found = {}
    for case in cases:
      kind, *numbers = case.split(":")
      found |= run(kind, *map(int, numbers))
    if distributed.is_first():
      np.savez(output, **found)


if __name__ == "__main__":
  main()
