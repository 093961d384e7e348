"""Score a model on a suite of tasks at every Matryoshka dimension.

As in the paper's tables, there is a mean over tasks and a mean over task types
(section 3). Baselines are BM25 and hybrid search. Documents are encoded and
searched in blocks, so that a corpus never stands in memory as vectors.
"""

import collections
import pathlib
import statistics
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np
from jaxtyping import Float

from embeddinggemma import encode as encode_lib
from embeddinggemma import lexical
from embeddinggemma.data import truncation
from embeddinggemma.evaluation import kinds, metrics, remembered, tasks
from embeddinggemma.evaluation.kinds import retrieval
from embeddinggemma.evaluation.kinds.task import EvalTask
from embeddinggemma.evaluation.scoring import bootstrap, nearest
from embeddinggemma.evaluation.scoring.scored import Scored
from embeddinggemma.types import BadInput, Stopped, TextEncoder

read_suite = tasks.read_suite
remember = remembered.Remembered

TaskScores = dict[str, dict[str, dict[str, float]]]  # task, dim, metric
ScoredTasks = dict[str, dict[str, Scored]]  # task, dim
Drawn = dict[str, dict[str, np.ndarray]]  # task, dim: every resample's score
Intervals = dict[str, dict[str, list[float]]]  # task, dim: the ends of 95%
Failed = dict[str, Exception]  # task: why it has no scores
Say = Callable[[str], None]  # how far a long task is, for people
_Side = tuple[Sequence[str], str, Sequence[str]]  # texts, prompt name, titles
Vectors = tuple[Float[np.ndarray, "Q M"], Float[np.ndarray, "C M"]]

SIDES = ("validation", "test")  # held-out parts of a corpus


def _nothing(note: str) -> None:
  del note


def held_out(corpus: pathlib.Path, side: str) -> Sequence[EvalTask]:
  """A corpus's tasks of a side, "test" or "validation"; () if it has none."""
  folder = corpus / side
  return read_suite(folder) if any(folder.iterdir()) else []


def evaluate(
  encode: TextEncoder,
  suite: Sequence[EvalTask],
  dims: Sequence[int],
  say: Say = _nothing,
) -> dict[str, Any]:
  """Score every task at every dimension; each text is encoded once.

  `say` is told how far a long task is.

  Returns {"tasks": {task: {dim: {metric: value}}}, "main": {task: metric},
  "types": {type: {dim: mean}}, "mean_task": {dim: mean}, "mean_type": {dim:
  mean}}; dimensions are strings, as JSON needs. Of texts that were cut there is
  one warning for the suite.
  """
  return summarise(suite, values(scored(encode, suite, dims, say)))


def scored(
  encode: TextEncoder,
  suite: Sequence[EvalTask],
  dims: Sequence[int],
  say: Say = _nothing,
  failed: Failed | None = None,
) -> ScoredTasks:
  """The scores of every task at every dimension, with their resamples.

  Of a task that cannot be scored, the error is raised, or put into `failed` if
  that is given and another task can.
  """
  found: ScoredTasks = {}
  errors: Failed = {}
  with truncation.counted() as counts:
    for task in suite:
      try:
        by_dim = _scored(encode, task, dims, say)
      except (BadInput, Stopped) as error:
        if failed is None:
          raise
        errors[task.name] = error
        continue
      found[task.name] = {str(dim): scores for dim, scores in by_dim.items()}
  if errors and not found:
    raise next(iter(errors.values()))
  if failed is not None:
    failed |= errors
  truncation.report(counts)
  return found


def _scored(
  encode: TextEncoder, task: EvalTask, dims: Sequence[int], say: Say
) -> Mapping[int, Scored]:
  """A task's scores at each dimension."""
  kind = kinds.of(task)
  told = lambda note: say(f"{task.name}: {note}")
  if kind.by_blocks is not None:
    return kind.by_blocks(encode, task, dims, told)
  if kind.search is None:
    left, right = encoded(encode, task)
    by_dim = {
      dim: kind.score(task, encode_lib.truncate(left, dim), _cut(right, dim))
      for dim in dims
    }
    return {
      dim: found if isinstance(found, Scored) else Scored(found)
      for dim, found in by_dim.items()
    }
  left = encode(*_queries(task))
  searches = {
    dim: kind.search(task, encode_lib.truncate(left, dim)) for dim in dims
  }
  for start, block in _documents(encode, task):
    for dim, search in searches.items():
      search.add(start, encode_lib.truncate(block, dim))
    if len(block) < len(task.documents):
      told(f"{start + len(block)} of {len(task.documents)} documents")
  return {dim: search.scored() for dim, search in searches.items()}


def values(found: ScoredTasks) -> TaskScores:
  """The scores alone."""
  return {
    task: {dim: scores.values for dim, scores in by_dim.items()}
    for task, by_dim in found.items()
  }


def drawn(suite: Sequence[EvalTask], found: ScoredTasks) -> Drawn:
  """Each task's main metric in every resample, of those that have resamples."""
  rows: Drawn = {}
  for task in suite:
    main = kinds.main_of(task)
    for dim, scores in found.get(task.name, {}).items():
      if main in scores.resampled and scores.units > 1:
        rows.setdefault(task.name, {})[dim] = bootstrap.distribution(
          scores.resampled[main], scores.units, task.name
        )
  return rows


def intervals(rows: Drawn) -> Intervals:
  """The 95% interval of each task's main metric."""
  return {
    task: {dim: bootstrap.interval(row) for dim, row in by_dim.items()}
    for task, by_dim in rows.items()
  }


