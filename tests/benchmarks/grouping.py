"""What grouping costs: tokens a second in several groups and in one.

  python tests/benchmarks/grouping.py [--preset=laptop] [--groups=2,4,8]

The shipped config of pre-finetuning on one CPU device, on random texts, all
losses on. The programs take turns, so that what else the machine does falls on
all of them; the ratio is of the medians. Also prints what the compiler says of
temporaries.
"""

import argparse
import dataclasses
import json
import runpy
import statistics
import time

import jax
import numpy as np

from embeddinggemma import sharding
from embeddinggemma.data import loader, mixture
from embeddinggemma.training import stages, step
from embeddinggemma.training.stages.pairs import PairConfig


def batch_of(config: PairConfig, groups: int, seed: int):
  """Random pairs, in so many groups, with a row for each 256 tokens."""
  rng = np.random.default_rng(seed)
  size, words = config.batch_size, config.model.vocab_size
  longest = config.max_length
  text = lambda low, high: rng.integers(
    4, words, rng.integers(low, high), dtype=np.int32
  )
  rows = mixture.Rows(
    "qa",
    [text(6, longest // 2) for _ in range(size)],
    [text(longest // 4, longest + 1) for _ in range(size)],
    rng.integers(0, 2**31, (size, 2)).astype(np.uint32),
    [""] * size,
  )
  packer = loader.Packer({"qa": rows}, size, groups, seed)
  return packer(mixture.Draw("qa", np.arange(size)))


def program_of(config: PairConfig, groups: int):
  """A compiled step, its state and its batch."""
  mesh = sharding.make_mesh(1, 1, jax.devices()[:1])
  stage = stages.make(config, mesh)
  state = step.init_state(stage, 0, mesh)
  loaded = batch_of(config, groups, 0)
  batch = sharding.to_devices(loaded.batch, mesh)
  options = config.compiler_options.get("cpu")
  run = step.compile_step(stage, 0, mesh, options).lower(state, batch).compile()
  return run, state, batch, loaded


def main() -> None:
  parser = argparse.ArgumentParser(description=__doc__)
  parser.add_argument("--preset", default="laptop")
  parser.add_argument("--groups", default="2,4,8")
  parser.add_argument("--layers", type=int, default=0)
  parser.add_argument("--steps", type=int, default=8)
  args = parser.parse_args()
  get_config = runpy.run_path("configs/prefinetune.py")["get_config"]
  config = stages.build(get_config(args.preset).to_dict())
  assert isinstance(config, PairConfig)
  if args.layers:
    model = dataclasses.replace(config.model, num_layers=args.layers)
    config = dataclasses.replace(config, model=model)
  numbers = [1, *map(int, args.groups.split(","))]
  held = {n: program_of(config, n) for n in numbers}
  states = {n: held[n][1] for n in numbers}
  seconds: dict[int, list[float]] = {n: [] for n in numbers}
  for turn in range(args.steps + 1):
    for n in numbers:
      run, _, batch, _ = held[n]
      began = time.perf_counter()
      states[n], metrics = run(states[n], batch)
      jax.block_until_ready((states[n], metrics))
      if turn:  # the first touches memory for the first time
        seconds[n].append(time.perf_counter() - began)
  one = statistics.median(seconds[1])
  for n in numbers:
    run, _, _, loaded = held[n]
    middle = statistics.median(seconds[n])
    row = {
      "groups": n,
      "tokens_per_second": round(loaded.tokens / middle),
      "positions": loaded.capacity,
      "seconds": round(middle, 3),
      "times_of_one_group": round(middle / one, 3),
      "temporaries_mb": round(
        run.memory_analysis().temp_size_in_bytes / 1e6, 1
      ),
    }
    print(json.dumps(row), flush=True)


if __name__ == "__main__":
  main()
