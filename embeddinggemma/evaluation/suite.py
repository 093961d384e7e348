"""Score a model on a suite of tasks at every Matryoshka dimension.

As in the paper's tables, there is a mean over tasks and a mean over task types
(section 3). Baselines are BM25 and hybrid search.
"""

import collections
import pathlib
import statistics
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
from jaxtyping import Float

from embeddinggemma import encode as encode_lib
from embeddinggemma import lexical
from embeddinggemma.data import truncation
from embeddinggemma.evaluation import kinds, metrics, remembered, tasks
from embeddinggemma.evaluation.kinds.task import EvalTask
from embeddinggemma.types import TextEncoder

read_suite = tasks.read_suite
remember = remembered.Remembered

TaskScores = dict[str, dict[str, dict[str, float]]]  # task, dim, metric
_Side = tuple[Sequence[str], str, Sequence[str]]  # texts, prompt name, titles
Vectors = tuple[Float[np.ndarray, "Q M"], Float[np.ndarray, "C M"]]


SIDES = ("validation", "test")  # held-out parts of a corpus


def held_out(corpus: pathlib.Path, side: str) -> Sequence[EvalTask]:
  """A corpus's tasks of a side, "test" or "validation"; () if it has none."""
  folder = corpus / side
  return read_suite(folder) if any(folder.iterdir()) else []


def evaluate(
  encode: TextEncoder,
  suite: Sequence[EvalTask],
  dims: Sequence[int],
  say: Callable[[str], None] = lambda note: None,
) -> dict[str, Any]:
  """Score every task at every dimension; each text is encoded once.

  `say` is told how far a long task is.

  Returns {"tasks": {task: {dim: {metric: value}}}, "main": {task: metric},
  "types": {type: {dim: mean}}, "mean_task": {dim: mean}, "mean_type": {dim:
  mean}}; dimensions are strings, as JSON needs. Of texts that were cut there is
  one warning for the suite.
  """
  scores: TaskScores = {}
  with truncation.counted() as counts:
    for task in suite:
      found = _scored(encode, task, dims, say)
      scores[task.name] = {str(dim): found[dim] for dim in dims}
  truncation.report(counts)
  return summarise(suite, scores)


def _scored(
  encode: TextEncoder,
  task: EvalTask,
  dims: Sequence[int],
  say: Callable[[str], None],
) -> Mapping[int, dict[str, float]]:
  """A task's metrics at each dimension."""
  kind = kinds.of(task)
  if kind.by_blocks:
    return kind.by_blocks(encode, task, dims, say)
  left, right = encoded(encode, task)
  return {
    dim: kind.score(task, encode_lib.truncate(left, dim), _cut(right, dim))
    for dim in dims
  }


def summarise(suite: Sequence[EvalTask], scores: TaskScores) -> dict[str, Any]:
  """Scores of tasks, with the main metrics' means over types and over tasks."""
  main = {
    task.name: kinds.of(task).metrics[0]
    for task in suite
    if task.name in scores
  }
  by_type: dict[str, dict[str, list[float]]] = {}
  every: dict[str, list[float]] = collections.defaultdict(list)
  for task in suite:
    lists = by_type.setdefault(
      kinds.type_of(task), collections.defaultdict(list)
    )
    for dim, values in scores.get(task.name, {}).items():
      lists[dim].append(values[main[task.name]])
      every[dim].append(values[main[task.name]])
  types = {name: _means(lists) for name, lists in by_type.items() if lists}
  across = {dim: [means[dim] for means in types.values()] for dim in every}
  return {
    "tasks": scores,
    "main": main,
    "types": types,
    "mean_task": _means(every),
    "mean_type": _means(across),
  }


def by_type(found: Mapping[str, Any]) -> dict[str, float]:
  """Task type -> mean at the first dimension, from `summarise`'s result."""
  return {name: next(iter(at.values())) for name, at in found["types"].items()}


def with_mean(scores: Mapping[str, float]) -> dict[str, float]:
  """Scores by task type, and their mean under "mean"."""
  return {**scores, "mean": statistics.fmean(scores.values())}


