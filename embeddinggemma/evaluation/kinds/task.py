"""An evaluation task, and what a kind of tasks must provide (see KINDS)."""

import dataclasses
from collections.abc import Callable, Mapping, Sequence, Set
from pathlib import Path
from typing import Any, NamedTuple, Protocol, runtime_checkable

import numpy as np
from jaxtyping import Float

from embeddinggemma.data import prompts
from embeddinggemma.evaluation.kinds import about
from embeddinggemma.evaluation.scoring.scored import Scored
from embeddinggemma.types import TextEncoder


@dataclasses.dataclass(frozen=True)
class EvalTask:
  """An evaluation task: texts, and right answers in a form set by `kind`."""

  name: str
  kind: str  # a key of KINDS
  task: str  # the task, or the name of the prompt, of the queries
  queries: tuple[str, ...]
  documents: tuple[str, ...] = ()
  titles: tuple[str, ...] = ()  # of the documents
  gold: tuple[Any, ...] = ()
  # For search: per query, the document that is the query itself, or -1.
  same: tuple[int, ...] = ()
  # For reranking: per query, the documents to be ranked. Of those with equal
  # scores, the one that stands first here is ranked first.
  candidates: tuple[tuple[int, ...], ...] = ()
  main: str = ""  # the metric it is judged by; "": the kind's first
  # What its scores depend on beside texts and vectors, by mteb's names; it is
  # written beside the scores, so it must be JSON.
  protocol: Mapping[str, Any] = dataclasses.field(default_factory=dict)


@runtime_checkable
class Search(Protocol):
  """Scores of documents that come in blocks, so that none but one is held."""

  def add(self, start: int, documents: Float[np.ndarray, "c M"]) -> None:
    """Take the unit vectors of the documents start, start + 1, ..."""

  def scored(self) -> Scored:
    """The task's scores, after all documents."""
    ...


ByBlocks = Callable[
  [TextEncoder, EvalTask, Sequence[int], Callable[[str], None]],
  Mapping[int, Scored],
]


class Kind(NamedTuple):
  """How tasks of a kind are read and scored."""

  # (folder or JSONL file, a function that gives the keys of the file's first
  # row, none for a folder) -> whether it is in this kind's format. The first
  # kind that recognises it reads it.
  recognises: Callable[[Path, Callable[[], Set[str]]], bool]
  # (path, the task's name) -> its tasks, perhaps of several kinds. BadInput
  # names a broken line as FILE:LINE.
  read: Callable[[Path, str], list[EvalTask]]
  # (task, queries (Q, M), documents (C, M)), unit vectors -> metric -> value,
  # or Scored, which has intervals too.
  score: Callable[[EvalTask, np.ndarray, np.ndarray], dict[str, float] | Scored]
  metrics: tuple[str, ...]  # all that `score` may return, the main one first
  # The task's prompts -> the name of the prompt of its documents.
  document_prompt: Callable[[str], str] = lambda task: task
  # The task's prompts -> its type in the mean over types; None: the kind.
  type_of: Callable[[str], str] | None = None
  searches: bool = False  # whether BM25 and hybrid search apply to it
  called: str = ""  # its JSONL files, in messages; empty: it has no such files
  # their rows' content, in messages; empty: another kind names it
  rows: str = ""
  # The task -> what its scores say less than they seem to, such as a recall that
  # is 1 for any model.
  notes: Callable[[EvalTask], Sequence[str]] = lambda task: ()
  # (task, queries (Q, M)) -> what scores it by blocks of documents, as `score`
  # does at once; None: the kind needs all of them at a time.
  search: Callable[[EvalTask, np.ndarray], Search] | None = None
  # (encoder, task, dimensions, a function that is told how far it is) -> scores
  # by dimension. For tasks whose documents are too many to hold: it encodes them
  # itself, and `score` is not asked.
  by_blocks: ByBlocks | None = None
  # Names of the folders in one that it recognises that are no tasks themselves.
  own_folders: tuple[str, ...] = ()
  # (task, dimension -> metric -> value) -> parts of its scores, for files.
  parts: Callable[[EvalTask, Mapping[str, Any]], Mapping[str, Any]] | None = (
    None
  )


def at_once(
  search: Callable[[EvalTask, np.ndarray], Search],
) -> Callable[[EvalTask, np.ndarray, np.ndarray], Scored]:
  """A kind's `score` from its `search`: all documents are one block."""

  def score(task: EvalTask, left: np.ndarray, right: np.ndarray) -> Scored:
    found = search(task, left)
    found.add(0, right)
    return found.scored()

  return score


def document_prompt(task: str) -> str:
  """The prompt name of documents beside queries with this one.

  A task's queries and documents have the prompts of the model card. A published
  prompt's name stands for both sides, as mteb gives it to both, but "query",
  beside which "document" stands.
  """
  if task in prompts.TASKS:
    return prompts.document_prompt(task)
  return "document" if task == "query" else task


def named_in(folder: Path, default: str) -> str:
  """The task that decides a folder's prompts: task.json's, else the default."""
  return about.read(folder).get("task", default)
