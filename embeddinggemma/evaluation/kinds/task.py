"""An evaluation task, and what a kind of tasks must provide (see KINDS)."""

import dataclasses
import json
from collections.abc import Callable, Mapping, Sequence, Set
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from embeddinggemma.data import prompts
from embeddinggemma.types import BadInput, TextEncoder


@dataclasses.dataclass(frozen=True)
class EvalTask:
  """An evaluation task: texts, and right answers in a form set by `kind`."""

  name: str
  kind: str  # a key of KINDS
  task: str  # the task whose prompts are used
  queries: tuple[str, ...]
  documents: tuple[str, ...] = ()
  titles: tuple[str, ...] = ()  # of the documents
  gold: tuple[Any, ...] = ()
  # For search: per query, the document that is the query itself, or -1.
  same: tuple[int, ...] = ()


ByBlocks = Callable[
  [TextEncoder, EvalTask, Sequence[int], Callable[[str], None]],
  Mapping[int, dict[str, float]],
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
  # (task, queries (Q, M), documents (C, M)), unit vectors -> metric -> value.
  score: Callable[[EvalTask, np.ndarray, np.ndarray], dict[str, float]]
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
  # (encoder, task, dimensions, a function that is told how far it is) -> what
  # `score` gives, by dimension. For tasks whose documents are too many to hold:
  # it encodes them itself, and `score` is not asked.
  by_blocks: ByBlocks | None = None
  # Names of the folders in one that it recognises that are no tasks themselves.
  own_folders: tuple[str, ...] = ()
  # (task, dimension -> metric -> value) -> parts of its scores, for files.
  parts: Callable[[EvalTask, Mapping[str, Any]], Mapping[str, Any]] | None = (
    None
  )


def named_in(folder: Path, default: str) -> str:
  """The task that decides a folder's prompts: task.json's, else the default."""
  path = folder / "task.json"
  if not path.is_file():
    return default
  try:
    about: Mapping[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    name = about["task"]
  except (ValueError, KeyError, TypeError):
    raise BadInput(f'{path}: expected {{"task": NAME}}') from None
  prompts.task_named(name)
  return name
