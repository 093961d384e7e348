"""Pre-finetuning: contrastive training on pairs (paper section 2.3).

  embeddinggemma train --config=configs/prefinetune.py:laptop --workdir=DIR
  embeddinggemma train --config=configs/prefinetune.py:laptop,data=PAIRS ...

The paper publishes neither temperature, batch size, steps nor learning rate:
the values below are ours, chosen on the validation modules.
"""

import dataclasses

from ml_collections import ConfigDict
from ml_collections.config_dict import placeholder

from embeddinggemma.config import parse_arg
from embeddinggemma.data.prompts import TASKS
from embeddinggemma.model.config import LARGE, preset

# What differs by preset: steps, batch_size, max_length, lr, warmup_steps.
SIZES = {
  "laptop": (80, 128, 128, 3e-4, 8),
  "tiny": (20, 16, 32, 1e-2, 2),
  "embeddinggemma_300m": (20_000, 16_384, 512, 2e-4, 1_000),
  "gemma3_270m": (20_000, 16_384, 512, 2e-4, 1_000),
}

# Of the standard library's tasks; every other one weighs 1.
WEIGHTS = {
  "code": 3.0,
  "code_name": 2.0,
  "sts": 0.5,
  "heading": 0.5,
  "classification": 0.3,
}


def get_config(arg: str | None = None) -> ConfigDict:
  args = parse_arg(arg, preset="laptop", data="")
  model = preset(args["preset"])
  steps, batch_size, max_length, lr, warmup_steps = SIZES[args["preset"]]
  small = args["preset"] in ("laptop", "tiny")

  config = ConfigDict()
  config.stage = "prefinetune"
  config.seed = 0
  config.steps = steps
  config.batch_size = batch_size  # pairs, over the whole mesh
  config.max_length = max_length  # tokens, prompt, BOS and EOS included
  # More: less memory, one more forward pass. 0: as few as memory allows.
  config.groups_per_device = 1 if small else 0
  # "joint" halves what is compiled; "separate" is faster on TPU at 300M.
  config.calls = "joint" if small else "separate"
  config.init = "lsa" if args["preset"] == "laptop" else "random"
  config.init_from = ""  # a checkpoint; wins over init
  config.negatives = 0  # hard ones of a query, at most
  config.teacher = ""  # a folder of vectors that `teach` wrote
  config.frozen = ()  # patterns of parameters that keep their values
  config.lora = ConfigDict()
  config.lora.rank = 0  # above: low-rank factors learn, and nothing else
  config.lora.alpha = 16.0  # their product counts alpha / rank
  config.every_checkpoint = min(max(steps // 4, 1), 500)
  config.every_minutes = 0.0 if small else 5.0  # saves also by time; 0: no
  config.keep_checkpoints = 2
  config.guard = ConfigDict()
  config.guard.skips = 0  # bad batches to go back for and leave out, at most
  config.guard.jump = (
    0.0  # of a gradient norm, times its median; 0: any is fine
  )
  config.guard.window = 100  # norms that the median is of
  # Checked by the compiler. On CPU, level 1 halves compilation and costs no
  # speed: matrix products are library calls.
  config.compiler_options = ConfigDict(
    {"cpu": {"xla_backend_optimization_level": 1}}
  )
  config.model = ConfigDict(dataclasses.asdict(model))
  if not small:
    config.model.update(LARGE)

  config.data = ConfigDict()
  config.data.path = args["data"]  # a folder of */pairs.jsonl
  config.data.skip_bad_rows = False
  config.data.tokenizer = ""  # a SentencePiece model; empty: trained
  config.data.weights = ConfigDict({task: 1.0 for task in TASKS})
  config.data.weights.update(WEIGHTS)
  config.data.size_exponent = 0.5  # share = weight * pairs ** exponent

  config.loss = ConfigDict()
  config.loss.temperature = 0.05
  config.loss.keep_positive = True
  config.loss.spread_out = 1.0
  config.loss.matryoshka = ()  # the paper's dimensions, up to the model's
  config.loss.hardness = 5.0  # alpha, of a hard negative's weight
  # Another pair's positive that scores more than this above the own one is a
  # false negative, and left out; None: none is.
  config.loss.false_negative_margin = placeholder(float)
  config.loss.distill = 0.0  # weight of embedding matching with a teacher
  config.loss.distance = "l2"  # or "cosine"
  config.loss.teacher_width = 0  # of a projection to it; 0: as wide as ours

  config.optimizer = ConfigDict()
  config.optimizer.lr = lr
  config.optimizer.warmup_steps = warmup_steps
  config.optimizer.end_factor = 0.1
  config.optimizer.weight_decay = 0.0
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
