"""All that a model card is written from, and small questions about it."""

import dataclasses
import re
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from embeddinggemma import checkpoint
from embeddinggemma.convert import origin
from embeddinggemma.convert.card import claim
from embeddinggemma.convert.card.loading import Loading
from embeddinggemma.convert.card.scores import Scores
from embeddinggemma.convert.write.exporting import Job, Written
from embeddinggemma.lineage import stages

_CODE = re.compile(r"(?i)([a-z]{2,3})(?:[-_][a-z0-9]+)*")
_WHOLE = ("multilingual", "code")


@dataclasses.dataclass(frozen=True)
class Facts:
  """An export, and all that is known of it."""

  job: Job
  written: Written
  loading: Loading
  certificate: Mapping[str, Any]
  scores: Sequence[Scores]
  command: str  # of this export; "" if it was made from Python

  @property
  def recipe(self) -> dict[str, Any]:
    """The content of recipe.json."""
    return checkpoint.recipe_of(self.job.files)

  @property
  def stages(self) -> list[dict[str, Any]]:
    """All stages through which the model went, as far as they are known."""
    return stages.of(self.recipe)

  @property
  def trainings(self) -> list[dict[str, Any]]:
    """The stages that changed weights."""
    return stages.of_training(self.stages)

  @property
  def base(self) -> origin.Base:
    """The published model from which the weights descend."""
    return origin.base(self.job.files)

  @property
  def claim(self) -> claim.Claim:
    """The licence that the card claims."""
    return claim.of(self.job.files, self.job.stated)

  @property
  def parameters(self) -> int:
    """How many numbers the model has."""
    return sum(int(np.prod(s.shape)) for s in self.job.shapes.values())

  @property
  def sources(self) -> list[Mapping[str, Any]]:
    """The sources of all training data, each once."""
    found: dict[str, Mapping[str, Any]] = {}
    for stage in self.trainings:
      for source in stages.sources(stage):
        found.setdefault(str(source["name"]), source)
    return list(found.values())

  @property
  def counted(self) -> dict[str, int]:
    """Pairs of training by language, of the stage that has most of each."""
    found: dict[str, int] = {}
    for stage in self.trainings:
      for language, count in stages.counts(stage, "languages").items():
        found[language] = max(count, found.get(language, 0))
    return dict(sorted(found.items(), key=lambda item: (-item[1], item[0])))

  @property
  def languages(self) -> list[str]:
    """The languages as the Hub has them: stated, counted, or of the sources."""
    told = [
      str(language)
      for source in self.sources
      for language in _list(source.get("languages"))
    ]
    given = self.job.stated.languages or tuple(self.counted) or tuple(told)
    return list(dict.fromkeys(filter(None, map(language_code, given))))


def language_code(language: str) -> str:
  """A language's code of two or three letters; "" if it is none."""
  if language.lower() in _WHOLE:
    return language.lower()
  found = _CODE.fullmatch(language)
  return found[1].lower() if found else ""


def _list(value: Any) -> list[Any]:
  return value if isinstance(value, list) else []
