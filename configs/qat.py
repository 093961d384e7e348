"""Quantisation-aware training: finetuning that sees its weights quantised.

  embeddinggemma train --config=configs/qat.py:laptop,data=PAIRS,spec=int4 \
    --workdir=DIR --config.init_from=FINETUNED

Paper section 3.5, which publishes no sizes: the values below are ours, chosen
on the validation modules. Where there is no teacher, the vectors to match are
those of FINETUNED itself, of the texts that are read. `spec` is the precision
to train for: int4, mixed, int8, or llama.cpp's int8_block and q4_0.
"""

from ml_collections import ConfigDict

from embeddinggemma.config import parse_arg, sibling
from embeddinggemma.presets import preset


def get_config(arg: str | None = None) -> ConfigDict:
  args = parse_arg(arg, preset="laptop", data="", spec="int4")
  name, data, spec = args["preset"], args["data"], args["spec"]
  config = sibling(__file__, "finetune").get_config(f"{name},data={data}")
  preset_of = preset(name)
  sizes = preset_of.qat
  config.stage = "qat"
  config.steps = sizes.steps
  config.batch_size = sizes.batch_size
  config.every_checkpoint = min(max(sizes.steps // 4, 1), 500)
  config.optimizer.lr = preset_of.qat_lr.get(spec, sizes.lr)
  config.optimizer.warmup_steps = sizes.warmup_steps
  del config.lora  # the weights themselves are trained
  if preset_of.qat_tasks:
    config.negatives = 0
    if not data:
      config.data.weights = ConfigDict(preset_of.qat_tasks)
  # Weight of matching the initial checkpoint's vectors, or config.teacher's.
  config.loss.distill = 30.0
  config.quantize = ConfigDict()
  config.quantize.spec = spec
  return config
