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
from embeddinggemma.model.config import LARGE
from embeddinggemma.presets import preset

# The arguments after the colon of --config, and their defaults.
ARGUMENTS = {"preset": "laptop", "data": "", "seqio": "", "module": ""}


def get_config(arg: str | None = None) -> ConfigDict:
  return from_arguments(parse_arg(arg, **ARGUMENTS))


def from_arguments(args: Mapping[str, Any]) -> ConfigDict:
  preset_of = preset(args["preset"])
  sizes, small, lsa = preset_of.pretrain, preset_of.small, preset_of.lsa

  config = ConfigDict()
  config.stage = "pretrain"
  config.seed = 0
  config.steps = sizes.steps
  config.batch_size = sizes.batch_size  # texts, over the whole mesh
  # Tokens per text; longer texts are cut into several.
  config.max_length = preset_of.text_length
  # Parts of the batch that a device goes through. More than 1 need less memory
  # and one more forward pass; 0: as few as memory allows.
  config.groups_per_device = 1 if small else 0
  config.init = "lsa" if lsa else "random"
  config.init_from = ""  # a checkpoint; wins over init
  # A language model first learns how frequent each word is, and writes that
  # into every vector: a table of latent semantic vectors loses its meaning, and
  # layers whose gains may grow drown it (validation nDCG falls from .54 to
  # .02). So the table and the gains are frozen; the model learns little, but
  # the next stage gets undamaged layers.
  config.frozen = ("embedding$", "post_.*norm") if lsa else ()
  config.every_checkpoint = min(max(sizes.steps // 4, 1), 500)
  config.every_minutes = 0.0 if small else 5.0  # also save by time; 0: no
  config.keep_checkpoints = 2
  config.guard = ConfigDict()
  config.guard.skips = 0  # bad batches to roll back and skip, at most
  config.guard.jump = (
    0.0  # largest gradient norm, in multiples of its median; 0: no limit
  )
  config.guard.window = 100  # last norms, of which the median is taken
  config.compiler_options = ConfigDict(
    {"cpu": {"xla_backend_optimization_level": 1}}
  )
  config.model = ConfigDict(dataclasses.asdict(preset_of.model))
  if not small:
    config.model.update(LARGE)
  config.vocab_block = 16_384  # vocabulary entries with logits held at once

  config.data = ConfigDict()
  # A folder that `prepare` made, or one of */pairs.jsonl, or of *.jsonl
  # ({"text"}) and *.txt (a text per line); empty: the texts of the pairs that
  # pre-finetuning reads.
  config.data.path = args["data"]
  config.data.fields = ""  # of pairs: which column is what
  config.data.skip_bad_rows = False
  config.data.tokenizer = ""  # a SentencePiece model; empty: trained
  config.data.seqio = args["seqio"]  # a registered task or mixture
  config.data.seqio_module = args["module"]  # the module that registers it
  config.data.seqio_feature = ""  # empty: the first feature that is text

  config.optimizer = ConfigDict()
  config.optimizer.lr = sizes.lr
  config.optimizer.warmup_steps = sizes.warmup_steps
  config.optimizer.end_factor = 0.1
  config.optimizer.weight_decay = 0.0 if lsa else 0.1
  config.optimizer.b1 = 0.9
  config.optimizer.b2 = 0.99
  config.optimizer.eps = 1e-8
  config.optimizer.clip_norm = 1.0

  config.mesh = ConfigDict()
  config.mesh.data = -1  # -1: all devices that the axis fsdp leaves
  config.mesh.fsdp = 1 if small else -1  # -1: a ring of the TPU's torus
  # "fsdp" shards the state over the axis fsdp, "zero1" the optimizer's state
  # over all devices.
  config.mesh.rules = "fsdp" if small else "zero1"
  return config
