"""The search for finetuning mixtures (paper section 3.3).

  embeddinggemma mixture --config=configs/mixture.py:laptop,data=PAIRS \
    --workdir=DIR --config.finetune.init_from=PREFINETUNED

The paper's search starts from a grid search's mixture and 10 Dirichlet samples;
it publishes neither the number of trials nor their length.
"""

from ml_collections import ConfigDict

from embeddinggemma.config import parse_arg, sibling
from embeddinggemma.presets import preset
from embeddinggemma.presets.preset import Search


def get_config(arg: str | None = None) -> ConfigDict:
  name = parse_arg(arg, preset="laptop", data="")["preset"]
  config = ConfigDict()
  config.finetune = sibling(__file__, "finetune").get_config(arg)
  config.search = search(preset(name).mixture)
  return config


def search(sizes: Search) -> ConfigDict:
  """Which mixtures are tried, and how many of them are picked."""
  config = ConfigDict()
  config.steps = sizes.steps  # updates per trial
  # Mixtures to try first, as ({task: share}, ...); before them, that of
  # finetune.data.weights.
  config.given = ()
  config.dirichlet = sizes.dirichlet  # mixtures drawn at random
  config.proposed = sizes.proposed  # mixtures proposed by the optimizer
  config.pick = 3  # mixtures to finetune with; the results are averaged
  # Weight of a mixture's distance to those picked before, beside its score.
  config.diversity = 1.0
  config.seed = 0
  config.optimizer = ConfigDict()
  config.optimizer.name = "vizier"  # or "random"
  config.optimizer.alpha = 1.0  # of the Dirichlet distribution; 1 is uniform
  config.optimizer.evaluations = 3_000  # of the acquisition function
  return config
