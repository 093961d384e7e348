"""`evaluate --compare`: scores beside published ones."""

import pathlib
from collections.abc import Mapping
from typing import Any

from absl import flags

from embeddinggemma import cache
from embeddinggemma.cli.flags import console, file_of, say
from embeddinggemma.evaluation.published import compare, scores
from embeddinggemma.report import published
from embeddinggemma.terminal.console import Terminal

COMPARED = "compared"  # the key of a comparison in the JSON of `evaluate`


def of_file(values: flags.FlagValues) -> None:
  """Compare the scores of --scores; nothing is scored.

  The tables go to standard output, or to standard error beside --output.
  """
  output = None if values.output is None else file_of(values.output)
  path = pathlib.Path(values.scores)
  given = scores.read(path)
  compare.require_tasks(given.tasks, str(path), given.suite)
  found = {
    "scores": str(path),
    "compare": values.compare,
    **compare.compare(given),
  }
  if output is not None:
    output.parent.mkdir(parents=True, exist_ok=True)
    cache.write_json(output, found)
  if values.json:
    say(found)
  else:
    show(found, Terminal(stderr=False) if output is None else console())


def of_result(result: Mapping[str, Any]) -> dict[str, Any]:
  """The comparison of what `evaluate` is about to write; {} without a score."""
  if not (result.get("quality") or result.get("tasks")):
    return {}
  return compare.compare(scores.of_json(result))


def show(found: Mapping[str, Any], shown: Terminal) -> None:
  """Print the tables and lines of a comparison."""
  for table in published.tables(found):
    shown.print(table)
  for line in published.lines(found):
    shown.print(line)
