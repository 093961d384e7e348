"""A small causal language model, for when there is no Gemma checkpoint.

  embeddinggemma train --config=configs/pretrain.py:laptop --workdir=DIR
  embeddinggemma prepare --config=configs/pretrain.py:laptop,seqio=TASK ...

The paper starts from a 300M Gemma 3 decoder, which is not public: import
gemma-3-270m instead where you can. The values below are ours.
"""

import dataclasses
from collections.abc import Mapping
from typing import Any

from ml_collections import ConfigDict

from embeddinggemma.config import parse_arg
from embeddinggemma.model.config import LARGE, preset

# What differs by preset: steps, batch_size, max_length, lr, warmup_steps.
SIZES = {
  "laptop": (120, 8, 128, 3e-3, 12),
  "tiny": (10, 16, 32, 1e-2, 2),
  "embeddinggemma_300m": (100_000, 2_048, 2_048, 3e-4, 1_000),
  "gemma3_270m": (100_000, 2_048, 2_048, 3e-4, 1_000),
}


# What may stand behind the colon of --config, and its defaults.
ARGUMENTS = {"preset": "laptop", "data": "", "seqio": "", "module": ""}


def get_config(arg: str | None = None) -> ConfigDict:
  return from_arguments(parse_arg(arg, **ARGUMENTS))


def from_arguments(args: Mapping[str, Any]) -> ConfigDict:
  model = preset(args["preset"])
  steps, batch_size, max_length, lr, warmup_steps = SIZES[args["preset"]]
  laptop = args["preset"] == "laptop"
  small = args["preset"] in ("laptop", "tiny")

  config = ConfigDict()
  config.stage = "pretrain"
  config.seed = 0
  config.steps = steps
  config.batch_size = batch_size  # texts, over the whole mesh
  config.max_length = max_length  # tokens; longer texts are cut into several
  # More: less memory, one more forward pass. 0: as few as memory allows.
  config.groups_per_device = 1 if small else 0
  config.init = "lsa" if laptop else "random"
  config.init_from = ""  # a checkpoint; wins over init
  # What a language model learns first, how frequent each word is, it writes
  # into every vector: a table of latent semantic vectors loses its meaning,
  # and layers whose gains may grow drown it (validation nDCG .02 from .54).
  # So this model hardly learns, and its layers are handed on undamaged.
  config.frozen = ("embedding$", "post_.*norm") if laptop else ()
  config.every_checkpoint = min(max(steps // 4, 1), 500)
  config.every_minutes = 0.0 if small else 5.0  # saves also by time; 0: no
  config.keep_checkpoints = 2
  config.guard = ConfigDict()
  config.guard.skips = 0  # bad batches to go back for and leave out, at most
  config.guard.jump = (
    0.0  # of a gradient norm, times its median; 0: any is fine
  )
  config.guard.window = 100  # norms that the median is of
  config.compiler_options = ConfigDict(
    {"cpu": {"xla_backend_optimization_level": 1}}
  )
  config.model = ConfigDict(dataclasses.asdict(model))
  if not small:
    config.model.update(LARGE)
  config.vocab_block = 16_384  # words whose logits are held at once

  config.data = ConfigDict()
  # What `prepare` made, */pairs.jsonl, or *.jsonl ({"text"}) and *.txt (a text
  # a line); empty: the texts of the same pairs that pre-finetuning reads.
  config.data.path = args["data"]
  config.data.skip_bad_rows = False
  config.data.tokenizer = ""  # a SentencePiece model; empty: trained
  config.data.seqio = args["seqio"]  # a registered task or mixture
  config.data.seqio_module = args["module"]  # what registers it
  config.data.seqio_feature = ""  # empty: the first that is text

  config.optimizer = ConfigDict()
  config.optimizer.lr = lr
  config.optimizer.warmup_steps = warmup_steps
  config.optimizer.end_factor = 0.1
  config.optimizer.weight_decay = 0.0 if laptop else 0.1
  config.optimizer.b1 = 0.9
  config.optimizer.b2 = 0.99
  config.optimizer.eps = 1e-8
  config.optimizer.clip_norm = 1.0

  config.mesh = ConfigDict()
  config.mesh.data = -1  # all devices that fsdp leaves
  config.mesh.fsdp = 1 if small else -1  # -1: a ring of the TPU's torus
  # "fsdp" splits the state over fsdp, "zero1" the optimizer's over all devices.
  config.mesh.rules = "fsdp" if small else "zero1"
  return config
