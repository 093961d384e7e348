"""What a preset consists of: a model's sizes, and those of its trainings."""

import dataclasses
from collections.abc import Mapping
from typing import NamedTuple

from embeddinggemma.model.config import ModelConfig


class Training(NamedTuple):
  """The sizes of one stage's training."""

  steps: int
  batch_size: int  # texts or pairs, over the whole mesh
  lr: float  # at its peak
  warmup_steps: int


class Search(NamedTuple):
  """How many mixtures are tried, and for how long."""

  steps: int  # of a trial
  dirichlet: int  # mixtures drawn at random
  proposed: int  # mixtures that the optimizer proposes after those


@dataclasses.dataclass(frozen=True)
class Preset:
  """A model and the sizes of its trainings, from which configs/ start.

  The paper publishes the model's sizes only; those of trainings are our choice.
  """

  model: ModelConfig
  # Whether it trains on two cores: one group of rows at a time, float32, no
  # Pallas kernels, and checkpoints by steps and not by time.
  small: bool
  # Whether pretraining and training on pairs start from latent semantic vectors
  # (data/lsa.py) as token embeddings, which the layers must not damage; else
  # they start at random.
  lsa: bool
  text_length: (
    int  # tokens of a text, and of the input and target of adaptation
  )
  pair_length: int  # tokens of a side of a pair
  pretrain: Training
  adapt: Training
  every_adapted: int  # steps between the checkpoints averaged after adaptation
  prefinetune: Training
  finetune: Training
  qat: Training
  mixture: Search
  # Task of the data -> its weight in quantisation-aware training, which then
  # reads no other tasks and no negatives; empty: the same as in finetuning.
  qat_tasks: Mapping[str, float] = dataclasses.field(default_factory=dict)
  # Spec of quantisation -> its own learning rate.
  qat_lr: Mapping[str, float] = dataclasses.field(default_factory=dict)
  # Task of the recipe -> measured seconds on two cores that do GFLOPS of configs/recipe.py,
  # for the plan that is printed first; tasks may be missing.
  seconds: Mapping[str, float] = dataclasses.field(default_factory=dict)
