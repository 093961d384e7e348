"""The whole recipe: raw text to a model that answers questions.

  embeddinggemma run --config=configs/recipe.py:laptop --workdir=DIR
  embeddinggemma run --config=configs/recipe.py:laptop,data=PAIRS --workdir=DIR
  embeddinggemma run --config=configs/recipe.py:pairs,data=PAIRS,base=MODEL \
    --workdir=DIR

PAIRS is a folder of */pairs.jsonl; without it, the text is Python's own
standard library and the documented packages beside it. `pairs` tunes a MODEL
that is there: see configs/pairs.py.
"""

from ml_collections import ConfigDict

from embeddinggemma.config import parse_arg, sibling
from embeddinggemma.recipes.whole.initialise import INITS
from embeddinggemma.types import BadInput

# Seconds of each stage on two cores that do so many GFLOP/s in float32, for
# the plan that is printed first; by preset, those that were measured.
SECONDS = {
  "laptop": {
    "tokenizer": 33.0,
    "text": 5.0,
    "pretrain": 45.0,
    "adapt": 50.0,
    "teach": 25.0,
    "initialise": 110.0,
    "prefinetune": 75.0,
    "mine": 20.0,
    "mixture": 110.0,
    "finetune": 40.0,
    "soup": 1.0,
    "qat": 60.0,
    "evaluate": 70.0,
    "export": 10.0,
    "index": 25.0,
  },
  "tiny": {
    "tokenizer": 1.0,
    "text": 1.0,
    "pretrain": 5.0,
    "adapt": 10.0,
    "teach": 2.0,
    "initialise": 30.0,
    "prefinetune": 25.0,
    "mine": 2.0,
    "mixture": 30.0,
    "finetune": 5.0,
    "soup": 1.0,
    "qat": 10.0,
    "evaluate": 10.0,
    "export": 5.0,
    "index": 5.0,
  },
}
GFLOPS = 150.0


def get_config(arg: str | None = None) -> ConfigDict:
  args = parse_arg(arg, preset="laptop", data="", base="")
  if args["preset"] == "pairs":
    own = sibling(__file__, "pairs")
    return own.get_config(f"data={args['data']},base={args['base']}")
  if args["base"]:
    raise BadInput(f"base={args['base']} is for configs/recipe.py:pairs")
  config = ConfigDict()
  config.pretrain = sibling(__file__, "pretrain").get_config(args["preset"])
  config.adapt = sibling(__file__, "adapt").get_config(args["preset"])
  config.prefinetune = sibling(__file__, "prefinetune").get_config(
    f"{args['preset']},data={args['data']}"
  )
  # A table of latent semantic vectors is for small vocabularies.
  small = args["preset"] in ("laptop", "tiny")
  config.prefinetune.init = "lsa" if small else "random"
  _distil(config.prefinetune, small)
  config.initialise = ConfigDict()
  config.initialise.inits = tuple(x for x in INITS if small or x != "lsa")
  config.initialise.seeds = (0,)  # of contrastive training
  config.initialise.steps = max(3 * config.prefinetune.steps // 20, 1)
  config.initialise.tasks = ("code",)  # what decides; where none is: all
  config.teach = sibling(__file__, "teach").get_config()
  config.teach.width = config.prefinetune.loss.get_ref("teacher_width")
  config.mine = sibling(__file__, "mine").get_config()
  if small:
    # To embed every training text takes as long as all of pre-finetuning.
    config.mine.search = "stemmed"
  mixture = sibling(__file__, "mixture")
  config.mixture = mixture.get_config(args["preset"]).search
  config.finetune = sibling(__file__, "finetune").get_config(args["preset"])
  _distil(config.finetune, small)
  qat = sibling(__file__, "qat")
  config.qat = qat.get_config(f"{args['preset']},data={args['data']}")
  del config.qat.quantize
  # A training for each; none: the stage is left out.
  config.qat.specs = ("int4", "mixed") if small else ("int4",)
  config.qat.lr = ConfigDict(qat.LRS.get(args["preset"], {}))  # of a spec
  config.export = ConfigDict()
  config.export.formats = ("sentence-transformers", "gguf")  # of the soup
  config.export.quantised = ("gguf",)  # of each that qat trained
  config.index = ConfigDict()
  config.index.input = ""  # a folder or a JSONL
  config.index.dim = min(256, config.prefinetune.model.embed_dim)
  # The finetuning half again with each of these seeds, and without teacher or
  # hard negatives: what each is worth. None: left out.
  config.ablation = ConfigDict()
  config.ablation.seeds = ()
  config.ablation.suite = ""  # tasks to score on besides the held-out ones
  config.seconds = ConfigDict(SECONDS.get(args["preset"], {}))
  config.gflops = GFLOPS

  # One model, text and mesh for all stages.
  for stage in (config.pretrain, config.adapt):
    stage.model = config.prefinetune.model
    stage.mesh = config.prefinetune.mesh
    stage.data = config.pretrain.data
  config.adapt.decoder = config.prefinetune.model

  # Finetuning reads the same pairs, in the same lengths, as pre-finetuning.
  tuning = config.prefinetune
  for stage in (config.finetune, config.qat):
    for name in ("model", "mesh", "init"):
      stage[name] = tuning[name]
  config.finetune.data = tuning.data
  for name in ("path", "skip_bad_rows", "tokenizer"):
    config.qat.data[name] = tuning.data.get_ref(name)

  # Common knobs at the top: references to the same values in the stages.
  config.seed = tuning.seed
  stages = (config.pretrain, config.adapt, tuning, config.finetune, config.qat)
  for stage in stages:
    stage.seed = config.get_ref("seed")
  for name in ("steps", "batch_size", "max_length", "groups_per_device"):
    config[name] = tuning[name]
    tuning[name] = config.get_ref(name)
  for stage in (config.finetune, config.qat):
    stage.max_length = config.get_ref("max_length")
  config.mesh, config.optimizer = tuning.mesh, tuning.optimizer
  return config


def _distil(stage: ConfigDict, small: bool) -> None:
  """The weight of distillation is ours; the paper publishes none."""
  stage.loss.distill = 1.0
  stage.loss.teacher_width = 512 if small else 768
