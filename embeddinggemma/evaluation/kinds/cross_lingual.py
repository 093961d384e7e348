"""XOR-Retrieve and XTREME-UP: folders of their releases (evaluation/cross/).

The passages stay on disk, so a task itself holds questions alone. BM25 is not
asked: it matches no words of another language.
"""

import dataclasses
from collections.abc import Callable, Mapping, Sequence, Set
from pathlib import Path
from typing import Any

import numpy as np

from embeddinggemma.evaluation.cross import (
  scores,
  search,
  xor_retrieve,
  xtreme_up,
)
from embeddinggemma.evaluation.cross.benchmark import (
  PROMPTS,
  Benchmark,
  Found,
  Judged,
)
from embeddinggemma.evaluation.kinds.task import (
  EvalTask,
  Kind,
  document_prompt,
  named_in,
)
from embeddinggemma.evaluation.scoring.scored import Scored
from embeddinggemma.types import BadInput, TextEncoder

XOR, XTREME = "XOR-Retrieve", "XTREME-UP"


@dataclasses.dataclass(frozen=True, kw_only=True)
class CrossTask(EvalTask):
  """Questions in several languages, and where their passages are."""

  source: Benchmark


def source_of(task: EvalTask) -> Benchmark:
  """The questions and passages of a task of these kinds."""
  assert isinstance(task, CrossTask), f"{task.name}: made by another kind"
  return task.source


def _read(
  path: Path, name: str, kind: str, source: Benchmark
) -> list[EvalTask]:
  folder = path if path.is_dir() else path.parent
  prompts = named_in(folder, PROMPTS)
  return [CrossTask(name, kind, prompts, source.questions, source=source)]


def _is_xor(path: Path, keys: Callable[[], Set[str]]) -> bool:
  if path.is_file():
    return xor_retrieve.is_questions(path, keys())
  return xor_retrieve.recognises(path)


def _is_xtreme(path: Path, keys: Callable[[], Set[str]]) -> bool:
  del keys
  return xtreme_up.recognises(path) or xtreme_up.is_questions(path)


def _read_xtreme(path: Path, name: str) -> list[EvalTask]:
  if path.is_dir():
    return _read(path, name, XTREME, xtreme_up.read(path))
  raise BadInput(
    f"{path}: questions of {XTREME}; name the folder that has"
    f" {xtreme_up.INDEX} and {xtreme_up.SPLITS[0]}/"
  )


def _kind(
  recognises: Callable[[Path, Callable[[], Set[str]]], bool],
  read: Callable[[Path, str], list[EvalTask]],
  judged: Callable[[Benchmark, Found], Judged],
  metrics: tuple[str, ...],
  paper: Sequence[str],
  own_folders: tuple[str, ...] = (),
) -> Kind:
  def scored(source: Benchmark, found: Found) -> Mapping[int, Scored]:
    return {
      dim: scores.of_questions(source.languages, values, paper)
      for dim, values in judged(source, found).items()
    }

  def by_blocks(
    encode: TextEncoder,
    task: EvalTask,
    dims: Sequence[int],
    say: Callable[[str], None],
  ) -> Mapping[int, Scored]:
    source = source_of(task)
    sides = {"query": task.task, "document": document_prompt(task.task)}
    found = search.nearest(
      encode,
      task.queries,
      sides,
      source.passages,
      dims,
      source.depth,
      say,
    )
    return scored(source, found)

  def by_vectors(task: EvalTask, left: np.ndarray, right: np.ndarray) -> Scored:
    source, dim = source_of(task), left.shape[1]
    return scored(source, {dim: search.among(left, right, source.depth)})[dim]

  def parts(
    task: EvalTask, values: Mapping[str, Mapping[str, float]]
  ) -> Mapping[str, Any]:
    return scores.breakdown(source_of(task).languages, paper, values)

  return Kind(
    recognises,
    read,
    by_vectors,
    metrics,
    document_prompt,
    notes=lambda task: source_of(task).notes,
    by_blocks=by_blocks,
    own_folders=own_folders,
    parts=parts,
  )


KINDS: Mapping[str, Kind] = {
  XOR: _kind(
    _is_xor,
    lambda path, name: _read(path, name, XOR, xor_retrieve.read(path)),
    xor_retrieve.judged,
    xor_retrieve.METRICS,
    xor_retrieve.LANGUAGES,
  ),
  XTREME: _kind(
    _is_xtreme,
    _read_xtreme,
    xtreme_up.judged,
    xtreme_up.METRICS,
    xtreme_up.LANGUAGES,
    xtreme_up.OWN_FOLDERS,
  ),
}
