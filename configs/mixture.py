"""The search for finetuning mixtures (paper section 3.3).

  embeddinggemma mixture --config=configs/mixture.py:laptop,data=PAIRS \
    --workdir=DIR --config.finetune.init_from=PREFINETUNED

The paper's search starts from a grid search's mixture and 10 Dirichlet samples;
it publishes neither the number of trials nor their length.
"""

from ml_collections import ConfigDict

from embeddinggemma.config import parse_arg, sibling

# What differs by preset: steps of a trial, Dirichlet samples, proposals.
SIZES = {
  "laptop": (6, 2, 2),
  "tiny": (3, 2, 2),
  "embeddinggemma_300m": (1_000, 10, 30),
  "gemma3_270m": (1_000, 10, 30),
}


def get_config(arg: str | None = None) -> ConfigDict:
  steps, dirichlet, proposed = SIZES[
    parse_arg(arg, preset="laptop", data="")["preset"]
  ]
  config = ConfigDict()
  config.finetune = sibling(__file__, "finetune").get_config(arg)
  config.search = search(steps, dirichlet, proposed)
  return config


def search(steps: int, dirichlet: int, proposed: int) -> ConfigDict:
  """What is tried, and what is picked of it."""
  config = ConfigDict()
  config.steps = steps  # of a trial
  # Mixtures to try first, as ({task: share}, ...); before them, that of
  # finetune.data.weights.
  config.given = ()
  config.dirichlet = dirichlet  # samples
  config.proposed = proposed  # by the optimizer
  config.pick = 3  # mixtures that are finetuned on, and souped
  # What unlikeness to the picked ones is worth beside the score; 0: nothing.
  config.diversity = 1.0
  config.seed = 0
  config.optimizer = ConfigDict()
  config.optimizer.name = "vizier"  # or "random"
  config.optimizer.alpha = 1.0  # of the Dirichlet: 1 is uniform
  config.optimizer.evaluations = 3_000  # of the acquisition function
  return config
