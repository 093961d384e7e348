"""Read evaluation tasks from files: BEIR folders, JSONL files, files of pairs.

The formats are those of public collections; each kind of tasks knows its own
(kinds/). A task.json {"task": NAME} beside the data decides the prompts, or
else the folder's name.
"""

import dataclasses
import functools
from collections.abc import Callable, Iterator, Set
from pathlib import Path

from embeddinggemma.data import jsonl
from embeddinggemma.evaluation import kinds
from embeddinggemma.evaluation.kinds import about, labelled, retrieval
from embeddinggemma.evaluation.kinds.task import EvalTask, Kind
from embeddinggemma.types import BadInput

IGNORED = frozenset(["val.jsonl", "valid.jsonl", "dev.jsonl", *labelled.FITTED])


def read_suite(path: Path, fields: str = "") -> list[EvalTask]:
  """Read every task in a folder, recursively, in the order of their paths.

  A file is read alone: JSONL as in a folder, or pairs in any format and with any
  columns that training reads.

  Args:
    fields: which column of pairs is what, as --fields has it.

  Raises BadInput for a JSONL file of no known format, for a broken line, as
  FILE:LINE, and for a folder without any task.
  """
  if path.is_file():
    return _read_alone(path, fields)
  if not path.is_dir():
    raise BadInput(f"{path}: no such folder of evaluation tasks, and no file")
  tasks = [
    task
    for folder in _folders(path)
    for task in _read_folder(folder, path, fields)
  ]
  if not tasks:
    *others, last = [k.called for k in kinds.KINDS.values() if k.called]
    raise BadInput(
      f"{path}: no evaluation task; expected BEIR folders "
      "(corpus.jsonl, queries.jsonl, qrels/test.tsv), XOR-Retrieve or XTREME-UP"
      " as released, "
      f"{', '.join(others)} or {last} JSONL, or pairs.jsonl; of pairs in another"
      " format, name the file itself"
    )
  return tasks


def _folders(path: Path) -> Iterator[Path]:
  """A folder and those in it, but for those that belong to a task of one."""
  owned: set[Path] = set()
  for folder in [path, *sorted(path.rglob("*"))]:
    if folder.is_dir() and not owned.intersection([folder, *folder.parents]):
      yield folder
      for kind in kinds.KINDS.values():
        if kind.own_folders and kind.recognises(folder, frozenset):
          owned.update(folder / name for name in kind.own_folders)


def _read_alone(path: Path, fields: str) -> list[EvalTask]:
  """The tasks of a file that was named itself; one of no kind holds pairs."""
  place = path.parent.resolve().name if path.name == retrieval.PAIRS else ""
  name = place or path.name.split(".")[0]
  if path.suffix == ".jsonl" and path.name != retrieval.PAIRS and not fields:
    for kind in kinds.KINDS.values():
      if kind.recognises(path, _keys(path)):
        return _read_by(kind, path, name)
  return retrieval.read_pairs(path, name, fields)


def _read_folder(folder: Path, root: Path, fields: str) -> list[EvalTask]:
  name = folder.relative_to(root).as_posix() if folder != root else root.name
  for kind in kinds.KINDS.values():
    if kind.recognises(folder, frozenset):
      return _read_by(kind, folder, name)
  files = sorted(folder.glob("*.jsonl"))
  if len(files) > 1:
    files = [path for path in files if path.name not in IGNORED] or files
  return [
    task
    for path in files
    for task in _read_file(path, _file_name(path, name, len(files)), fields)
  ]


def _read_by(kind: Kind, path: Path, name: str) -> list[EvalTask]:
  """The tasks, judged by the `main_score` of task.json, if it names one.

  BadInput if none of them has such a metric.
  """
  tasks = kind.read(path, name)
  folder = path if path.is_dir() else path.parent
  wanted = about.read(folder).get("main_score")
  if wanted is None:
    return tasks
  mains = [about.metric_named(wanted, kinds.of(t).metrics) for t in tasks]
  if not any(mains):
    known = [name for task in tasks for name in kinds.of(task).metrics]
    raise BadInput(
      f"{folder / about.FILE}: 'main_score' is {wanted!r}; {name} has"
      f" {', '.join(dict.fromkeys(known))}"
    )
  return [
    dataclasses.replace(task, main=main) if main else task
    for task, main in zip(tasks, mains, strict=True)
  ]


def _file_name(path: Path, folder_name: str, num_files: int) -> str:
  alone = num_files == 1 and path.stem in ("test", "valid", "val", "dev")
  return folder_name if alone else f"{folder_name}/{path.stem}"


def _keys(path: Path) -> Callable[[], Set[str]]:
  """What reads the keys of a file's first row, once."""

  @functools.cache
  def keys() -> Set[str]:
    _, row = next(jsonl.read_rows(path, ()), ("", {}))
    return row.keys()

  return keys


def _read_file(path: Path, name: str, fields: str) -> list[EvalTask]:
  if path.name == retrieval.PAIRS:
    return retrieval.read_pairs(path, name.removesuffix("/pairs"), fields)
  keys = _keys(path)
  for kind in kinds.KINDS.values():
    if kind.recognises(path, keys):
      return _read_by(kind, path, name)
  if {"query", "positive"} <= keys():
    raise BadInput(
      f"{path}: pairs in a folder are read from a file named pairs.jsonl; rename"
      " it, or name the file itself"
    )
  rows = [kind.rows for kind in kinds.KINDS.values() if kind.rows]
  raise BadInput(f"{path}: no known format; expected {' or '.join(rows)}")
