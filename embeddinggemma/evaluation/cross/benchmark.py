"""Questions in several languages over English passages, read from files."""

import dataclasses
from collections.abc import Collection, Mapping
from typing import Any

import numpy as np
from jaxtyping import Float, Int

from embeddinggemma.evaluation.cross import languages
from embeddinggemma.evaluation.cross.passages import Passages
from embeddinggemma.types import BadInput

# The task whose prompts questions and passages get: of those in the model card,
# that for questions.
PROMPTS = "qa_xling"

# Dimension -> the numbers of each question's nearest passages, best first; -1
# stands for none, where fewer were found.
Found = Mapping[int, Int[np.ndarray, "Q k"]]
# Dimension -> metric -> its value for each question.
Judged = Mapping[int, Mapping[str, Float[np.ndarray, "Q"]]]


@dataclasses.dataclass(frozen=True)
class Benchmark:
  """Questions in several languages, and passages in English."""

  questions: tuple[str, ...]
  languages: tuple[str, ...]  # of each question
  right: tuple[Any, ...]  # of each question, as its reader defines it
  passages: Passages
  split: str  # of the release, from which the questions are
  depth: int  # how many passages of a question are looked at
  notes: tuple[str, ...]  # what scores say less than they seem to


def require_known(origin: str, name: str) -> None:
  """BadInput, with the known ones, for a language whose family is unknown."""
  if not languages.is_known(name):
    raise BadInput(
      f"{origin}: unknown language {name!r}; known:"
      f" {', '.join(languages.LANGUAGES)}"
    )


def about_languages(
  asked: Collection[str], paper: Collection[str]
) -> list[str]:
  """Where the mean is over other languages than the paper's: a note."""
  here = [name for name in paper if name in asked]
  if not here:
    return [f"none of the paper's languages: {', '.join(paper)}"]
  missing = [name for name in paper if name not in asked]
  beside = sorted(set(asked) - set(paper))
  found = []
  if missing:
    found.append(
      f"the mean is over {len(here)} of the paper's {len(paper)} languages;"
      f" without {', '.join(missing)}"
    )
  if beside:
    found.append(f"not in the mean, as in the paper: {', '.join(beside)}")
  return found