def summary_intervals(
  suite: Sequence[EvalTask], found: ScoredTasks, rows: Drawn
) -> dict[str, Any]:
  """95% intervals of the means over tasks and types, tasks drawn independently.

  Returns {"mean_task": {dim: [low, high]}, "mean_type": {dim: [low, high]},
  "types": {type: {dim: [low, high]}}, "fixed": tasks with a score that has no
  interval and counts as if it were without error}.
  """
  types = {task.name: kinds.type_of(task) for task in suite}
  mains = {task.name: kinds.main_of(task) for task in suite}
  whole: dict[str, Any] = {"mean_task": {}, "mean_type": {}, "types": {}}
  for dim in dict.fromkeys(dim for by_dim in found.values() for dim in by_dim):
    moving = {name: row[dim] for name, row in rows.items() if dim in row}
    fixed = {
      name: by_dim[dim].values[mains[name]]
      for name, by_dim in found.items()
      if name not in moving
    }
    means = bootstrap.over_types(moving, fixed, types)
    for kind, ends in means.pop("types").items():
      whole["types"].setdefault(kind, {})[dim] = ends
    for name, ends in means.items():
      whole[name][dim] = ends
  without = lambda name: found[name].keys() - rows.get(name, {}).keys()
  return {**whole, "fixed": [name for name in found if without(name)]}


def summarise(suite: Sequence[EvalTask], scores: TaskScores) -> dict[str, Any]:
  """Scores of tasks, with the main metrics' means over types and over tasks."""
  main = {
    task.name: kinds.main_of(task) for task in suite if task.name in scores
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


def by_words(suite: Sequence[EvalTask]) -> dict[str, ScoredTasks]:
  """Scores of search by words on the tasks that search: {system: scores}."""
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


def fused(
  encode: TextEncoder, suite: Sequence[EvalTask], dim: int
) -> ScoredTasks:
  """Scores of cosines plus stemmed BM25, on the tasks that search.

  `encode` is one that `remember` gave: it is asked for the documents once for
  each chunk of queries whose scores fit into lexical.CHUNK_BYTES.
  """
  found: ScoredTasks = {}
  for task in suite:
    if kinds.of(task).searches:
      words = _word_scores(task, lambda texts: lexical.bm25(texts, "stemmed"))
      cosines = _cosines(encode, task, dim)
      found[task.name] = {str(dim): _score_hybrid(task, cosines, words)}
  return found


def _cosines(
  encode: TextEncoder, task: EvalTask, dim: int
) -> Callable[[slice], Float[np.ndarray, "q C"]]:
  """A slice of the queries -> their cosines with all documents."""
  queries = encode_lib.truncate(encode(*_queries(task)), dim)

  def cosines(chunk: slice) -> Float[np.ndarray, "q C"]:
    found = np.empty(
      (chunk.stop - chunk.start, len(task.documents)), np.float32
    )
    for start, block in _documents(encode, task):
      scores = metrics.dense_scores(queries, encode_lib.truncate(block, dim))
      found[:, start : start + len(block)] = scores(chunk)
    return found

  return cosines


def encoded(encode: TextEncoder, task: EvalTask) -> Vectors:
  """The vectors of a task's queries and documents, at full dimension."""
  left = encode(*_queries(task))
  blocks = [block for _, block in _documents(encode, task)]
  if not blocks:
    return left, left[:0]
  return left, blocks[0] if len(blocks) == 1 else np.concatenate(blocks)


def truncated(
  encode: TextEncoder, suite: Sequence[EvalTask]
) -> dict[str, dict[str, truncation.Counts]]:
  """How many texts were cut: {task: {"queries" or "documents": counts}}.

  `encode` is one that `remember` gave: it is asked again for what it encoded.
  """
  found: dict[str, dict[str, truncation.Counts]] = {}
  for task in suite:
    sides = found.setdefault(task.name, {})
    with truncation.counted() as sides["queries"]:
      encode(*_queries(task))
    if task.documents:
      with truncation.counted() as sides["documents"]:
        for _ in _documents(encode, task):
          pass
  return found


def prompts_of(task: EvalTask) -> dict[str, str]:
  """The names of a task's prompts, by side: "query" and "document"."""
  kind, found = kinds.of(task), {"query": task.task}
  if task.documents or kind.by_blocks is not None:
    found["document"] = kind.document_prompt(task.task)
  return found


def _queries(task: EvalTask) -> _Side:
  """The arguments with which an encoder is called for a task's queries."""
  return task.queries, prompts_of(task)["query"], ()


def _documents(
  encode: TextEncoder, task: EvalTask
) -> Iterator[tuple[int, Float[np.ndarray, "c M"]]]:
  """The documents in blocks: (number of the first one, their vectors)."""
  for start in range(0, len(task.documents), nearest.BLOCK):
    texts = task.documents[start : start + nearest.BLOCK]
    titles = task.titles[start : start + nearest.BLOCK]
    yield start, encode(texts, prompts_of(task)["document"], titles)


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
) -> Scored:
  score = _word_scores(task, index)
  rankings = metrics.rank(
    score, task.same, len(task.documents), positive_only=True
  )
  return retrieval.judged(task, rankings)


def _score_hybrid(
  task: EvalTask,
  cosines: Callable[[slice], Float[np.ndarray, "q C"]],
  words: Callable[[slice], Float[np.ndarray, "q C"]],
) -> Scored:
  rankings = metrics.rank(
    lambda chunk: lexical.fuse(cosines(chunk), words(chunk)),
    task.same,
    len(task.documents),
  )
  return retrieval.judged(task, rankings)


def _means(values: Mapping[str, Sequence[float]]) -> dict[str, float]:
  return {dim: float(np.mean(numbers)) for dim, numbers in values.items()}
