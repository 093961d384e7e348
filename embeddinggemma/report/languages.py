"""Scores by language family and language, for the terminal."""

from collections.abc import Iterator, Mapping
from typing import Any

from embeddinggemma.terminal.table import Cell, Table


def tables(result: Mapping[str, Any]) -> Iterator[Table]:
  """A table for each task of a result of `evaluate` that has languages.

  It is at the first dimension. A family stands above its languages, with their
  mean; languages that are not in the mean stand last.
  """
  for task, parts in result["parts"].items():
    mean, families, languages = (
      parts[key] for key in ("mean", "families", "languages")
    )
    dim = next(iter(mean["scores"]))
    rows, shown = [_row("mean", mean, dim, "bold")], set()
    for family, part in families.items():
      rows.append(_row(family, part, dim, "bold"))
      names = part["members"]
      rows += [_row(languages[n]["name"], languages[n], dim) for n in names]
      shown.update(names)
    rows += [
      _row(part["name"], part, dim)
      for name, part in languages.items()
      if name not in shown
    ]
    header = ["", "questions", *mean["scores"][dim]]
    yield Table(header, rows, f"{task} @ {dim}, by language family")


def _row(
  name: str, part: Mapping[str, Any], dim: str, style: str = ""
) -> list[Cell]:
  """The cells of a language, or of a group with how many languages it has."""
  count = f" of {len(part['members'])}" if "members" in part else ""
  figures = [f"{value:.4f}" for value in part["scores"][dim].values()]
  texts = (f"{name}{count}", str(part["questions"]), *figures)
  return [[(text, style)] for text in texts]
