"""The tables that were published of EmbeddingGemma and of its peers.

A file of `tables/` is a suite: its tasks with their type and main metric, as
mteb has them, and every published result with its source. Scores are
percentages with the digits that were printed. Of a model of which only a mean
was published, there is only the mean.
"""

import functools
import json
import pathlib
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

# What a result is of: EmbeddingGemma as released, a model of the paper's
# ablations, or another model.
PAPER, ABLATION, PEER = "paper", "ablation", "peer"


class Task(NamedTuple):
  """A task of a suite."""

  type: str  # under which the mean over types counts it
  metric: str  # its main one


class Result(NamedTuple):
  """The published scores of one model, in percent."""

  model: str
  of: str  # PAPER, ABLATION or PEER
  source: str
  dimension: int | None = None  # None: not said
  precision: str = ""  # bfloat16, int8_block, mixed or int4; "": not said
  left_out: Sequence[str] = ()  # tasks over which its means do not go
  note: str = ""
  mean_task: float | None = None  # mean over tasks
  mean_type: float | None = None  # mean over the means of types
  types: Mapping[str, float] = {}
  tasks: Mapping[str, float] = {}


class Suite(NamedTuple):
  """A suite of tasks and all results on it."""

  name: str
  scored_with: str  # what computed the paper's scores; "": not known
  # Task type -> names of the prompts that its queries may have had, where that
  # is not the prompt of the type's own name.
  prompts: Mapping[str, Sequence[str]]
  tasks: Mapping[str, Task]
  results: Sequence[Result]
  # Of mteb's data, the parts that count: the split ("": all), the subset of
  # tasks of which only one does, and how many of the others do, if not one.
  split: str = ""
  subsets: Mapping[str, str] = {}
  parts: Mapping[str, int] = {}
  note: str = ""  # on what is told of the suite

  def by_type(self) -> dict[str, list[str]]:
    """Type -> its tasks, both in alphabetical order."""
    found: dict[str, list[str]] = {}
    for name in sorted(self.tasks, key=str.casefold):
      found.setdefault(self.tasks[name].type, []).append(name)
    return dict(sorted(found.items()))


@functools.cache
def read() -> tuple[Suite, ...]:
  """Every suite, the broadest one first."""
  folder = pathlib.Path(__file__).with_name("tables")
  suites = [_suite(path) for path in sorted(folder.glob("*.json"))]
  return tuple(sorted(suites, key=lambda suite: -len(suite.tasks)))


def _suite(path: pathlib.Path) -> Suite:
  about: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
  return Suite(
    about["suite"],
    about["scored_with"],
    about["prompts"],
    {name: Task(*task) for name, task in about["tasks"].items()},
    tuple(Result(**result) for result in about["results"]),
    about.get("split", ""),
    about.get("subsets", {}),
    about.get("parts", {}),
    about.get("note", ""),
  )
