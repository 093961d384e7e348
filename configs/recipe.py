"""The whole recipe: tokenizer, pre-finetuning, evaluation, index.

  embeddinggemma run --config=configs/recipe.py:laptop --workdir=DIR
  embeddinggemma run --config=configs/recipe.py:laptop,data=PAIRS --workdir=DIR

PAIRS is a folder of */pairs.jsonl; without it, the text is Python's own
standard library and the documented packages beside it.
"""

import importlib.util
import pathlib
import types

from ml_collections import ConfigDict

from embeddinggemma.config import parse_arg

# Seconds of each stage on two cores that do so many GFLOP/s in float32, for
# the plan that is printed first; by preset, those that were measured.
SECONDS = {
  "laptop": {
    "tokenizer": 33.0,
    "prefinetune": 125.0,
    "evaluate": 34.0,
    "index": 25.0,
  },
  "tiny": {
    "tokenizer": 1.0,
    "prefinetune": 25.0,
    "evaluate": 10.0,
    "index": 5.0,
  },
}
GFLOPS = 150.0


def get_config(arg: str | None = None) -> ConfigDict:
  args = parse_arg(arg, preset="laptop", data="")
  config = ConfigDict()
  config.prefinetune = _sibling("prefinetune").get_config(
    f"{args['preset']},data={args['data']}"
  )
  config.index = ConfigDict()
  config.index.input = ""  # a folder or a JSONL
  config.index.dim = min(256, config.prefinetune.model.embed_dim)
  config.seconds = ConfigDict(SECONDS.get(args["preset"], {}))
  config.gflops = GFLOPS

  # Common knobs at the top: references to the same values in the stages.
  tuning = config.prefinetune
  for name in (
    "seed",
    "steps",
    "batch_size",
    "max_length",
    "groups_per_device",
  ):
    config[name] = tuning[name]
    tuning[name] = config.get_ref(name)
  config.mesh, config.optimizer = tuning.mesh, tuning.optimizer
  return config


def _sibling(name: str) -> types.ModuleType:
  path = pathlib.Path(__file__).with_name(f"{name}.py")
  spec = importlib.util.spec_from_file_location(name, path)
  assert spec and spec.loader
  module = importlib.util.module_from_spec(spec)
  spec.loader.exec_module(module)
  return module
