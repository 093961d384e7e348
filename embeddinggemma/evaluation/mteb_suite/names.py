"""Which tasks a name stands for: a benchmark of mteb, tasks, or a folder."""

import difflib
import pathlib
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from embeddinggemma.evaluation.cross import mteb_tasks
from embeddinggemma.evaluation.mteb_suite import package
from embeddinggemma.types import BadInput

_NEAR = 3  # names that a message suggests


def tasks_of(names: str) -> list[Any]:
  """The tasks of mteb that names stand for, each once, in their order.

  Args:
    names: of benchmarks and tasks, with commas between them, as in
      "MTEB(eng, v2)" or "STS12,NanoBEIR". Case and spaces do not matter. A
      folder of XOR-Retrieve or XTREME-UP is a task, too.

  Raises BadInput for a name that this version of mteb does not know, with those
  that are near, and for a task that two benchmarks have in different parts.
  """
  mteb = package.require()
  benchmarks = {
    name: benchmark
    for benchmark in mteb.get_benchmarks()
    for name in (benchmark.name, *(benchmark.aliases or ()))
  }
  from mteb.get_tasks import TASK_LIST  # type: ignore

  known = {cls.metadata.name: cls for cls in TASK_LIST}
  folded = {_folded(name): name for name in (*known, *benchmarks)}
  found: list[Any] = []
  for part in parts(names):
    is_exact = part in known or part in benchmarks
    name = part if is_exact else folded.get(_folded(part))
    if name is None and pathlib.Path(part).is_dir():
      found += mteb_tasks.tasks(part)
      continue
    if name is None:
      raise BadInput(_unknown(part, folded, mteb.__version__))
    many = benchmarks.get(name)
    found += [mteb.get_task(name)] if many is None else many.tasks
  if not found:
    raise BadInput(
      f"--mteb={names} names no task; give a benchmark, such as NanoBEIR, or"
      " tasks"
    )
  return once(found)


def parts(names: str) -> Iterator[str]:
  """What stands between the commas that are in no parentheses."""
  depth, part = 0, ""
  for letter in f"{names},":
    depth += (letter == "(") - (letter == ")")
    if letter == "," and depth <= 0:
      if part.strip():
        yield part.strip()
      part = ""
    else:
      part += letter
  if part.strip(", "):  # a parenthesis that has no end
    yield part.rstrip(",").strip()


def once(tasks: Sequence[Any]) -> list[Any]:
  """The tasks without repetitions.

  Raises BadInput for two of a name whose splits or subsets differ: their
  results would be one.
  """
  found: dict[str, Any] = {}
  for task in tasks:
    name = task.metadata.name
    if _extent(found.setdefault(name, task)) != _extent(task):
      raise BadInput(
        f"{name} is named twice, with different subsets or splits; evaluate"
        " them one after the other"
      )
  return list(found.values())


def _extent(task: Any) -> tuple[frozenset[str], frozenset[str]]:
  return frozenset(task.hf_subsets), frozenset(task.eval_splits)


def _folded(name: str) -> str:
  return "".join(name.split()).casefold()


def _unknown(part: str, folded: Mapping[str, str], version: str) -> str:
  near = difflib.get_close_matches(_folded(part), folded, _NEAR)
  named = ", ".join(repr(folded[name]) for name in near)
  fix = (
    f"did you mean {named}?"
    if named
    else "`python -m mteb available-tasks` lists them"
  )
  return f"mteb {version} has no benchmark or task {part!r}; {fix}"
