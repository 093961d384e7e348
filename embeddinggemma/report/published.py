"""Scores beside published ones, as tables and lines for the terminal.

What is shown is what `evaluation.published.compare` returns.
"""

import statistics
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from embeddinggemma.report import page
from embeddinggemma.terminal.table import Cell, Table

Found = Mapping[str, Any]
_SHOWN = 6  # names in a line


def tables(found: Found) -> Iterator[Table]:
  """Of each suite: ours beside the paper's, and what was published of others."""
  for suite, about in found["suites"].items():
    for dim, at in about["at"].items():
      if _is_compared(at):
        yield _beside(suite, dim, at, about["tasks"])
    if rows := _means(about):
      title = f"{suite}: published means, over all {about['tasks']} tasks"
      yield Table(["model", "mean over tasks", "mean over types"], rows, title)
    if table := _types(suite, about):
      yield table


def lines(found: Found) -> Iterator[str]:
  """What differs, what is missing, and which tasks are in no table."""
  for suite, about in found["suites"].items():
    yield from _differing(suite, about["at"])
    for dim, at in about["at"].items():
      if not _is_compared(at):
        yield (
          f"{suite} at {dim} dimensions: not compared; what the paper has there"
          " are means over whole types and suites"
        )
    if about["missing"]:
      count = f"{len(about['missing'])} of {about['tasks']} tasks"
      yield (
        f"{suite}: {count} are missing: {_names(about['missing'])}; means are"
        " over those that both have"
      )
  for name, near in found["unknown"].items():
    told = f"; near: {', '.join(near)}" if near else ""
    yield f"not compared: {name} is in no table{told}"


def _differing(suite: str, by_dim: Found) -> Iterator[str]:
  """The settings that differ, a line each, with their dimensions if not all."""
  compared = [dim for dim, at in by_dim.items() if _is_compared(at)]
  dims: dict[str, list[str]] = {}
  for dim in compared:
    for told in by_dim[dim]["differs"]:
      of = f" ({_names(told['of'])})" if told["of"] else ""
      line = (
        f"{told['setting']}: {told['here']} here, {told['there']} there{of}"
      )
      dims.setdefault(line, []).append(dim)
  for line, of in dims.items():
    where = "" if of == compared else f" at {', '.join(of)} dimensions"
    yield f"{suite}{where}: {line}"


def _names(names: Sequence[str]) -> str:
  more = len(names) - _SHOWN
  shown = ", ".join(names[:_SHOWN])
  return f"{shown} and {more} more" if more > 0 else shown


def _is_compared(at: Found) -> bool:
  """Whether any score at a dimension has one of the paper's beside it."""
  rows = [*at["tasks"].values(), *at["types"].values(), at["mean_task"]]
  return any(row["paper"] is not None for row in rows)


def _beside(suite: str, dim: str, at: Found, whole: int) -> Table:
  """Tasks below their type, with the means at the end."""
  rows: list[list[Cell]] = []
  for kind, row in at["types"].items():
    rows.append(_bold(f"{kind}, {row['tasks']} of {row['of']}", row))
    for task, own in at["tasks"].items():
      if own["type"] == kind:
        rows.append([f"  {task}", *_figures(own)])
  count, types = at["mean_task"]["tasks"], at["mean_type"]["types"]
  rows.append(_bold(f"mean over {count} of {whole} tasks", at["mean_task"]))
  if types[1] > 1:
    named = f"mean over {types[0]} of {types[1]} types"
    rows.append(_bold(named, at["mean_type"]))
  title = f"{suite}{f' at {dim} dimensions' if dim else ''}, in percent"
  return Table(["", "ours", "paper", "difference"], rows, title)


def _figures(row: Found) -> list[str]:
  return [
    _figure(row["ours"]),
    _figure(row["paper"]),
    signed(row["difference"]),
  ]


def _bold(name: str, row: Found) -> list[Cell]:
  return [[(name, "bold")], *([(text, "bold")] for text in _figures(row))]


def _figure(value: float | None) -> str:
  return page.figure(None) if value is None else f"{value:.2f}"


def signed(value: float | None) -> str:
  """A difference with its sign; a dash for none."""
  return page.figure(None) if value is None else f"{value:+.2f}"


def _means(about: Found) -> list[list[Cell]]:
  """The published means of every model over a whole suite, ours first."""
  models = [r for r in _of_models(about) if "mean_task" in r]
  rows: list[list[Cell]] = []
  for left_out in dict.fromkeys(tuple(r.get("left_out", ())) for r in models):
    for dim, at in about["at"].items():
      ours = [
        row["ours"] for task, row in at["tasks"].items() if task not in left_out
      ]
      if len(ours) == about["tasks"] - len(left_out):
        settings = {"dimension": dim, "left_out": left_out}
        means = statistics.fmean(ours), at["mean_type"]["ours"]
        rows.append(
          [
            [(_named("this model", settings), "bold")],
            [(_figure(means[0]), "bold")],
            [(_figure(None if left_out else means[1]), "bold")],
          ]
        )
  for result in models:
    means = result["mean_task"], result.get("mean_type")
    rows.append([_named(result["model"], result), *map(_figure, means)])
  return rows


def _of_models(about: Found) -> list[Found]:
  """The published results of models; ablations are in the JSON."""
  return [r for r in about["published"] if r["of"] != "ablation"]


def _named(model: str, result: Found) -> str:
  """A model with the settings of its result."""
  dim, precision = result.get("dimension"), result.get("precision", "")
  told = [
    f"{dim} dimensions" if dim else "",
    precision if precision not in ("", "bfloat16") else "",
    *(f"without {task}" for task in result.get("left_out", ())),
  ]
  return ", ".join([model, *filter(None, told)])


def _types(suite: str, about: Found) -> Table | None:
  """The published means by type, with ours of each type that is whole.

  Those of the paper's smaller dimensions stand beside ours of that dimension.
  """
  paper = [r for r in about["published"] if r["of"] == "paper"]
  largest = max((r["dimension"] for r in paper), default=0)
  whole = [
    r
    for r in _of_models(about)
    if "types" in r and r.get("dimension", largest) == largest
  ]
  kinds = list(dict.fromkeys(kind for r in whole for kind in r["types"]))
  if len(whole) < 2:
    return None
  at = next(iter(about["at"].values()))
  ours = {
    kind: row["ours"]
    for kind, row in at["types"].items()
    if row["tasks"] == row["of"]
  }
  header = ["model", *kinds]
  rows = [["this model", *(_figure(ours.get(kind)) for kind in kinds)]]
  rows += [
    [_named(r["model"], r), *(_figure(r["types"].get(kind)) for kind in kinds)]
    for r in whole
  ]
  return Table(
    header, rows if ours else rows[1:], f"{suite}: published by type"
  )
