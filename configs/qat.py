"""Quantisation-aware training: finetuning that sees its weights quantised.

  embeddinggemma train --config=configs/qat.py:laptop,data=PAIRS,spec=int4 \
    --workdir=DIR --config.init_from=FINETUNED

Paper section 3.5, which publishes no sizes: the values below are ours, chosen on
the validation modules. Where there is no teacher, the vectors to match are
those of FINETUNED itself, of the texts that are read. `spec` says what for:
int4, mixed, int8, or llama.cpp's int8_block and q4_0.
"""

from ml_collections import ConfigDict

from embeddinggemma.config import parse_arg, sibling

# What differs by preset: steps, batch_size, lr, warmup_steps.
SIZES = {
  "laptop": (20, 64, 2e-4, 2),
  "tiny": (6, 16, 1e-3, 1),
  "embeddinggemma_300m": (5_000, 2_048, 1e-4, 250),
  "gemma3_270m": (5_000, 2_048, 1e-4, 250),
}
# Of specs that need another one. Mixed has one scale for a row of the table,
# whose spare dimension (data/lsa.py) is twenty times the others: rounding
# leaves little of them, and to come back they have far to go.
LRS = {"laptop": {"mixed": 5e-3}}
# Of the standard library's tasks: each has a shape of its own to compile.
TASKS = {"code": 3.0, "code_name": 2.0, "documentation": 1.0}


def get_config(arg: str | None = None) -> ConfigDict:
  args = parse_arg(arg, preset="laptop", data="", spec="int4")
  name, data, spec = args["preset"], args["data"], args["spec"]
  config = sibling(__file__, "finetune").get_config(f"{name},data={data}")
  steps, batch_size, lr, warmup_steps = SIZES[name]
  config.stage = "qat"
  config.steps = steps
  config.batch_size = batch_size
  config.every_checkpoint = min(max(steps // 4, 1), 500)
  config.optimizer.lr = LRS.get(name, {}).get(spec, lr)
  config.optimizer.warmup_steps = warmup_steps
  del config.lora  # the weights themselves learn
  if name == "laptop":
    config.negatives = 0
    if not data:
      config.data.weights = ConfigDict(TASKS)
  config.loss.distill = 30.0  # of the start's vectors, or of config.teacher's
  config.quantize = ConfigDict()
  config.quantize.spec = spec
  return config
