"""Base and students side by side: on own held-out data and in general.

Own data are scored as `evaluate` does. How alike a student is to its base is
measured on the same texts, which says something of texts without pairs too.
"""

import dataclasses
import pathlib
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from jaxtyping import Float
from rich.console import Console

from embeddinggemma import cache, encode
from embeddinggemma.data import truncation
from embeddinggemma.evaluation import kinds, suite
from embeddinggemma.evaluation.kinds.task import EvalTask
from embeddinggemma.loading import Model, load
from embeddinggemma.recipes.own import scores

BASE = "base"
NEIGHBOURS = 10
SMALL_DIM = 256  # the second dimension at which vectors are compared
_BLOCK = 512  # queries that are compared at a time

# Of a model: {"scores": `scores.Scores`, "likeness": {"cosine@DIM", "overlap"}},
# the latter of own held-out texts, and {} if there are none.
Found = dict[str, Any]


def fewer(suites: scores.Suites, queries: int) -> scores.Suites:
  """The suites with at most so many queries in all own search tasks together.

  Of a task's documents, those stay that answer a query which stays, and others up to
  twice as many as queries. The general suite stays whole.
  """
  return {
    name: tasks
    if name == scores.GENERAL
    else [_fewer(task, _share(tasks, queries)) for task in tasks]
    for name, tasks in suites.items()
  }


def _share(tasks: Sequence[EvalTask], queries: int) -> int:
  """The queries of each search task, if all have as many."""
  return max(queries // max(sum(kinds.of(t).searches for t in tasks), 1), 1)


def _fewer(task: EvalTask, queries: int) -> EvalTask:
  if not kinds.of(task).searches or len(task.queries) <= queries:
    return task
  gold, same = task.gold[:queries], task.same[:queries]
  needed = {place for answers in gold for place in answers}
  needed |= {place for place in same if place >= 0}
  others = (n for n in range(len(task.documents)) if n not in needed)
  room = max(2 * queries - len(needed), 0)
  kept = sorted({*needed, *(n for n, _ in zip(others, range(room)))})
  new = {old: place for place, old in enumerate(kept)}
  return dataclasses.replace(
    task,
    queries=task.queries[:queries],
    documents=tuple(task.documents[n] for n in kept),
    titles=tuple(task.titles[n] for n in kept) if task.titles else (),
    gold=tuple({new[n]: g for n, g in answers.items()} for answers in gold),
    same=tuple(new.get(place, -1) for place in same),
  )


def compare(
  models: Mapping[str, str | pathlib.Path],
  suites: scores.Suites,
  directory: pathlib.Path,
  console: Console,
) -> dict[str, Found]:
  """The scores of each model, by name, and its likeness to the base.

  What is scored stays in the directory, so that a killed call continues.

  Args:
    models: name -> path; the first is the base.
    suites: what they are scored on.
    directory: for scores and the base's vectors.
    console: for bars.
  """
  found: dict[str, Found] = {}
  base = directory / "base.npy"
  for name, path in models.items():
    file = directory / f"{name}.json"
    if not file.is_file():
      cache.write_json(file, _of_model(load(path), name, suites, base, console))
    found[name] = cache.read_json(file)
  return found


def _of_model(
  model: Model,
  name: str,
  suites: scores.Suites,
  base: pathlib.Path,
  console: Console,
) -> Found:
  """A model's scores and likeness; the base's vectors are kept first."""
  own = suites.get(scores.TEST, ())
  with scores.encoding(model, suites, list(suites), name, console) as encoded:
    remembered = suite.remember(encoded)
    scored = scores.score(remembered, model.config.embed_dim, suites)
    with truncation.counted():  # which the scores have counted
      vectors = [suite.encoded(remembered, task) for task in own]
  if not vectors:
    return {"scores": scored, "likeness": {}}
  whole = np.concatenate([side for task in vectors for side in task])
  if name == BASE:
    cache.write_array(base, whole)
  sizes = [(len(left), len(right)) for left, right in vectors]
  return {"scores": scored, "likeness": likeness(whole, np.load(base), sizes)}


def likeness(
  student: Float[np.ndarray, "n M"],
  base: Float[np.ndarray, "n M"],
  sizes: Sequence[tuple[int, int]],
) -> dict[str, float]:
  """How alike two models see the same texts.

  Args:
    student: unit vectors of the queries, then the documents, task by task.
    base: those of the other model.
    sizes: the number of queries and documents of each task.

  Returns:
    The mean cosine of a text's two vectors, at full width and at the first 256
    numbers, and the mean share of a query's ten nearest documents that both
    models have in common (all documents where there are fewer than twenty, of
    which half are compared).
  """
  width = base.shape[1]
  dims = dict.fromkeys((width, min(SMALL_DIM, width)))
  cut = lambda dim: [encode.truncate(x, dim) for x in (student, base)]
  cosines = {
    f"cosine@{dim}": float(np.mean(np.sum(np.multiply(*cut(dim)), axis=1)))
    for dim in dims
  }
  shared: list[np.ndarray] = []
  start = 0
  for queries, documents in sizes:
    middle, end = start + queries, start + queries + documents
    shared.append(
      _in_common(
        [(x[start:middle], x[middle:end]) for x in (student, base)],
        min(NEIGHBOURS, max(documents // 2, 1)),
      )
    )
    start = end
  return {**cosines, "overlap": float(np.mean(np.concatenate(shared)))}


def _in_common(
  models: Sequence[tuple[np.ndarray, np.ndarray]], count: int
) -> Float[np.ndarray, "q"]:
  """For each query the share of its nearest documents that models share."""
  found = []
  for start in range(0, len(models[0][0]), _BLOCK):
    near = [
      np.argpartition(-(left[start : start + _BLOCK] @ right.T), count - 1)
      for left, right in models
    ]
    pairs = zip(*(tops[:, :count] for tops in near), strict=True)
    found += [len(np.intersect1d(a, b)) / count for a, b in pairs]
  return np.array(found)


def means(found: Found) -> dict[str, float]:
  """A model's main figures: {suite: mean, "cosine@DIM", "overlap"}."""
  return {**scores.means(found["scores"]), **found["likeness"]}
