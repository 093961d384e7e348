"""`evaluate`: a model scored by our own runner or by mteb's, and what is asked of
the scores.
"""

import pathlib
from collections.abc import Mapping
from typing import Any

from absl import flags

from embeddinggemma import cache
from embeddinggemma.cli import (
  benchmarks,
  comparison,
  long_context,
  side_by_side,
)
from embeddinggemma.cli.flags import console, file_of, missing
from embeddinggemma.evaluation import prompting, quality, suite
from embeddinggemma.evaluation.published import compare
from embeddinggemma.loading import load
from embeddinggemma.report import languages, report
from embeddinggemma.report import prompting as report_prompts
from embeddinggemma.terminal.console import Terminal
from embeddinggemma.types import IDENTITY, BadInput

# Flags of a run, which --scores excludes.
_OF_A_RUN = (
  *("model", "data", "fields", "precision", "dim", "prompts"),
  *("mteb", "suite", "lengths"),
)
_OF_TASKS = ("dim", "prompts", "compare")  # which --suite excludes


def evaluate(values: flags.FlagValues) -> int:
  """Score a model at each of its Matryoshka dimensions, or at --dim alone.

  The tasks are those of --data, or else the model's own held-out pairs. Of pairs
  in another format than pairs.jsonl, --data names the file. --mteb names tasks
  of the mteb package instead; --suite makes them of running text. Several models,
  and one that others run, are scored side by side. Returns 1 if a task or a model
  fails; the others are scored. With --scores, nothing is: what was scored before
  is compared.
  """
  require_flags(values)
  if values.scores is not None:
    comparison.of_file(values)
    return 0
  if side_by_side.is_asked(values):
    return side_by_side.evaluate(values)
  if values.suite is not None:
    long_context.evaluate(values)
    return 0
  output, shown = file_of(values.output), console()
  score, show = _score, _show
  if values.mteb is not None:
    score, show = benchmarks.score, benchmarks.show
  result: dict[str, Any] = {}
  try:
    score(values, result, shown)
    if values.compare:
      result[comparison.COMPARED] = comparison.of_result(result)
  finally:  # what fails after the scores loses none
    if result:
      output.parent.mkdir(parents=True, exist_ok=True)
      cache.write_json(output, result)
  show(result, shown)
  if compared := result.get(comparison.COMPARED):
    comparison.show(compared, shown)
  return 1 if result.get("failed") else 0


def require_flags(values: flags.FlagValues) -> None:
  """Raise BadInput for flags that do not go together."""
  given = lambda flag: values[flag].value != values[flag].default
  if values.compare is not None:
    compare.require_known(values.compare)
  if values.prompts is not None:
    prompting.require_known(values.prompts)
  if values.scores is not None:
    if values.compare is None:
      raise BadInput("evaluate: --scores=FILE is compared; add --compare=paper")
    for flag in filter(given, (*_OF_A_RUN, *benchmarks.OF_MTEB)):
      raise BadInput(
        f"evaluate: --scores=FILE has scores already; leave out --{flag}"
      )
    return
  for flag in ("model", "output"):
    if values[flag].value is None:
      raise BadInput(missing("evaluate", flag))
  if values.json:
    raise BadInput("evaluate: --json is for --scores; a run writes --output")
  if values.suite is not None:
    for flag in filter(given, (*_OF_TASKS, "mteb", *benchmarks.OF_MTEB)):
      raise BadInput(f"evaluate: --suite and --{flag} exclude each other")
    return
  long_context.require_none(values)
  if values.mteb is None:
    for flag in filter(given, benchmarks.OF_MTEB):
      raise BadInput(f"evaluate: --{flag} needs --mteb")
    return
  for flag in filter(given, benchmarks.WITHOUT_MTEB):
    raise BadInput(
      f"evaluate: --mteb and --{flag} exclude each other;"
      f" {benchmarks.WITHOUT_MTEB[flag]}"
    )


def _score(
  values: flags.FlagValues, result: dict[str, Any], shown: Terminal
) -> None:
  """Put a model's scores into `result`, then those with other prompts."""
  model = load(values.model, precision=values.precision)
  own = lambda: own_test(pathlib.Path(values.model))
  folder = pathlib.Path(values.data) if values.data else own()
  tasks = suite.read_suite(folder, values.fields or "")
  if values.compare:
    compare.require_tasks(compare.names_of(tasks), str(folder))
  result |= {
    "model": model.hash,
    IDENTITY: model.identity.as_json(),
    "precision": model.precision,
    "data": str(folder),
    **quality.evaluate(model, tasks, shown, values.dim),
  }
  if values.prompts:
    tasks = [task for task in tasks if task.name not in result["failed"]]
    right = result["quality"][quality.MODEL]
    result[prompting.CHECKED] = prompting.check(model, tasks, right, shown)


def own_test(workdir: pathlib.Path) -> pathlib.Path:
  """The folder of held-out tasks in a model's workdir."""
  for made in ("tokenizer", "inputs"):
    for place in (workdir, *workdir.resolve().parents[:3]):
      if (place / made / "corpus" / "test").is_dir():
        return place / made / "corpus" / "test"
  raise BadInput(f"{workdir} has no held-out texts of its own; give --data=DIR")


def _show(result: Mapping[str, Any], shown: Terminal) -> None:
  """Print what our own runner found."""
  shown.print(report.terminal_table(result))
  for table in languages.tables(result):
    shown.print(table)
  shown.print(report_prompts.used(result["prompts"]))
  for name, lines in result["notes"].items():
    shown.print(f"note: {name}: {'; '.join(lines)}")
  for name, why in result["failed"].items():
    shown.print(f"failed: {name}: {why}")
  if checked := result.get(prompting.CHECKED):
    shown.print(report_prompts.checked(checked))
    for text in report_prompts.verdict(checked):
      shown.print(text)
