"""Read evaluation tasks from files: BEIR folders and JSONL files.

The formats are those of public collections; each kind of tasks knows its own
(kinds/). A task.json {"task": NAME} beside the data decides the prompts, or
else the folder's name.
"""

import functools
from collections.abc import Set
from pathlib import Path

from embeddinggemma.data import jsonl
from embeddinggemma.evaluation import kinds
from embeddinggemma.evaluation.kinds import classification
from embeddinggemma.evaluation.kinds.task import EvalTask
from embeddinggemma.types import BadInput

IGNORED = frozenset(
  ["val.jsonl", "valid.jsonl", "dev.jsonl", *classification.FITTED]
)


def read_suite(directory: Path) -> list[EvalTask]:
  """Read every task in a folder, recursively, in the order of their paths.

  Raises BadInput for a JSONL file of no known format, for a broken line, as
  FILE:LINE, and for a folder without any task.
  """
  if not directory.is_dir():
    raise BadInput(f"{directory}: no such folder of evaluation tasks")
  folders = [directory, *sorted(directory.rglob("*"))]
  tasks = [
    task
    for folder in folders
    if folder.is_dir()
    for task in _read_folder(folder, directory)
  ]
  if not tasks:
    *others, last = [k.called for k in kinds.KINDS.values() if k.called]
    raise BadInput(
      f"{directory}: no evaluation task; expected BEIR folders "
      "(corpus.jsonl, queries.jsonl, qrels/test.tsv), "
      f"{', '.join(others)} or {last} JSONL, or pairs.jsonl"
    )
  return tasks


def _read_folder(folder: Path, root: Path) -> list[EvalTask]:
  name = folder.relative_to(root).as_posix() if folder != root else root.name
  for kind in kinds.KINDS.values():
    if kind.recognises(folder, frozenset):
      return kind.read(folder, name)
  files = sorted(folder.glob("*.jsonl"))
  if len(files) > 1:
    files = [path for path in files if path.name not in IGNORED] or files
  return [
    task
    for path in files
    for task in _read_file(path, _file_name(path, name, len(files)))
  ]


def _file_name(path: Path, folder_name: str, num_files: int) -> str:
  alone = num_files == 1 and path.stem in ("test", "valid", "val", "dev")
  return folder_name if alone else f"{folder_name}/{path.stem}"


def _read_file(path: Path, name: str) -> list[EvalTask]:
  @functools.cache
  def keys() -> Set[str]:
    _, row = next(jsonl.read_rows(path, ()), ("", {}))
    return row.keys()

  for kind in kinds.KINDS.values():
    if kind.recognises(path, keys):
      return kind.read(path, name)
  if {"query", "positive"} <= keys():
    raise BadInput(f"{path}: pairs are read from a file named pairs.jsonl")
  rows = [kind.rows for kind in kinds.KINDS.values() if kind.rows]
  raise BadInput(f"{path}: no known format; expected {' or '.join(rows)}")
