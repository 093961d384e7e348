"""What prompts are worth: scores with the right ones, with none, and with wrong ones.

A model that was trained with prompts (section 2.1) loses points where they are
missing or another task's, and nothing else tells of it.
"""

import statistics
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from jaxtyping import Float
from rich.console import Console

from embeddinggemma import progress as progress_lib
from embeddinggemma.config import suggest
from embeddinggemma.data import prompts, truncation
from embeddinggemma.evaluation import suite
from embeddinggemma.loading import Model
from embeddinggemma.types import BadInput, TextEncoder

RIGHT, NONE, WRONG = "right", "none", "of another task"
CHECKED = "prompts_check"  # its key in the JSON of `evaluate`
KNOWN = ("check",)  # what `evaluate --prompts=` takes


def require_known(name: str) -> None:
  """Raise BadInput for something else than a check."""
  if name not in KNOWN:
    raise BadInput(f"--prompts={name}: unknown{suggest(name, [*KNOWN])}")


def check(
  model: Model,
  tasks: Sequence[suite.EvalTask],
  right: suite.TaskScores,
  console: Console,
) -> dict[str, Any]:
  """Scores with the right prompts, none, and wrong ones, at one dimension.

  Args:
    right: the scores with the right prompts, which are known already; their
      largest dimension is that of all.

  Returns {RIGHT, NONE or WRONG: {"mean_task", "mean_type", "tasks": {task: its
  main metric}}}.
  """
  dim = str(max(int(dim) for dims in right.values() for dim in dims))
  own = {name: {dim: dims[dim]} for name, dims in right.items()}
  found = {RIGHT: _brief(suite.summarise(tasks, own), dim)}
  encoders = {NONE: without(model), WRONG: with_wrong(model)}
  with progress_lib.Progress(console, "prompts", len(encoders)) as progress:
    for done, (name, encode) in enumerate(encoders.items(), 1):
      with truncation.counted():  # they were counted with the right ones
        scores = suite.evaluate(encode, tasks, [int(dim)])
      found[name] = _brief(scores, dim)
      progress.show(done, name)
  return found


def without(model: Model) -> TextEncoder:
  """An encoder that puts no prompt before a text; titles stand before it."""

  def encode(
    texts: Sequence[str], prompt_name: str, titles: Sequence[str] = ()
  ) -> Float[np.ndarray, "n M"]:
    del prompt_name
    return model.encode(_titled(texts, titles), prompt="")

  return encode


def with_wrong(model: Model) -> TextEncoder:
  """An encoder that uses the prompt of another kind of task; titles as above."""

  def encode(
    texts: Sequence[str], prompt_name: str, titles: Sequence[str] = ()
  ) -> Float[np.ndarray, "n M"]:
    words = wrong(model, prompt_name)
    return model.encode(_titled(texts, titles), prompt=words)

  return encode


def wrong(model: Model, prompt_name: str) -> str:
  """The prompt for clustering instead of another one, for search instead of it."""
  right = model.prompt(prompt_name)
  others = (
    model.prompt("Clustering"),
    model.prompt("query"),
    *prompts.PROMPTS.values(),  # of a model whose prompts are all alike
  )
  return next(words for words in others if words not in (right, ""))


def _titled(texts: Sequence[str], titles: Sequence[str]) -> list[str]:
  """Texts with their titles before them, as clients without prompts join them."""
  titles = titles or [""] * len(texts)
  return [
    f"{title} {text}" if title else text
    for title, text in zip(titles, texts, strict=True)
  ]


def _brief(scores: Mapping[str, Any], dim: str) -> dict[str, Any]:
  """The means and main metrics of `suite.summarise`, at one dimension."""
  tasks = {
    name: dims[dim][scores["main"][name]]
    for name, dims in scores["tasks"].items()
  }
  return {
    "mean_task": statistics.fmean(tasks.values()),
    "mean_type": scores["mean_type"][dim],
    "tasks": tasks,
  }
