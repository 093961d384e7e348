"""What a suite of long documents is made of: lengths, their number, a seed."""

import dataclasses
import itertools
import json
import pathlib
from typing import Any

from embeddinggemma.config import at_least
from embeddinggemma.evaluation.long_context import facts
from embeddinggemma.types import BadInput

LENGTHS = (256, 512, 1024, 2048)  # tokens, up to what EmbeddingGemma reads
DOCUMENTS = 72  # of each length: 277,000 tokens of the lengths above
ABOUT_FILE = "suite.json"  # of a suite's folder: what it is made of
KIND = "long"  # its key "suite"
FEWEST = 12  # of ten or fewer, each is among the first ten


@dataclasses.dataclass(frozen=True)
class Spec:
  """The sizes of a suite; BadInput for what no text could give."""

  lengths: tuple[int, ...] = LENGTHS  # in tokens, prompt, BOS and EOS included
  documents: int = DOCUMENTS  # of each length, and queries of each task
  seed: int = 0

  def __post_init__(self) -> None:
    if any(a >= b for a, b in itertools.pairwise(self.lengths)):
      given = ",".join(map(str, self.lengths))
      better = ",".join(map(str, sorted(set(self.lengths))))
      raise BadInput(
        f"--lengths={given} must ascend, each once; use --lengths={better}"
      )
    at_least("documents", self.documents, FEWEST)
    at_least("seed", self.seed, 0)
    if self.documents > facts.MOST:
      raise BadInput(
        f"documents={self.documents} is more than the {facts.MOST} different"
        " facts there are; use fewer"
      )


def lengths_of(text: str) -> tuple[int, ...]:
  """The lengths that a flag names; BadInput for what is no whole number."""
  try:
    found = tuple(int(part) for part in text.split(","))
  except ValueError:
    found = ()
  if not found or min(found) < 1:
    raise BadInput(
      f"--lengths={text}: give numbers of tokens, such as"
      f" {','.join(map(str, LENGTHS))}"
    )
  return found


def about_of(folder: pathlib.Path) -> dict[str, Any]:
  """What a folder says that it is made of; {} if it is no suite of this kind."""
  try:
    found = json.loads((folder / ABOUT_FILE).read_text(encoding="utf-8"))
    return found if found["suite"] == KIND else {}
  except (OSError, ValueError, KeyError, TypeError):
    return {}
