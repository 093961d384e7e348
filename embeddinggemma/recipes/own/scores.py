"""Scores of a model on the user's held-out pairs and on general tasks."""

import contextlib
import pathlib
import time
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np
from jaxtyping import Float
from rich.console import Console

from embeddinggemma.data import prompts, truncation
from embeddinggemma.evaluation import suite
from embeddinggemma.loading import Model
from embeddinggemma.progress import Progress
from embeddinggemma.types import TextEncoder

# Names of the suites: two sides of the pairs' own split, and other text.
TEST, VALIDATION, GENERAL = "own test", "own validation", "general"
_BLOCK = 128  # texts that are encoded between two updates of the bar

Suites = Mapping[str, Sequence[suite.EvalTask]]
# {suite: {"mean": over task types, "tasks": {task: {"metric", "score",
# "queries"}}, "truncated": how many texts were cut}}
Scores = dict[str, dict[str, Any]]


def read(corpus: pathlib.Path, general: pathlib.Path) -> Suites:
  """The suites, by name, that have tasks.

  `corpus` is the folder of split pairs, `general` that of the general suite.
  With few pairs, a side of the split can be without tasks.
  """
  found = {
    TEST: suite.held_out(corpus, "test"),
    VALIDATION: suite.held_out(corpus, "validation"),
    GENERAL: suite.read_suite(general),
  }
  return {name: tasks for name, tasks in found.items() if tasks}


def tokens(
  model: Model,
  texts: Sequence[str],
  prompt_name: str,
  titles: Sequence[str] = (),
) -> int:
  """How many tokens a model reads of texts, each with the named prompt."""
  prompt = model.prompt(prompt_name)
  padded = titles or [""] * len(texts)
  whole = [
    prompts.with_prompt(prompt, *item)
    for item in zip(texts, padded, strict=True)
  ]
  ids, _ = model.tokenizer.encode_batch(whole, model.config.max_length)
  return sum(map(len, ids))


def costs(model: Model, suites: Suites) -> dict[str, dict[str, float]]:
  """What scoring on each suite costs.

  Returns {suite: {"tokens": how many are encoded, "ranking": seconds of all but
  encoding, measured on random vectors}}.
  """
  found: dict[str, dict[str, float]] = {}
  random = np.random.default_rng(0)
  for name in suites:
    read = 0

    def encode(
      texts: Sequence[str], prompt_name: str, titles: Sequence[str] = ()
    ) -> Float[np.ndarray, "n M"]:
      nonlocal read
      read += tokens(model, texts, prompt_name, titles)
      return random.normal(size=(len(texts), model.config.embed_dim))

    began = time.perf_counter()
    score(encode, model.config.embed_dim, suites, (name,))
    found[name] = {"tokens": read, "ranking": time.perf_counter() - began}
  return found


def score(
  encode: TextEncoder, dim: int, suites: Suites, names: Sequence[str] = ()
) -> Scores:
  """Scores at full dimension, on the named suites or, without names, on all."""
  scores: Scores = {}
  for name, tasks in suites.items():
    if names and name not in names:
      continue
    with truncation.counted() as counts:
      found = suite.evaluate(encode, tasks, [dim])
    truncation.report(counts)
    scores[name] = {
      "truncated": counts.as_json(),
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
  model: Model,
  suites: Suites,
  names: Sequence[str],
  title: str,
  console: Console,
) -> Scores:
  """Scores of a model on the named suites, with a bar of encoded texts."""
  with encoding(model, suites, names, title, console) as encode:
    return score(encode, model.config.embed_dim, suites, names)


@contextlib.contextmanager
def encoding(
  model: Model,
  suites: Suites,
  names: Sequence[str],
  title: str,
  console: Console,
) -> Iterator[TextEncoder]:
  """A model's encoder, with a bar of the texts of the named suites."""
  texts = sum(
    len(task.queries) + len(task.documents)
    for name in names
    for task in suites[name]
  )
  done = 0
  with Progress(console, title, texts) as progress:

    def encode(
      texts: Sequence[str], prompt_name: str, titles: Sequence[str] = ()
    ) -> Float[np.ndarray, "n M"]:
      nonlocal done
      found = []
      for start in range(0, len(texts), _BLOCK):
        block = slice(start, start + _BLOCK)
        found.append(model(texts[block], prompt_name, titles[block]))
        done += len(found[-1])
        progress.show(done, "texts")
      return np.concatenate(found)

    yield encode


def means(scores: Scores) -> dict[str, float]:
  """Suite -> its mean over task types."""
  return {name: found["mean"] for name, found in scores.items()}
