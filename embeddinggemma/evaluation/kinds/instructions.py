"""Search by queries with an instruction each, which says what is relevant.

A BEIR folder with instructions. With qrel_diff.jsonl each query comes twice, with
an instruction and with a narrower one, and the main metric is how far documents
fall that the second excludes (p-MRR). `gold` is (per query, a dict {document
index: grade}), (the pairs of queries and the documents between them).
"""

import dataclasses
from collections.abc import Callable, Sequence, Set
from pathlib import Path

import numpy as np

from embeddinggemma.data import beir
from embeddinggemma.evaluation import metrics
from embeddinggemma.evaluation.kinds import about, retrieval, search_folder
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

NAME = "instruction retrieval"
PROMPT = "InstructionRetrieval"  # published, of both sides
FOLLOWED = "p-mrr"
RANKED = ("ndcg@10", "ndcg@20", "ndcg@5", "map@1000", "mrr@10")


def _recognises(path: Path, keys: Callable[[], Set[str]]) -> bool:
  del keys
  return search_folder.instructed(path)


def _read(path: Path, name: str) -> list[EvalTask]:
  data = beir.read_retrieval(path)
  pairs = search_folder.changed(path, data)
  given = search_folder.has(path, search_folder.RANKED)
  # mteb calls tasks with changed instructions, or candidates, reranking by
  # instructions, for which no prompt is published: they get those of search.
  prompt = "query" if pairs or given else PROMPT
  wanted = about.read(path).get("main_score", "")
  if not pairs and about.metric_named(wanted, (FOLLOWED,)):
    raise BadInput(
      f"{path}: {wanted} needs {search_folder.CHANGED}, which says what each"
      " changed instruction excludes"
    )
  task = retrieval.of_folder(name, named_in(path, prompt), data)
  return [
    dataclasses.replace(
      task,
      kind=NAME,
      queries=search_folder.with_instructions(path, data),
      gold=(task.gold, pairs),
      same=(-1,) * len(task.queries),
      candidates=search_folder.candidates(path, data) if given else (),
      main="" if pairs else RANKED[0],
    )
  ]


def _search(task: EvalTask, queries: np.ndarray) -> Search:
  gold, pairs = task.gold

  def judge(rankings: Sequence[metrics.Ranking]) -> Scored:
    found = of_units(metrics.by_query_deep(rankings, gold))
    if not pairs:
      return found
    moved = of_units({FOLLOWED: metrics.p_mrr(rankings, pairs)})
    # Other units than the queries: the pairs of them. The main score has them.
    return moved._replace(values={**moved.values, **found.values})

  if task.candidates:
    return nearest.Candidates(task.candidates, queries, metrics.DEEP, judge)
  return nearest.Nearest(queries, task.same, metrics.DEEP, judge)


def _notes(task: EvalTask) -> list[str]:
  _, pairs = task.gold
  found = []
  if len(pairs) == 1:
    found.append("one changed instruction: no mean")
  empty = sum(not own for own in task.candidates)
  if empty:
    found.append(f"{empty} of {len(task.queries)} queries have no candidates")
  return found


KIND = Kind(
  _recognises,
  _read,
  at_once(_search),
  (FOLLOWED, *RANKED),
  document_prompt,
  notes=_notes,
  search=_search,
)
