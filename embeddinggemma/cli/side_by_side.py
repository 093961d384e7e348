"""`evaluate --model=A,B`: models side by side, of this project and others."""

import pathlib
from collections.abc import Mapping
from typing import Any

from absl import flags

from embeddinggemma import cache, quantize
from embeddinggemma.cli.flags import console, file_of
from embeddinggemma.evaluation import suite
from embeddinggemma.mining.services.config import ServiceConfig
from embeddinggemma.report import side_by_side as report
from embeddinggemma.side_by_side import names, running, throughs
from embeddinggemma.side_by_side.contender import Setting
from embeddinggemma.types import BadInput

# Flags of `evaluate` that say something of several models, or of others.
_TAKEN = ("model", "output", "data", "fields", "precision", "yes")


def is_asked(values: flags.FlagValues) -> bool:
  """Whether --model names several models, or one that others run."""
  if len(names.split(values.model)) > 1:
    return True
  if pathlib.Path(values.model).suffix == names.ENDING:
    return not pathlib.Path(values.model).is_dir()
  return throughs.through_of(names.Asked(values.model)) != throughs.IN_OURS


def evaluate(values: flags.FlagValues) -> int:
  """Score models on the same tasks; returns 1 if one of them failed."""
  _require_flags(values)
  output, shown = file_of(values.output), console()
  asked = names.read(values.model, ServiceConfig(yes=values.yes))
  ours = any(throughs.through_of(x) == throughs.IN_OURS for x in asked)
  if values.precision is not None:
    quantize.known(values.precision)
    if not ours:
      raise BadInput(
        "evaluate: --precision rounds the weights of models of this project,"
        " and none is asked for"
      )
  tasks = suite.read_suite(pathlib.Path(values.data), values.fields or "")
  is_file = output.is_file() or not output.exists()

  def save(found: Mapping[str, Any]) -> None:
    output.parent.mkdir(parents=True, exist_ok=True)
    cache.write_json(output, {"data": values.data, **found})

  setting = Setting(
    tasks,
    output.with_suffix("") if is_file else pathlib.Path("evaluate"),
    values.precision,
    shown.print,
  )
  keep = save if is_file else lambda found: None  # once into a pipe
  found = running.evaluate(asked, setting, shown, keep)
  if not is_file:
    save(found)
  for table in report.tables(found):
    shown.print(table)
  for line in report.lines(found):
    shown.print(line)
  return 1 if found["failed"] else 0


def _require_flags(values: flags.FlagValues) -> None:
  """Raise BadInput for flags that several models do not have in common."""
  for flag in values:
    if values[flag].present and flag not in _TAKEN:
      raise BadInput(
        f"evaluate: --{flag} is for one model of this project; leave it out, or"
        " score that one alone"
      )
  if values.data is None:
    raise BadInput(
      "evaluate: --data=DIR is missing: several models, or one that others run,"
      " have no held-out tasks of their own"
    )
