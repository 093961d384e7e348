"""What a model is worth on its own pairs and in general, and what that costs."""

import functools
import pathlib
import time
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Float

from embeddinggemma.data import prompts
from embeddinggemma.evaluate import suite
from embeddinggemma.load import Model, load
from embeddinggemma.types import TextEncoder

# The suites: two sides of the pairs' own split, and one of other text.
TEST, VALIDATION, GENERAL = "own test", "own validation", "general"

Suites = Mapping[str, Sequence[suite.EvalTask]]
# {suite: {"mean": over task types, "tasks": {task: {"metric", "score",
# "queries"}}}}
Scores = dict[str, dict[str, Any]]


def read(corpus: pathlib.Path, general: pathlib.Path) -> Suites:
  """The suites that have tasks; few pairs leave a side of them without."""
  found = {
    TEST: suite.held_out(corpus, "test"),
    VALIDATION: suite.held_out(corpus, "validation"),
    GENERAL: suite.read_suite(general),
  }
  return {name: tasks for name, tasks in found.items() if tasks}


class Cost(NamedTuple):
  """What scoring on a suite takes, besides what each token takes."""

  tokens: int  # that are encoded
  ranking: float  # seconds of all that is no encoding


class _Counted:
  """A model as a TextEncoder that counts the tokens it reads."""

  def __init__(self, model: Model):
    self._model, self.tokens = model, 0

  def __call__(
    self, texts: Sequence[str], prompt_name: str, titles: Sequence[str] = ()
  ) -> Float[np.ndarray, "n M"]:
    """Vectors of the texts."""
    self.tokens += tokens(self._model, texts, prompt_name, titles)
    return self._model(texts, prompt_name, titles)


def tokens(
  model: Model,
  texts: Sequence[str],
  prompt_name: str,
  titles: Sequence[str] = (),
) -> int:
  """How many tokens a model reads of the texts under a prompt."""
  prompt = model.prompt(prompt_name)
  padded = titles or [""] * len(texts)
  whole = [
    prompts.with_prompt(prompt, *item)
    for item in zip(texts, padded, strict=True)
  ]
  ids, _ = model.tokenizer.encode_batch(whole, model.config.max_length)
  return sum(map(len, ids))


def score(
  encode: TextEncoder, dim: int, suites: Suites, names: Sequence[str] = ()
) -> Scores:
  """Scores at the full dimension, on the named suites or on all."""
  scores: Scores = {}
  for name, tasks in suites.items():
    if names and name not in names:
      continue
    found = suite.evaluate(encode, tasks, [dim])
    scores[name] = {
      "mean": found["mean_type"][str(dim)],
      "tasks": {
        task.name: {
          "metric": (metric := found["main"][task.name]),
          "score": found["tasks"][task.name][str(dim)][metric],
          "queries": len(task.queries),
        }
        for task in tasks
      },
    }
  return scores


def score_of(
  place: str | pathlib.Path, suites: Suites, names: Sequence[str] = ()
) -> Scores:
  """The scores of a checkpoint, or of a workdir's."""
  model = load(place)
  return score(model, model.config.embed_dim, suites, names)


def score_and_cost(
  place: str | pathlib.Path, suites: Suites
) -> tuple[Scores, dict[str, Cost]]:
  """The same on all suites, and what it takes to do it again."""
  model = load(place)
  scores: Scores = {}
  costs = {}
  for name in suites:
    counted = _Counted(model)
    encode = suite.remember(counted)
    again = functools.partial(
      score, encode, model.config.embed_dim, suites, (name,)
    )
    scores |= again()
    began = time.perf_counter()
    again()  # all vectors are known, and all libraries loaded
    costs[name] = Cost(counted.tokens, time.perf_counter() - began)
  return scores, costs


def means(scores: Scores) -> dict[str, float]:
  """Suite -> its mean over task types."""
  return {name: found["mean"] for name, found in scores.items()}
