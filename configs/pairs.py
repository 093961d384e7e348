"""Your own pairs on top of an embedding model: no teacher, no negatives needed.

  embeddinggemma run --config=configs/recipe.py:pairs,data=PAIRS,base=MODEL \\
    --workdir=DIR

PAIRS is a file or folder of pairs; MODEL is a checkpoint or the workdir of a
run or an import. Sizes, tokenizer and prompts are those of MODEL. Values that
are None follow from the pairs by what `choose` says. All of them are ours: the
paper publishes none.
"""

from ml_collections import ConfigDict
from ml_collections.config_dict import placeholder

from embeddinggemma.config import parse_arg, sibling
from embeddinggemma.data.prompts import TASKS


def get_config(arg: str | None = None) -> ConfigDict:
  args = parse_arg(arg, data="", base="")
  config = ConfigDict()
  config.base = args["base"]
  # "no_table" freezes the token embeddings; or "all"; or "lora".
  config.trainable = "no_table"
  config.lora = ConfigDict()
  config.lora.rank = 16
  config.lora.alpha = 32.0  # the factors' product is scaled by alpha / rank

  config.choose = ConfigDict()
  config.choose.batch_size = 64  # at most
  config.choose.epoch_batches = 8  # at least; batches shrink for few pairs
  config.choose.epochs = 3.0
  config.choose.fewest_steps = 20
  config.choose.most_steps = 2_000
  # Without an accelerator, smaller batches, and no more work in all than two
  # cores do in about seven minutes (150 to 200 GFLOP/s), if need be with fewer
  # epochs.
  config.choose.cpu = ConfigDict()
  config.choose.cpu.batch_tokens = 2_200
  config.choose.cpu.group_tokens = ConfigDict(
    {"all": 2_200, "no_table": 2_200, "lora": 800}
  )
  config.choose.cpu.tflop = 50.0
  config.choose.max_length = 256  # tokens; or the model's, if that is less
  config.choose.negatives = 1  # hard ones per query; 0 if the pairs have none
  config.choose.warmup = 0.1  # share of the steps
  config.choose.lr = ConfigDict({"all": 1e-5, "no_table": 1e-5, "lora": 1e-4})

  tuning = sibling(__file__, "finetune").get_config("laptop")
  del tuning.model, tuning.init, tuning.lora  # the base's; see trainable
  tuning.data.path = args["data"]
  # Every pair is as likely as any other.
  tuning.data.weights = ConfigDict({task: 1.0 for task in TASKS})
  tuning.data.size_exponent = 1.0
  tuning.negatives = placeholder(int)  # hard ones per query, at most
  tuning.loss.spread_out = 0.0
  tuning.loss.false_negative_margin = 0.1
  tuning.every_checkpoint = placeholder(int)
  tuning.every_minutes = 10.0
  tuning.optimizer.lr = placeholder(float)
  tuning.optimizer.warmup_steps = placeholder(int)
  config.finetune = tuning

  # Hard negatives, beside those that the pairs have.
  config.mine = sibling(__file__, "mine").get_config()
  config.mine.enabled = False
  # What forgetting is measured on: a folder of tasks, or the held-out half of
  # Python's standard library, with at most so many queries (and twice as many
  # pairs of sentences).
  config.general = ConfigDict()
  config.general.suite = ""
  config.general.queries = 100
  # A model whose mean is lower than the base's by more is not handed over.
  config.general.loss = 0.01
  # Candidates from the base to the best checkpoint, both included: the inner
  # ones are weighted means of the two.
  config.points = 3
  config.index = ConfigDict()
  config.index.input = ""  # a folder or a JSONL; empty: the pairs' positives
  config.index.dim = 256  # of the vectors; or the model's, if that is less
  config.memory = placeholder(float)  # GB to use; None: all that is free

  # Common values at the top: references to the same values in the stage.
  config.seed = tuning.seed
  open_ones = ("steps", "batch_size", "max_length", "groups_per_device")
  for name in open_ones:
    config[name] = placeholder(int)
  for name in ("seed", *open_ones):
    tuning[name] = config.get_ref(name)
  config.mesh, config.optimizer = tuning.mesh, tuning.optimizer
  return config
