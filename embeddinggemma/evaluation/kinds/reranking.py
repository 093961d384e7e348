"""Reranking: the candidates of each query, to be put in order.

A BEIR folder with top_ranked.jsonl, or JSONL rows of {"query", "positive",
"negative"}, the last two lists of texts. `gold` is, per query, a dict {document
index: grade}.
"""

import dataclasses
from collections.abc import Callable, Sequence, Set
from pathlib import Path

import numpy as np
from absl import logging

from embeddinggemma.data import beir, jsonl
from embeddinggemma.evaluation import metrics
from embeddinggemma.evaluation.kinds import retrieval, rows, search_folder
from embeddinggemma.evaluation.kinds.task import (
  EvalTask,
  Kind,
  Search,
  at_once,
  document_prompt,
  named_in,
)
from embeddinggemma.evaluation.scoring import nearest
from embeddinggemma.evaluation.scoring.scored import Scored, of_units
from embeddinggemma.types import BadInput

NAME = "reranking"
PROMPT = "Reranking"  # published, of both sides
FIELDS = ("query", "positive", "negative")
METRICS = ("map@1000", "ndcg@10", "mrr@10")


def _recognises(path: Path, keys: Callable[[], Set[str]]) -> bool:
  if path.is_dir():
    return search_folder.has(path, search_folder.RANKED)
  if path.name == retrieval.PAIRS or not rows.holds(keys, *FIELDS):
    return False
  return isinstance(rows.first(path)["positive"], list)


def _read(path: Path, name: str) -> list[EvalTask]:
  return [_folder(path, name) if path.is_dir() else _file(path, name)]


def _folder(path: Path, name: str) -> EvalTask:
  data = beir.read_retrieval(path)
  task = retrieval.of_folder(name, named_in(path, PROMPT), data)
  ranked = search_folder.candidates(path, data)
  none = (-1,) * len(ranked)
  return dataclasses.replace(task, kind=NAME, same=none, candidates=ranked)


def _file(path: Path, name: str) -> EvalTask:
  """The task of a file; as in mteb, queries without a negative are left out.

  Of equal scores, a query's last negative is first and its first positive last.
  """
  queries, documents, gold, candidates = [], [], [], []
  left = 0
  for origin, row in jsonl.read_rows(path, ("query",)):
    right = rows.texts(origin, row, "positive")
    wrong = rows.texts(origin, row, "negative")
    if not right or not wrong:
      left += 1
      continue
    start, count = len(documents), len(right) + len(wrong)
    queries.append(row["query"])
    documents += [*right, *wrong]
    gold.append(
      {start + place: int(place < len(right)) for place in range(count)}
    )
    candidates.append(tuple(reversed(range(start, start + count))))
  if not queries:
    raise BadInput(f"{path}: no query has both a positive and a negative")
  if left:
    logging.warning(
      "%s: left out queries without a positive or a negative: %d", path, left
    )
  return EvalTask(
    name,
    NAME,
    named_in(path.parent, PROMPT),
    tuple(queries),
    tuple(documents),
    ("",) * len(documents),
    tuple(gold),
    (-1,) * len(queries),
    tuple(candidates),
  )


def _search(task: EvalTask, queries: np.ndarray) -> Search:
  def judge(rankings: Sequence[metrics.Ranking]) -> Scored:
    found = metrics.by_query_deep(rankings, task.gold)
    return of_units({name: found[name] for name in METRICS})

  return nearest.Candidates(task.candidates, queries, metrics.DEEP, judge)


def _notes(task: EvalTask) -> list[str]:
  found = []
  pairs = list(zip(task.candidates, task.gold, strict=True))
  if empty := sum(not own for own, _ in pairs):
    found.append(f"{empty} of {len(pairs)} queries have no candidates: 0 each")
  relevant = [
    {place for place, grade in right.items() if grade > 0} for _, right in pairs
  ]
  if all(right >= set(own) for (own, _), right in zip(pairs, relevant)):
    found.append("every candidate is right: no order is better than another")
  if len(task.queries) == 1:
    found.append("one query: no mean")
  return found


KIND = Kind(
  _recognises,
  _read,
  at_once(_search),
  METRICS,
  document_prompt,
  called="reranking",
  notes=_notes,
  rows="query with lists positive and negative (reranking)",
  search=_search,
)
