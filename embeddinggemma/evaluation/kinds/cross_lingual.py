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
  Scores,
)
from embeddinggemma.evaluation.kinds.task import EvalTask, Kind, named_in
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
  score: Callable[[Benchmark, Found], Scores],
  metrics: tuple[str, ...],
  paper: Sequence[str],
  own_folders: tuple[str, ...] = (),
) -> Kind:
  def by_blocks(
    encode: TextEncoder,
    task: EvalTask,
    dims: Sequence[int],
    say: Callable[[str], None],
  ) -> Scores:
    source = source_of(task)
    found = search.nearest(
      encode,
      task.queries,
      task.task,
      source.passages,
      dims,
      source.depth,
      lambda note: say(f"{task.name}: {note}"),
    )
    return score(source, found)

  def by_vectors(
    task: EvalTask, left: np.ndarray, right: np.ndarray
  ) -> dict[str, float]:
    source, dim = source_of(task), left.shape[1]
    return score(source, {dim: search.among(left, right, source.depth)})[dim]

  def parts(
    task: EvalTask, scored: Mapping[str, Mapping[str, float]]
  ) -> Mapping[str, Any]:
    return scores.breakdown(source_of(task).languages, paper, scored)

  return Kind(
    recognises,
    read,
    by_vectors,
    metrics,
    notes=lambda task: source_of(task).notes,
    by_blocks=by_blocks,
    own_folders=own_folders,
    parts=parts,
  )


KINDS: Mapping[str, Kind] = {
  XOR: _kind(
    _is_xor,
    lambda path, name: _read(path, name, XOR, xor_retrieve.read(path)),
    xor_retrieve.score,
    xor_retrieve.METRICS,
    xor_retrieve.LANGUAGES,
  ),
  XTREME: _kind(
    _is_xtreme,
    _read_xtreme,
    xtreme_up.score,
    xtreme_up.METRICS,
    xtreme_up.LANGUAGES,
    xtreme_up.OWN_FOLDERS,
  ),
}
