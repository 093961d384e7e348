"""How an export is loaded, in each program that reads it: what its format says."""

from collections.abc import Sequence
from typing import NamedTuple

QUESTION = "how do I change my PIN"
ANSWER = "The PIN can be changed at any cash machine."
FOLDER = "path/to/this/folder"


class Example(NamedTuple):
  """A few lines of Python that load an export and compare two texts."""

  title: str
  install: str  # a command
  lines: Sequence[str]


class Loading(NamedTuple):
  """What a card says of an export's format."""

  library: str  # as the Hub calls what loads it
  tags: Sequence[str]
  frameworks: Sequence[str]  # as mteb calls them
  examples: Sequence[Example]


def of_ours(name: str) -> Example:
  """The lines for this program; `name` is what `load` is given."""
  return Example(
    "embeddinggemma",
    "pip install -e .  # in a checkout of embeddinggemma",
    (
      "import embeddinggemma as eg",
      "",
      f"model = eg.load({name!r})",
      f"queries = model.encode_query([{QUESTION!r}])",
      f"documents = model.encode_document([{ANSWER!r}])",
      "print(model.similarity(queries, documents))",
    ),
  )
