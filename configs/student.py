"""A small model cut out of a base, and taught by it on your own text.

  embeddinggemma run --config=configs/recipe.py:student,base=MODEL,data=DATA \\
    --workdir=DIR

MODEL is a checkpoint or the workdir of a run or an import; DATA a file or a
folder of pairs or of texts. The values are ours and preliminary: the paper
(sections 2.2 and 3.5) publishes none.
"""

from ml_collections import ConfigDict
from ml_collections.config_dict import placeholder

from embeddinggemma.config import parse_arg, sibling
from embeddinggemma.data.prompts import TASKS


def get_config(arg: str | None = None) -> ConfigDict:
  args = parse_arg(arg, data="", base="")
  config = ConfigDict()
  config.base = args["base"]
  # So many first layers, or a list such as "0,1,2,5,11"; "": all.
  config.layers = "6"
  # Pieces at most, of those that the texts use; 0: all that the base has.
  config.vocabulary = 60_000
  # Of the whole run on this machine, as far as it is forecast: so many pairs or
  # passages are taught that it ends in time.
  config.minutes = 60.0

  config.choose = ConfigDict()
  config.choose.tokens = 2_000_000  # that are taught, at most
  config.choose.pairs = placeholder(int)  # that are taught, at most
  # Of distillation through what is taught. With more passes, less of the time
  # is the teacher's; one pass through more texts is better.
  config.choose.passes = 1.0
  # Steps of the other stages, as shares of those of distillation.
  config.choose.finetune = 0.25
  config.choose.qat = 0.1
  config.choose.warmup = 0.1  # share of a stage's steps

  config.teach = sibling(__file__, "teach").get_config()
  config.teach.teacher = ""  # the base itself

  config.distil = _stage("finetune", args["data"])
  config.distil.stage = "distil"
  config.distil.batch_size = 32  # texts
  config.distil.optimizer.lr = 1e-4
  _match(config.distil)

  config.finetune = _stage("finetune", args["data"])
  config.finetune.batch_size = 16
  config.finetune.negatives = 1  # hard ones per query, at most
  config.finetune.optimizer.lr = 5e-5
  config.finetune.loss.distill = 1.0  # so that it forgets less

  # On pairs as finetuning, and beside it matching the student in float; without
  # pairs the latter alone, on twice as many texts as there would be pairs.
  config.qat = _stage("qat", args["data"])
  config.qat.batch_size = 16
  config.qat.negatives = 1
  config.qat.optimizer.lr = 5e-5
  config.qat.loss.distill = 1.0
  config.qat.loss.distance = "cosine"
  config.qat.quantize.spec = "q4_0"  # llama.cpp's own int4, by blocks of 32

  # What the models are compared on: so many held-out queries in all, and so many
  # texts whose encoding is timed (0: none is).
  config.measure = ConfigDict()
  config.measure.queries = 300
  config.measure.timed = 64
  own = sibling(__file__, "pairs").get_config()
  config.general = own.general
  config.points = own.points
  config.export = ConfigDict()
  config.export.formats = ("sentence-transformers",)  # of the student in float
  config.export.quantised = ("gguf",)  # of the one in int4
  config.index = ConfigDict()
  # A folder or a JSONL; empty: your texts, or the pairs' positives.
  config.index.input = ""
  config.index.most = 2_000  # of the positives, drawn evenly; 0: all
  config.index.dim = 256  # of the vectors; or the base's, if that is less
  config.memory = placeholder(float)  # GB to use; None: all that is free

  # Common values at the top: references to the same values in the stages.
  config.seed, config.max_length = 0, 128  # tokens of a text
  config.mesh = config.distil.mesh
  for stage in (config.distil, config.finetune, config.qat):
    for name in ("seed", "max_length"):
      stage[name] = config.get_ref(name)
    stage.mesh = config.mesh
    stage.data = config.distil.data
  return config


def _match(stage: ConfigDict) -> None:
  """Let a stage learn the teacher's vectors of single texts, and nothing else.

  Of 200,000 tokens, score matching with a weight of 1 beside it left a student
  of six layers where it had started, and matching alone raised it by .07.
  """
  stage.loss.contrastive = 0.0
  stage.loss.distill = 1.0
  stage.loss.distance = "cosine"
  stage.loss.false_negative_margin = placeholder(float)


def _stage(name: str, data: str) -> ConfigDict:
  """A stage of training on pairs, of which the forecast fills what is open."""
  arg = "laptop,data=,spec=q4_0" if name == "qat" else "laptop"
  stage = sibling(__file__, name).get_config(arg)
  del stage.model, stage.init  # the base's
  if "lora" in stage:
    del stage.lora
  stage.data.path = data
  # Every pair is as likely as any other.
  stage.data.weights = ConfigDict({task: 1.0 for task in TASKS})
  stage.data.size_exponent = 1.0
  # The table keeps the base's values. One of the head's two products is enough.
  stage.frozen = ("embedding$", "model/up$")
  stage.negatives = 0
  stage.loss.spread_out = 0.0
  stage.loss.false_negative_margin = 0.1
  for key in ("steps", "every_checkpoint"):
    stage[key] = placeholder(int)
  stage.optimizer.warmup_steps = placeholder(int)
  stage.every_minutes = 5.0
  return stage
