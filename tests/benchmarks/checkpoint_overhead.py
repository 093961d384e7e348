"""How long the step loop stands still for a checkpoint of 300M parameters.

  python tests/benchmarks/checkpoint_overhead.py [--preset=embeddinggemma_300m]

Saves AdamW's whole state (parameters and two moments, float32) of the model
twice: asynchronously, as training does, and waiting for the disk. What counts
is the time until `save` returns, and with it the step loop: the rest of an
asynchronous save goes on beside the steps. Aim: below 10%. Also, how much
longer computations take while such a save is being written.
"""

import argparse
import os
import pathlib
import shutil
import statistics
import sys
import tempfile
import time
from collections.abc import Callable

os.environ.setdefault("JAX_PLATFORMS", "cpu")
sys.path.insert(0, str(pathlib.Path(__file__).parents[2]))

import jax
import jax.numpy as jnp
import numpy as np
import optax

from embeddinggemma.model import embedder
from embeddinggemma.presets import preset
from embeddinggemma.training import checkpoints
from embeddinggemma.types import TrainState


def seconds(work: Callable[[], None]) -> float:
  began = time.perf_counter()
  work()
  return time.perf_counter() - began


def main() -> None:
  parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
  parser.add_argument("--preset", default="embeddinggemma_300m")
  parser.add_argument("--workdir", type=pathlib.Path)
  given = parser.parse_args()
  place = given.workdir or pathlib.Path(tempfile.mkdtemp())
  init = embedder.init(preset(given.preset).model)
  shapes = jax.eval_shape(init, jax.random.key(0))
  # Numbers that do not compress, as weights.
  fill = jax.jit(jax.random.normal, static_argnames=("shape", "dtype"))
  keys = iter(jax.random.split(jax.random.key(0), 5000))
  noise = lambda tree: jax.tree.map(
    lambda x: (
      fill(next(keys), shape=x.shape, dtype=x.dtype)
      if x.ndim
      else jnp.zeros(x.shape, x.dtype)
    ),
    tree,
  )
  moments = jax.eval_shape(optax.adam(1.0).init, shapes)
  state = jax.block_until_ready(
    TrainState(jnp.zeros((), jnp.int32), noise(shapes), noise(moments))
  )
  size = sum(x.nbytes for x in jax.tree.leaves(state))
  print(f"{given.preset}: a state of {size / 1e9:.2f} GB", flush=True)

  work = jax.jit(lambda x: jnp.tanh(x @ x))
  x = jnp.ones((1024, 1024)) / 1024
  step = lambda: seconds(lambda: work(x).block_until_ready())
  step()
  quiet = statistics.median(step() for _ in range(50))

  results = {}
  for name in ("synchronous", "asynchronous"):
    workdir = place / name
    store = checkpoints.Checkpoints(
      workdir, asynchronous=name == "asynchronous"
    )
    save = lambda n, s=store: s.save(n, state, {"next_index": n}, {})
    save(1)  # the first one also starts threads and makes folders
    store.wait()
    blocked = seconds(lambda s=save: s(2))
    steps, began = [], time.perf_counter()
    if name == "asynchronous":
      while store.saving():
        steps.append(step())
    store.wait()
    rest = time.perf_counter() - began
    store.close()
    results[name] = blocked
    print(f"{name}: {blocked:.2f} s until save returns, then {rest:.2f} s")
    if steps:
      slow = statistics.median(steps) / quiet
      print(f"  meanwhile a computation takes {slow:.2f} times as long")
    shutil.rmtree(workdir)
  share = results["asynchronous"] / results["synchronous"]
  print(f"the step loop is blocked {100 * share:.1f}% of a synchronous save")
  assert np.isfinite(share)


if __name__ == "__main__":
  main()
