"""The terms of the loss on pairs: TERMS is the table, a line each."""

from collections.abc import Callable, Sequence
from typing import NamedTuple

from embeddinggemma.config import LossConfig
from embeddinggemma.losses import (
  contrastive,
  distill,
  matryoshka,
  score_matching,
  spread_out,
)
from embeddinggemma.types import BadInput, LossTerm


class Given(NamedTuple):
  """What a term may depend on."""

  config: LossConfig
  dims: Sequence[int]  # the Matryoshka dimensions
  over_rows: contrastive.OverRows  # how logits are split over the devices
  # The same, half as many at once: beside a teacher's, they take as much memory.
  over_fewer: contrastive.OverRows


def _contrastive(given: Given) -> LossTerm:
  """InfoNCE with in-batch and hard negatives, at every Matryoshka dimension."""
  loss = given.config
  by_teacher = loss.false_negatives_by == "teacher"
  term = contrastive.info_nce(
    loss.temperature,
    loss.keep_positive,
    loss.hardness,
    given.over_fewer if by_teacher else given.over_rows,
    loss.false_negative_margin,
    loss.false_negatives_by,
  )
  return matryoshka.matryoshka(term, given.dims)


def _score_matching(given: Given) -> LossTerm:
  """The divergence from the teacher's scores, at every Matryoshka dimension."""
  term = score_matching.score_matching(
    given.config.score_temperature, given.over_fewer
  )
  return matryoshka.matryoshka(term, given.dims)


# Name -> the term. Its weight is LossConfig's field of that name; of weight 0, a
# term is not computed. Embedding matching sees the full width (section 2.2), and
# further prefixes of both models if it is told which.
TERMS: dict[str, Callable[[Given], LossTerm]] = {
  "contrastive": _contrastive,
  "spread_out": lambda given: matryoshka.matryoshka(
    spread_out.spread_out, given.dims
  ),
  "distill": lambda given: distill.embedding_matching(
    given.config.distance, given.config.distill_dims
  ),
  "score_matching": _score_matching,
}

# Terms that only shape what others teach. A batch whose pairs have nothing else
# to learn from moves no weight.
REGULARISERS = frozenset({"spread_out"})


def check(config: LossConfig) -> None:
  """Raise BadInput if no term has a weight from which a model can learn."""
  teaching = [name for name in TERMS if name not in REGULARISERS]
  if not any(getattr(config, name) for name in teaching):
    named = ", ".join(f"loss.{name}" for name in teaching)
    raise BadInput(
      f"nothing teaches: {named} are all 0; set one of these weights"
    )
