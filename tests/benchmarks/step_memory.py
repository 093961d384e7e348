"""Memory of the contrastive step as the batch grows and a group does not.

  python tests/benchmarks/step_memory.py --layers=2
  python tests/benchmarks/step_memory.py --layers=24 --topology=v5e:16x16

Needs libtpu and no TPU: the TPU compiler says what temporaries the program
needs. Beyond the smallest batch's they may grow by what a device must hold of
a larger batch: the candidates that it compares its queries with, and its rows
of the logits.
"""

import argparse
import dataclasses
import json
import os
import time

# Before jax is imported: the compiler looks for the machine of a TPU host.
os.environ |= {
  "JAX_PLATFORMS": "cpu",
  "TPU_SKIP_MDS_QUERY": "1",
  "TPU_WORKER_HOSTNAMES": "localhost",
  "TPU_WORKER_ID": "0",
  "ALLOW_MULTIPLE_LIBTPU_LOAD": "1",
}
os.environ.setdefault("TPU_ACCELERATOR_TYPE", "v5litepod-8")

import jax
import jax.numpy as jnp
from jax.experimental import topologies

from embeddinggemma import sharding
from embeddinggemma.config import (
  DataConfig,
  LossConfig,
  MeshConfig,
  OptimizerConfig,
)
from embeddinggemma.presets import preset
from embeddinggemma.training import stages, step
from embeddinggemma.training.stages.pairs import PairConfig
from embeddinggemma.types import PairBatch, Teacher, Text

MB = 1e6


def config(args: argparse.Namespace, batch_size: int) -> PairConfig:
  """Pre-finetuning with all losses on."""
  model = dataclasses.replace(
    preset(args.preset).model, num_layers=args.layers, dtype="bfloat16"
  )
  return PairConfig(
    stage="prefinetune",
    seed=0,
    steps=100,
    batch_size=batch_size,
    max_length=args.length,
    groups_per_device=1,
    calls="separate",
    init="random",
    init_from="",
    every_checkpoint=100,
    keep_checkpoints=1,
    compiler_options={},
    model=model,
    data=DataConfig("", False, {}, 0.5, ""),
    loss=LossConfig(0.05, True, 1.0, (), distill=1.0),
    optimizer=OptimizerConfig(1e-4, 10, 0.1, 0.0, 0.9, 0.99, 1e-8, 1.0),
    mesh=MeshConfig(-1, args.fsdp, args.rules),
    negatives=args.negatives,
  )


def batch_of(args: argparse.Namespace, batch_size: int, width: int):
  """Shapes of a batch in groups of `args.group` pairs, a text a row."""
  groups, shape = batch_size // args.group, jax.ShapeDtypeStruct

  def text(number: int) -> Text:
    ids = shape((groups, number, args.length), jnp.int32)
    return Text(ids, ids, shape((groups, number), jnp.bool_))

  vectors = shape((batch_size, width), jnp.float32)
  hard = args.negatives
  apart = shape((batch_size, hard, width), jnp.float32) if hard else None
  return PairBatch(
    text(args.group),
    text(args.group),
    text(args.group * hard) if hard else None,
    Teacher(vectors, vectors, apart),
    shape((batch_size, 2), jnp.uint32),
    shape((), jnp.int32),
  )


def compiled(args: argparse.Namespace, batch_size: int, mesh):
  """The program of a step, from shapes alone."""
  chosen = config(args, batch_size)
  stage = stages.make(chosen, mesh)
  state = step.abstract_state(stage, 0, mesh)
  place = lambda x, s: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=s)
  batch = jax.tree.map(
    lambda x: place(x, sharding.batch_sharding(mesh, x.shape)),
    batch_of(args, batch_size, chosen.model.embed_dim),
  )
  return step.compile_step(stage, 0, mesh).lower(state, batch).compile()


def main() -> None:
  parser = argparse.ArgumentParser(description=__doc__)
  parser.add_argument("--preset", default="embeddinggemma_300m")
  parser.add_argument("--layers", type=int, default=2)
  parser.add_argument("--length", type=int, default=128)
  parser.add_argument("--group", type=int, default=8)
  parser.add_argument("--negatives", type=int, default=0)
  parser.add_argument("--topology", default="v5e:16x16")
  parser.add_argument("--rules", default="zero1")
  parser.add_argument("--fsdp", type=int, default=1)
  parser.add_argument("--batches", default="4096,16384,65536")
  parser.add_argument("--text", default="", help="write programs to TEXT.B")
  args = parser.parse_args()
  devices = topologies.get_topology_desc(
    platform="tpu", topology_name=args.topology
  ).devices
  mesh = sharding.make_mesh(-1, args.fsdp, devices)
  width = preset(args.preset).model.embed_dim
  first = None
  for size in map(int, args.batches.split(",")):
    began = time.perf_counter()
    program = compiled(args, size, mesh)
    found = program.memory_analysis()
    temporaries = found.temp_size_in_bytes
    if args.text:
      with open(f"{args.text}.{size}", "w", encoding="utf-8") as file:
        file.write(program.as_text())
    held = 4 * size * width + 4 * size * size // mesh.size
    first = first or (temporaries, held)
    row = {
      "batch": size,
      "arguments_mb": round(found.argument_size_in_bytes / MB, 1),
      "temporaries_mb": round(temporaries / MB, 1),
      "grown_mb": round((temporaries - first[0]) / MB, 1),
      "allowed_mb": round(1.1 * (held - first[1]) / MB, 1),
      "embeddings_mb": round(4 * size * width / MB, 1),
      "logits_mb": round(4 * size * size / mesh.size / MB, 1),
      "seconds": round(time.perf_counter() - began),
    }
    print(json.dumps(row), flush=True)


if __name__ == "__main__":
  main()