def baselines(suite: Sequence[EvalTask]) -> dict[str, TaskScores]:
  """BM25's scores on the tasks that search: {system: {task: {"": scores}}}."""
  systems: Mapping[str, Callable[[Sequence[str]], lexical.Scores]] = {
    "BM25 plain": lambda texts: lexical.bm25(texts, "plain"),
    "BM25 stemmed": lambda texts: lexical.bm25(texts, "stemmed"),
    "char TF-IDF": lexical.char_tfidf,
  }
  return {
    name: {
      task.name: {"": _score_words(task, index)}
      for task in suite
      if kinds.of(task).searches
    }
    for name, index in systems.items()
  }


def hybrid(
  encode: TextEncoder, suite: Sequence[EvalTask], dim: int
) -> TaskScores:
  """Scores of cosines plus stemmed BM25, on the tasks that search."""
  scores: TaskScores = {}
  for task in suite:
    if kinds.of(task).searches:
      left, right = encoded(encode, task)
      cosines = metrics.dense_scores(
        encode_lib.truncate(left, dim), encode_lib.truncate(right, dim)
      )
      words = _word_scores(task, lambda texts: lexical.bm25(texts, "stemmed"))
      scores[task.name] = {str(dim): _score_hybrid(task, cosines, words)}
  return scores


def encoded(encode: TextEncoder, task: EvalTask) -> Vectors:
  """The vectors of a task's queries and documents, at full dimension."""
  sides = _sides(task)
  left = encode(*sides["queries"])
  if "documents" not in sides:
    return left, left[:0]
  return left, encode(*sides["documents"])


def truncated(
  encode: TextEncoder, suite: Sequence[EvalTask]
) -> dict[str, dict[str, truncation.Counts]]:
  """How many texts were cut: {task: {"queries" or "documents": counts}}.

  `encode` is one that `remember` gave: it is asked again for what it encoded.
  """
  found: dict[str, dict[str, truncation.Counts]] = {}
  for task in suite:
    for side, texts in _sides(task).items():
      with truncation.counted() as counts:
        encode(*texts)
      found.setdefault(task.name, {})[side] = counts
  return found


def _sides(task: EvalTask) -> dict[str, _Side]:
  """The arguments with which an encoder is called for each side of a task."""
  sides: dict[str, _Side] = {"queries": (task.queries, task.task, ())}
  if task.documents:
    prompt = kinds.of(task).document_prompt(task.task)
    sides["documents"] = task.documents, prompt, task.titles
  return sides


def _cut(vectors: Float[np.ndarray, "n M"], dim: int) -> np.ndarray:
  return encode_lib.truncate(vectors, dim) if len(vectors) else vectors


def _word_scores(
  task: EvalTask, index: Callable[[Sequence[str]], lexical.Scores]
) -> Callable[[slice], Float[np.ndarray, "q C"]]:
  texts = [
    f"{title} {text}"
    for title, text in zip(task.titles, task.documents, strict=True)
  ]
  scores = index(texts)
  return lambda chunk: scores(task.queries[chunk])


def _score_words(
  task: EvalTask, index: Callable[[Sequence[str]], lexical.Scores]
) -> dict[str, float]:
  score = _word_scores(task, index)
  rankings = metrics.rank(
    score, task.same, len(task.documents), positive_only=True
  )
  return metrics.retrieval(rankings, task.gold)


def _score_hybrid(
  task: EvalTask,
  cosines: Callable[[slice], Float[np.ndarray, "q C"]],
  words: Callable[[slice], Float[np.ndarray, "q C"]],
) -> dict[str, float]:
  rankings = metrics.rank(
    lambda chunk: lexical.fuse(cosines(chunk), words(chunk)),
    task.same,
    len(task.documents),
  )
  return metrics.retrieval(rankings, task.gold)


def _means(values: Mapping[str, Sequence[float]]) -> dict[str, float]:
  return {dim: float(np.mean(numbers)) for dim, numbers in values.items()}
