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
from embeddinggemma.model.config import LARGE
from embeddinggemma.presets import preset

# Weights of some tasks of the standard library's data; all others weigh 1.
WEIGHTS = {
  "code": 3.0,
  "code_name": 2.0,
  "sts": 0.5,
  "heading": 0.5,
  "classification": 0.3,
}


def get_config(arg: str | None = None) -> ConfigDict:
  args = parse_arg(arg, preset="laptop", data="")
  preset_of = preset(args["preset"])
  sizes, small = preset_of.prefinetune, preset_of.small

  config = ConfigDict()
  config.stage = "prefinetune"
  config.seed = 0
  config.steps = sizes.steps
  config.batch_size = sizes.batch_size  # pairs, over the whole mesh
  # Tokens per text, prompt, BOS and EOS included.
  config.max_length = preset_of.pair_length
  # Parts of the batch that a device goes through. More than 1 need less memory
  # and one more forward pass; 0: as few as memory allows.
  config.groups_per_device = 1 if small else 0
  # Queries and positives are encoded in "joint" calls, which halve what is
  # compiled, or "separate" ones, which are faster on TPUs at 300M.
  config.calls = "joint" if small else "separate"
  config.init = "lsa" if preset_of.lsa else "random"
  config.init_from = ""  # a checkpoint; wins over init
  config.negatives = 0  # hard ones per query, at most
  config.teacher = ""  # a folder of vectors that `teach` wrote
  config.frozen = ()  # patterns of paths of parameters that are not trained
  config.lora = ConfigDict()
  config.lora.rank = 0  # above 0, only low-rank factors are trained
  config.lora.alpha = 16.0  # their product is scaled by alpha / rank
  config.every_checkpoint = min(max(sizes.steps // 4, 1), 500)
  config.every_minutes = 0.0 if small else 5.0  # also save by time; 0: no
  config.keep_checkpoints = 2
  # Steps between looks at how vectors lie and what pulls them; 0: none.
  config.every_probe = 10
  config.guard = ConfigDict()
  config.guard.skips = 0  # bad batches to roll back and skip, at most
  config.guard.jump = (
    0.0  # largest gradient norm, in multiples of its median; 0: no limit
  )
  config.guard.window = 100  # last norms, of which the median is taken
  # XLA's options by platform, which the compiler checks. On CPUs, level 1
  # halves compilation and costs no speed: matrix products are library calls.
  config.compiler_options = ConfigDict(
    {"cpu": {"xla_backend_optimization_level": 1}}
  )
  config.model = ConfigDict(dataclasses.asdict(preset_of.model))
  if not small:
    config.model.update(LARGE)

  config.data = ConfigDict()
  config.data.path = args["data"]  # a file or folder of pairs
  config.data.fields = ""  # which column is what; --fields sets it
  config.data.skip_bad_rows = False
  config.data.tokenizer = ""  # a SentencePiece model; empty: trained
  config.data.weights = ConfigDict({task: 1.0 for task in TASKS})
  config.data.weights.update(WEIGHTS)
  # Of texts.jsonl: texts without a partner, read where loss.contrastive is 0.
  config.data.texts_weight = 1.0
  config.data.size_exponent = 0.5  # share = weight * pairs ** exponent

  config.loss = ConfigDict()
  config.loss.contrastive = 1.0  # weight; 0 leaves the term out
  config.loss.temperature = 0.05
  config.loss.keep_positive = True
  config.loss.spread_out = 1.0
  # Matryoshka dimensions; (): the paper's, up to the model's own.
  config.loss.matryoshka = ()
  config.loss.hardness = 5.0  # alpha in a hard negative's weight
  # Another pair's positive whose cosine exceeds the own positive's by more than
  # this is left out as a false negative; None: none is. Usual is 0.1.
  config.loss.false_negative_margin = placeholder(float)
  config.loss.false_negatives_by = "student"  # or "teacher": whose cosines
  config.loss.distill = 0.0  # weight of embedding matching with a teacher
  config.loss.distance = "l2"  # or "cosine"
  # Dimensions at which prefixes are matched too, if the teacher was trained so.
  config.loss.distill_dims = ()
  # Weight of matching the teacher's scores within a batch, by KL divergence:
  # of vectors of any width, at this temperature.
  config.loss.score_matching = 0.0
  config.loss.score_temperature = 0.05
  # Dimension to which vectors are projected to match the teacher's; 0: none.
  config.loss.teacher_width = 0

  config.optimizer = ConfigDict()
  config.optimizer.lr = sizes.lr
  config.optimizer.warmup_steps = sizes.warmup_steps
  config.optimizer.end_factor = 0.1
  config.optimizer.weight_decay = 0.0
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
