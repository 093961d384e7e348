"""`evaluate --suite=long`: quality against the length of documents."""

import contextlib
import pathlib
import tempfile
from collections.abc import Iterator
from typing import Any

from absl import flags

from embeddinggemma import cache, checkpoint
from embeddinggemma.cli.flags import console, file_of
from embeddinggemma.config import parse_arg, suggest
from embeddinggemma.convert.read import families
from embeddinggemma.data.tokenizer import NO_LIMIT
from embeddinggemma.evaluation.long_context import made, reach, run, spec, texts
from embeddinggemma.loading import Model, load
from embeddinggemma.recipes.own import machine
from embeddinggemma.report import long_context as report
from embeddinggemma.report import report as tables
from embeddinggemma.retrieval import measure
from embeddinggemma.terminal.console import Terminal
from embeddinggemma.types import IDENTITY, BadInput

SUITE = "long"


def require_none(values: flags.FlagValues) -> None:
  """Raise BadInput for a flag that counts with --suite alone."""
  if values.lengths is not None:
    raise BadInput(f"evaluate: --lengths needs --suite={SUITE}")


def evaluate(values: flags.FlagValues) -> None:
  """Score a model on documents of several lengths: JSON, tables and a page.

  The suite is made of the text of --data, or of Python's own, beside --output;
  a suite that was made before may itself be --data.
  """
  wanted = _spec(values)
  output, shown = file_of(values.output), console()
  source = pathlib.Path(values.data) if values.data else None
  if source is not None:
    texts.require(source)
  there = spec.about_of(source) if source is not None else {}
  is_made = bool(there)
  if is_made and (values.lengths or ":" in values.suite):
    raise BadInput(
      f"--data={source} is a suite, whose lengths and documents are made; leave"
      f" --lengths out, and write --suite={SUITE}"
    )
  lengths = there.get("lengths", ()) if is_made else wanted.lengths
  model = load(values.model, precision=values.precision)
  reach.require_memory(model.config, lengths, machine.room() - machine.held())
  with _place(source, is_made, output) as folder:
    if not is_made:
      _make(wanted, source, model, folder, output, shown)
    trained = reach.trained(values.model, model.config)
    found = run.evaluate(model, folder, trained, shown)
  found[run.FOUND]["weights"] = _weights(values.model)
  result: dict[str, Any] = {
    "model": model.hash,
    IDENTITY: model.identity.as_json(),
    "precision": model.precision,
    "data": str(folder),
    **found,
  }
  output.parent.mkdir(parents=True, exist_ok=True)
  cache.write_json(output, result)
  _show(result, output, model.name, shown)


def _spec(values: flags.FlagValues) -> spec.Spec:
  """The suite that the flags ask for; BadInput for one that there is not."""
  name, _, arg = values.suite.partition(":")
  if name != SUITE:
    raise BadInput(
      f"--suite={values.suite}: no suite {name!r}{suggest(name, [SUITE])}"
    )
  if values.fields is not None:
    raise BadInput(f"--fields is for pairs; --suite={SUITE} reads running text")
  given = parse_arg(arg, documents=spec.DOCUMENTS, seed=0)
  lengths = spec.LENGTHS
  if values.lengths is not None:
    lengths = spec.lengths_of(values.lengths)
  return spec.Spec(lengths, given["documents"], given["seed"])


@contextlib.contextmanager
def _place(
  source: pathlib.Path | None, is_made: bool, output: pathlib.Path
) -> Iterator[pathlib.Path]:
  """The folder of the suite: --data, or beside the output, or of no duration.

  The last is where the output is a pipe, beside which nothing can be.
  """
  if is_made and source is not None:
    yield source
  elif _is_file(output):
    name = f"{output.stem}.suite"
    name = name if name != output.name else f"{output.name}.suite"
    yield output.with_name(name)
  else:
    with tempfile.TemporaryDirectory() as folder:
      yield pathlib.Path(folder) / SUITE


def _is_file(output: pathlib.Path) -> bool:
  """Whether the output is a file, with others beside it, and no pipe."""
  return cache.partial_of(output) != output


def _page(output: pathlib.Path) -> pathlib.Path:
  """The page beside the output, of a name that no report of a run has."""
  return output.with_name(f"{output.stem}.curve.html")


def _make(
  wanted: spec.Spec,
  source: pathlib.Path | None,
  model: Model,
  folder: pathlib.Path,
  output: pathlib.Path,
  shown: Terminal,
) -> None:
  """Make the suite, unless the folder has it of the same text and tokenizer."""
  prompt = model.prompt("document")
  measured = measure.of_tokenizer(model.tokenizer, prompt, NO_LIMIT)
  own = [output, _page(output)]
  about, known = made.once(wanted, source, own, measured, folder)
  shown.print(
    f"{'found' if known else 'made'}  {folder}  {wanted.documents} documents of"
    f" {','.join(map(str, wanted.lengths))} tokens"
    f" ({wanted.documents * sum(wanted.lengths):,} in all), from {about['text']}",
  )
  if about["left_out"]:
    reasons = [f"{why} ({count})" for why, count in about["left_out"].items()]
    shown.print(f"note: files left out: {'; '.join(reasons)}")


def _weights(path: str) -> str:
  """The hash of a checkpoint's weights, as a run's summary has it."""
  if families.is_public(pathlib.Path(path)):
    return ""
  return checkpoint.hash_of(checkpoint.find(path))


def _show(
  result: dict[str, Any], output: pathlib.Path, model: str, shown: Terminal
) -> None:
  """Print tables and notes, and write the page beside the output."""
  found = result[run.FOUND]
  shown.print(tables.terminal_table(result))
  shown.print(report.table(found))
  for line in report.notes(found):
    shown.print(f"note: {line}")
  if _is_file(output):
    report.write_page(_page(output), found, model)
    shown.print(f"page  {_page(output)}")
