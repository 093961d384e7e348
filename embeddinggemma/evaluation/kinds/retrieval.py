"""Search: a BEIR folder, or pairs whose positives are the documents.

`gold` is, per query, a dict {document index: grade}.
"""

import collections
import re
from collections.abc import Callable, Sequence, Set
from pathlib import Path

import numpy as np

from embeddinggemma.data import beir, prompts, sources
from embeddinggemma.evaluation import metrics
from embeddinggemma.evaluation.kinds.task import (
  EvalTask,
  Kind,
  Search,
  at_once,
  named_in,
)
from embeddinggemma.evaluation.scoring import nearest
from embeddinggemma.evaluation.scoring.scored import Scored, of_units
from embeddinggemma.types import Pair

NAME = "retrieval"
CODE_WORDS = {"code", "python", "java", "javascript", "typescript", "cpp"}
CODE_WORDS |= {"csharp", "go", "php", "ruby", "rust", "kotlin", "bash", "sql"}
PAIR_QUERIES = 1000  # most queries of a task of a pairs.jsonl
PAIRS = "pairs.jsonl"


def from_pairs(name: str, task: str, pairs: Sequence[Pair]) -> EvalTask:
  """Pairs of one task as retrieval among their positives."""
  return of_folder(name, task, beir.as_retrieval(pairs, PAIR_QUERIES))


def _recognises(path: Path, keys: Callable[[], Set[str]]) -> bool:
  del keys
  return (path / "corpus.jsonl").exists()


def _read(path: Path, name: str) -> list[EvalTask]:
  task = named_in(path, _fitting(name))
  return [of_folder(name, task, beir.read_retrieval(path))]


def read_pairs(path: Path, name: str, fields: str) -> list[EvalTask]:
  """The tasks of a file of pairs, one for each task that the pairs name.

  BadInput as of `sources.read_file`.
  """
  pairs: dict[str, list[Pair]] = collections.defaultdict(list)
  for pair in sources.read_file(path, fields):
    pairs[pair.task].append(pair)
  return [
    from_pairs(f"{name}/{task}" if len(pairs) > 1 else name, task, rows)
    for task, rows in pairs.items()
  ]


def of_folder(name: str, task: str, data: beir.Retrieval) -> EvalTask:
  """The task of what the BEIR layout holds; `task` decides the prompts."""
  places = {key: index for index, key in enumerate(data.corpus)}
  gold, same = [], []
  for key, relevant in data.qrels.items():
    gold.append({places[doc]: grade for doc, grade in relevant.items()})
    itself = key in places and key not in relevant
    itself = itself and _equal(data.queries[key], data.corpus[key][1])
    same.append(places[key] if itself else -1)
  return EvalTask(
    name,
    NAME,
    task,
    tuple(data.queries[key] for key in data.qrels),
    tuple(text for _, text in data.corpus.values()),
    tuple(title for title, _ in data.corpus.values()),
    tuple(gold),
    tuple(same),
  )


def _equal(first: str, second: str) -> bool:
  return beir.normalised(first) == beir.normalised(second)


def _fitting(name: str) -> str:
  """The task that a folder's name suggests, else "search result"."""
  words = re.split(r"[/_\-. ]+", name.lower())
  for word in (name.rsplit("/", 1)[-1].lower(), *words):
    if word in prompts.TASKS:
      return word
  if CODE_WORDS.intersection(words):
    return "code"
  if any(word.endswith(("qa", "quad")) for word in words):
    return "qa"
  return NAME


def _search(task: EvalTask, queries: np.ndarray) -> Search:
  judge = lambda rankings: judged(task, rankings)
  return nearest.Nearest(queries, task.same, metrics.DEPTH, judge)


def judged(task: EvalTask, rankings: Sequence[metrics.Ranking]) -> Scored:
  """The scores of rankings, whatever made them."""
  return of_units(metrics.by_query(rankings, task.gold))


def _notes(task: EvalTask) -> list[str]:
  """What any ranking would score, since there is too little to rank."""
  own = min((place >= 0 for place in task.same), default=False)
  ranked = len(task.documents) - own
  found = []
  if all(len(right) >= ranked for right in task.gold):
    found.append("every document is right: any model scores 1")
  elif ranked <= 10:
    found.append(f"{ranked} documents: recall@10 and recall@100 are always 1")
  elif ranked <= metrics.DEPTH:
    found.append(f"{ranked} documents: recall@100 is always 1")
  if len(task.queries) == 1:
    found.append("one query: no mean")
  return found


KIND = Kind(
  _recognises,
  _read,
  at_once(_search),
  ("ndcg@10", "recall@10", "recall@100", "mrr@10"),
  prompts.document_prompt,
  lambda task: prompts.TASKS[task].type,
  searches=True,
  notes=_notes,
  search=_search,
)
