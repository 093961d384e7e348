"""The general suite, which shows what training on own data loses."""

import dataclasses
import importlib.metadata
import pathlib
import platform

from embeddinggemma.cache import Task
from embeddinggemma.config import at_least
from embeddinggemma.data import stdlib

TASK = "general"


@dataclasses.dataclass(frozen=True)
class GeneralConfig:
  """On which suite forgetting is measured, and how much of it is allowed."""

  suite: str  # a folder of tasks; empty: made from the standard library
  queries: int  # of the suite that is made
  loss: float  # most that the mean of a model that is handed over may fall

  def __post_init__(self) -> None:
    at_least("general.queries", self.queries, 20)
    at_least("general.loss", self.loss, 0)


def place(config: GeneralConfig, workdir: pathlib.Path) -> pathlib.Path:
  """The suite's folder: the given one, or that of the task."""
  return pathlib.Path(config.suite) if config.suite else workdir / TASK


def task(config: GeneralConfig) -> Task:
  """Write the suite, from the standard library's documentation."""
  depends = {
    "queries": config.queries,
    "format": 2,  # of the written tasks; 1 had labels and clusters
    "python": platform.python_version(),
    "version": importlib.metadata.version("embeddinggemma"),
  }
  return Task(TASK, depends, lambda d: stdlib.write_test(d, config.queries))
