"""The whole recipe: raw text to a model that answers questions.

  embeddinggemma run --config=configs/recipe.py:laptop --workdir=DIR
  embeddinggemma run --config=configs/recipe.py:laptop,data=PAIRS --workdir=DIR
  embeddinggemma run --config=configs/recipe.py:pairs,data=PAIRS,base=MODEL \
    --workdir=DIR
  embeddinggemma run --config=configs/recipe.py:student,base=MODEL,data=DATA \
    --workdir=DIR

PAIRS is a file or folder of pairs; without it, the text is Python's own
standard library and the documented packages beside it. `pairs` tunes a MODEL
that is there: see configs/pairs.py. `student` cuts a small model out of it, for
DATA of pairs or of texts: see configs/student.py.
"""

from ml_collections import ConfigDict

from embeddinggemma.config import parse_arg, sibling
from embeddinggemma.presets import preset
from embeddinggemma.report.starts import STARTS
from embeddinggemma.types import BadInput

# GFLOP/s in float32 of the two cores that took the presets' seconds.
GFLOPS = 150.0


def get_config(arg: str | None = None) -> ConfigDict:
  args = parse_arg(arg, preset="laptop", data="", base="")
  if args["preset"] in ("pairs", "student"):
    own = sibling(__file__, args["preset"])
    return own.get_config(f"data={args['data']},base={args['base']}")
  if args["base"]:
    raise BadInput(
      f"base={args['base']} is for configs/recipe.py:pairs or :student"
    )
  config = ConfigDict()
  config.pretrain = sibling(__file__, "pretrain").get_config(args["preset"])
  config.adapt = sibling(__file__, "adapt").get_config(args["preset"])
  config.prefinetune = sibling(__file__, "prefinetune").get_config(
    f"{args['preset']},data={args['data']}"
  )
  # A table of latent semantic vectors is for small vocabularies.
  preset_of = preset(args["preset"])
  small = preset_of.small
  config.prefinetune.init = "lsa" if small else "random"
  _distil(config.prefinetune, small)
  config.initialise = ConfigDict()
  config.initialise.inits = tuple(x for x in STARTS if small or x != "lsa")
  config.initialise.seeds = (0,)  # of contrastive training
  config.initialise.steps = max(3 * config.prefinetune.steps // 20, 1)
  config.initialise.tasks = ("code",)  # that decide; all, if there are none
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
  config.qat = sibling(__file__, "qat").get_config(
    f"{args['preset']},data={args['data']}"
  )
  del config.qat.quantize
  # One training per spec; without any, the stage is left out.
  config.qat.specs = ("int4", "mixed") if small else ("int4",)
  config.qat.lr = ConfigDict(dict(preset_of.qat_lr))  # spec -> its own one
  config.export = ConfigDict()
  config.export.formats = ("sentence-transformers", "gguf")  # of the soup
  config.export.quantised = ("gguf",)  # of each model that qat trained
  config.index = ConfigDict()
  # A folder or a JSONL; empty: the pairs' positives, or without pairs of your
  # own the standard library.
  config.index.input = ""
  config.index.dim = min(256, config.prefinetune.model.embed_dim)
  # Pre-finetuning and finetuning again with each of these seeds, whole and
  # without teacher or hard negatives, to see what each is worth. (): left out.
  config.ablation = ConfigDict()
  config.ablation.seeds = ()
  config.ablation.suite = ""  # tasks to score on besides the held-out ones
  config.seconds = ConfigDict(dict(preset_of.seconds))
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
  for name in ("path", "skip_bad_rows", "tokenizer", "fields"):
    config.qat.data[name] = tuning.data.get_ref(name)

  # Common values at the top: references to the same values in the stages.
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
  """Set a stage's distillation; the paper publishes no weight of it."""
  stage.loss.distill = 1.0
  stage.loss.teacher_width = 512 if small else 768
