"""The terms of the loss on pairs: TERMS is the table, a line each."""

from collections.abc import Callable, Sequence
from typing import NamedTuple

from embeddinggemma.config import LossConfig
from embeddinggemma.losses import contrastive, distill, matryoshka, spread_out
from embeddinggemma.types import LossTerm


class Given(NamedTuple):
  """What a term may depend on."""

  config: LossConfig
  dims: Sequence[int]  # the Matryoshka dimensions
  over_rows: contrastive.OverRows  # how logits are split over the devices


def _contrastive(given: Given) -> LossTerm:
  """InfoNCE with in-batch and hard negatives, at every Matryoshka dimension."""
  loss = given.config
  term = contrastive.info_nce(
    loss.temperature,
    loss.keep_positive,
    loss.hardness,
    given.over_rows,
    loss.false_negative_margin,
  )
  return matryoshka.matryoshka(term, given.dims)


# Name -> the term. Its weight is LossConfig's field of that name; of weight 0, a
# term is not computed. Embedding matching sees the full width (section 2.2).
TERMS: dict[str, Callable[[Given], LossTerm]] = {
  "contrastive": _contrastive,
  "spread_out": lambda given: matryoshka.matryoshka(
    spread_out.spread_out, given.dims
  ),
  "distill": lambda given: distill.embedding_matching(given.config.distance),
}

# Terms that only shape what others teach. A batch whose pairs have nothing else
# to learn from moves no weight.
REGULARISERS = frozenset({"spread_out"})


def weight(config: LossConfig, name: str) -> float:
  """The weight of a term; the contrastive one, beside which others count, is 1."""
  return 1.0 if name == "contrastive" else getattr(config, name)
