"""What looking costs: processor time of training with a probe and without.

  python tests/benchmarks/probe_cost.py [--preset=laptop] [--rounds=10]

The shipped config of pre-finetuning on one CPU device, on random texts, with a
look every so many steps as the config has it. Blocks of that many steps take
turns, one with a look and one without. What counts is the time of this process
on all cores, so that a busy machine changes little. Also prints what a look takes
alone, and what compiling it takes.
"""

import argparse
import dataclasses
import runpy
import statistics
import time

import grouping
import jax

from embeddinggemma import sharding
from embeddinggemma.losses import objectives
from embeddinggemma.training import probing, stages, step
from embeddinggemma.training.stages.pairs import PairConfig


class Side:
  """A training of one batch again and again, with or without a probe."""

  def __init__(self, config: PairConfig, every: int, batch):
    mesh = sharding.make_mesh(1, 1, jax.devices()[:1])
    stage = stages.make(dataclasses.replace(config, every_probe=every), mesh)
    options = config.compiler_options.get("cpu")
    self.state = step.init_state(stage, 0, mesh)
    self.program = step.ByShape(step.compile_step(stage, 0, mesh, options))
    self.batch = sharding.to_devices(batch, mesh)
    self.look = lambda number, metrics, batch: metrics
    if every:
      assert stage.probe
      probe = step.ByShape(step.compile_probe(stage.probe, options))
      self.look = probing.Prober(probe, every, every)

  def block(self, steps: int) -> float:
    """The seconds of so many steps, the last of which may be looked at."""
    began = time.process_time()
    for number in range(2, steps + 2):
      self.state, metrics = self.program(self.state, self.batch)
      found = self.look(number, metrics, self.batch)
    jax.block_until_ready((self.state, found))
    return time.process_time() - began

  def alone(self) -> float:
    """The seconds of one look."""
    self.state, metrics = self.program(self.state, self.batch)
    jax.block_until_ready(metrics)
    began = time.process_time()
    found = self.look(1, metrics, self.batch)
    found.pop(objectives.SEEN, None)
    jax.block_until_ready(found)
    return time.process_time() - began


def main() -> None:
  parser = argparse.ArgumentParser(description=__doc__)
  parser.add_argument("--preset", default="laptop")
  parser.add_argument("--rounds", type=int, default=10)
  args = parser.parse_args()
  get_config = runpy.run_path("configs/prefinetune.py")["get_config"]
  config = stages.build(get_config(args.preset).to_dict())
  assert isinstance(config, PairConfig)
  every = config.every_probe
  batch = grouping.batch_of(config, 1, 0).batch
  sides = {n: Side(config, n, batch) for n in (0, every)}
  compiling = sides[every].alone()
  sides[0].block(1)
  looks = [sides[every].alone() for _ in range(args.rounds)]
  seconds: dict[int, list[float]] = {n: [] for n in sides}
  for turn in range(args.rounds):
    # Who is first takes turns too.
    for n in (0, every) if turn % 2 else (every, 0):
      seconds[n].append(sides[n].block(every))
  plain, probed = (statistics.median(seconds[n]) / every for n in (0, every))
  ratios = [a / b for a, b in zip(seconds[every], seconds[0], strict=True)]
  look = statistics.median(looks)
  print(f"a step: {plain:.4f} s without, {probed:.4f} s with a look in {every}")
  print(f"ratio: {statistics.median(ratios):.4f}", sorted(ratios))
  print(f"a look: {look:.4f} s, {look / every / plain:.2%} of a step each")
  print(f"the first, with compilation: {compiling:.1f} s")


if __name__ == "__main__":
  main()
