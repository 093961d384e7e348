"""A suite of tasks scored at every Matryoshka dimension, beside baselines.

The paper's tables give the mean over tasks and the mean over task types
(section 3); `evaluate` gives both.
"""

import collections
import hashlib
import pathlib
import statistics
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
from jaxtyping import Float

from embeddinggemma import encode as encode_lib
from embeddinggemma import lexical
from embeddinggemma.data import prompts
from embeddinggemma.evaluate import metrics, tasks
from embeddinggemma.types import TextEncoder

EvalTask = tasks.EvalTask
read_suite = tasks.read_suite

TaskScores = dict[str, dict[str, dict[str, float]]]  # task, dim, metric
Vectors = tuple[Float[np.ndarray, "Q M"], Float[np.ndarray, "C M"]]


def held_out(corpus: pathlib.Path, side: str) -> Sequence[EvalTask]:
  """The tasks of a corpus's side; none where too few pairs left it empty."""
  folder = corpus / side
  return read_suite(folder) if any(folder.iterdir()) else []


def evaluate(
  encode: TextEncoder, suite: Sequence[EvalTask], dims: Sequence[int]
) -> dict[str, Any]:
  """Scores every task at every dimension; each text is encoded once.

  Returns {"tasks": {task: {dim: {metric: value}}}, "main": {task: metric},
  "types": {type: {dim: mean}}, "mean_task": {dim: mean}, "mean_type": ...},
  with dimensions as text, so that it survives JSON.
  """
  scores: TaskScores = {}
  for task in suite:
    left, right = encoded(encode, task)
    scores[task.name] = {
      str(dim): _score(task, encode_lib.truncate(left, dim), _cut(right, dim))
      for dim in dims
    }
  return summarise(suite, scores)


def summarise(suite: Sequence[EvalTask], scores: TaskScores) -> dict[str, Any]:
  """Task scores with the main metrics' means over types and tasks."""
  main = {
    name: metrics.main_metric(next(iter(by_dim.values())))
    for name, by_dim in scores.items()
  }
  by_type: dict[str, dict[str, list[float]]] = {}
  every: dict[str, list[float]] = collections.defaultdict(list)
  for task in suite:
    lists = by_type.setdefault(task.type, collections.defaultdict(list))
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
  """Task type -> score at the first dimension, of what `summarise` returns."""
  return {name: next(iter(at.values())) for name, at in found["types"].items()}


def with_mean(scores: Mapping[str, float]) -> dict[str, float]:
  """Scores by task type, and their mean."""
  return {**scores, "mean": statistics.fmean(scores.values())}


def baselines(suite: Sequence[EvalTask]) -> dict[str, TaskScores]:
  """What no model needs, on the retrieval tasks: {system: {task: {"": ..}}}."""
  systems: Mapping[str, Callable[[Sequence[str]], lexical.Scores]] = {
    "BM25 plain": lambda texts: lexical.bm25(texts, "plain"),
    "BM25 stemmed": lambda texts: lexical.bm25(texts, "stemmed"),
    "char TF-IDF": lexical.char_tfidf,
  }
  return {
    name: {
      task.name: {"": _score_words(task, index)}
      for task in suite
      if task.kind == "retrieval"
    }
    for name, index in systems.items()
  }


def hybrid(
  encode: TextEncoder, suite: Sequence[EvalTask], dim: int
) -> TaskScores:
  """Dense and stemmed BM25 scores summed, on the retrieval tasks."""
  scores: TaskScores = {}
  for task in suite:
    if task.kind == "retrieval":
      left, right = encoded(encode, task)
      cosines = metrics.dense_scores(
        encode_lib.truncate(left, dim), encode_lib.truncate(right, dim)
      )
      words = _word_scores(task, lambda texts: lexical.bm25(texts, "stemmed"))
      scores[task.name] = {str(dim): _score_hybrid(task, cosines, words)}
  return scores


def remember(encode: TextEncoder) -> TextEncoder:
  """An encoder that keeps its results, so that hybrid encodes nothing anew."""
  known: dict[bytes, Float[np.ndarray, "n M"]] = {}

  def remembered(
    texts: Sequence[str], prompt_name: str, titles: Sequence[str] = ()
  ) -> Float[np.ndarray, "n M"]:
    key = hashlib.blake2b(repr((prompt_name, texts, titles)).encode()).digest()
    if key not in known:
      known[key] = encode(texts, prompt_name, titles)
    return known[key]

  return remembered


def encoded(encode: TextEncoder, task: EvalTask) -> Vectors:
  """The vectors of a task's queries and of its documents, in full."""
  left = encode(task.queries, task.task)
  if not task.documents:
    return left, left[:0]
  if task.kind == "retrieval":
    prompt = prompts.document_prompt(task.task)
    return left, encode(task.documents, prompt, task.titles)
  return left, encode(task.documents, task.task)


def _cut(vectors: Float[np.ndarray, "n M"], dim: int) -> np.ndarray:
  return encode_lib.truncate(vectors, dim) if len(vectors) else vectors


def _score(
  task: EvalTask, left: np.ndarray, right: np.ndarray
) -> dict[str, float]:
  match task.kind:
    case "retrieval":
      score = metrics.dense_scores(left, right)
      rankings = metrics.rank(score, task.same, len(task.documents))
      return metrics.retrieval(rankings, task.gold)
    case "sts":
      return metrics.similarity(left, right, task.gold)
    case "bitext":
      return metrics.bitext(left, right, task.documents)
    case "classification":
      return metrics.probe(right, task.gold[0], left, task.gold[1])
    case "clustering":
      return metrics.clusters(left, task.gold)
    case _:
      raise ValueError(f"{task.name}: no metric for kind {task.kind!r}")


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
