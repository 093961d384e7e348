"""Verbs on whole models: `evaluate`, `soup`, `doctor`, `import`, `export`."""

import pathlib
from collections.abc import Mapping, Sequence
from typing import Any

from absl import flags

from embeddinggemma import cache, soups
from embeddinggemma import doctor as doctors
from embeddinggemma.cli import side_by_side
from embeddinggemma.cli.flags import console, file_of, folder_of, say
from embeddinggemma.convert import verbs as convert
from embeddinggemma.evaluation import quality, suite
from embeddinggemma.loading import load
from embeddinggemma.report import report
from embeddinggemma.terminal.console import Terminal
from embeddinggemma.terminal.table import Table
from embeddinggemma.types import IDENTITY, BadInput


def evaluate(values: flags.FlagValues) -> int:
  """Score a model at each of its Matryoshka dimensions.

  The tasks are those of --data, or else the model's own held-out pairs. Of pairs
  in another format than pairs.jsonl, --data names the file. Several models, and
  one that others run, are scored side by side; returns 1 if one of these fails.
  """
  if side_by_side.is_asked(values):
    return side_by_side.evaluate(values)
  output, shown = file_of(values.output), console()
  model = load(values.model, precision=values.precision)
  own = lambda: _own_test(pathlib.Path(values.model))
  folder = pathlib.Path(values.data) if values.data else own()
  result: dict[str, Any] = {
    "model": model.hash,
    IDENTITY: model.identity.as_json(),
    "precision": model.precision,
    "data": str(folder),
    **quality.evaluate(
      model, suite.read_suite(folder, values.fields or ""), shown
    ),
  }
  output.parent.mkdir(parents=True, exist_ok=True)
  cache.write_json(output, result)
  shown.print(report.terminal_table(result))
  for name, lines in result["notes"].items():
    line = f"note: {name}: {'; '.join(lines)}"
    shown.print(line, highlight=False, markup=False, soft_wrap=True)
  return 0


def _own_test(workdir: pathlib.Path) -> pathlib.Path:
  """The folder of held-out tasks in a model's workdir."""
  for made in ("tokenizer", "inputs"):
    for place in (workdir, *workdir.resolve().parents[:3]):
      if (place / made / "corpus" / "test").is_dir():
        return place / made / "corpus" / "test"
  raise BadInput(f"{workdir} has no held-out texts of its own; give --data=DIR")


def soup(values: flags.FlagValues) -> None:
  """Average checkpoints, or score points on the way from one to another."""
  inputs = values.inputs.split(",")
  workdir = folder_of(values.workdir)
  if values.last is not None:
    if len(inputs) != 1 or values.path is not None:
      raise BadInput(
        "soup: --last=N takes the checkpoints of one of --inputs, without"
        " --path"
      )
    inputs = soups.last(pathlib.Path(inputs[0]), values.last)
  if values.path is None:
    if values.data:
      raise BadInput("soup: --data is for --path=N; `evaluate` scores a soup")
    place = soups.soup(inputs, _weights(values.weights), workdir)
    print(place)
    if twice := soups.alike(place):
      console().print(
        f"note: {', '.join(twice)}: the same weights as an ingredient before,"
        " so this is a mean of fewer models than were given",
        highlight=False,
        soft_wrap=True,
      )
    return
  if values.weights is not None:
    raise BadInput("soup: --path and --weights exclude each other")
  if len(inputs) != 2:
    raise BadInput(f"--path goes between two --inputs, not {len(inputs)}")
  data = values.data.split(",") if values.data else []
  _walk(inputs, values.path, data, workdir)


def _weights(text: str | None) -> list[float] | None:
  try:
    return None if text is None else [float(x) for x in text.split(",")]
  except ValueError:
    raise BadInput(
      f"--weights={text}: give numbers, such as 0.5,0.3,0.2"
    ) from None


def _walk(
  ends: Sequence[str], count: int, data: Sequence[str], workdir: pathlib.Path
) -> None:
  """Score points between two models: WORKDIR/path.json, and a table.

  A row is {"share", "checkpoint", "hash", "identity", "scores": {folder: mean
  over task types}} at full dimension. Without data, the suites are the held-out tasks of
  both.
  """
  own = lambda: [str(_own_test(pathlib.Path(path))) for path in ends]
  suites = {
    folder: suite.read_suite(pathlib.Path(folder))
    for folder in dict.fromkeys(data or own())
  }
  rows = []
  for share, place in soups.path(ends[0], ends[1], count, workdir):
    model = load(str(place))
    dims = [model.config.embed_dim]
    scores = {
      folder: suite.evaluate(model, tasks, dims)["mean_type"][str(dims[0])]
      for folder, tasks in suites.items()
    }
    row = {
      "share": share,
      "checkpoint": str(place.relative_to(workdir)),
      "hash": model.hash,
      IDENTITY: model.identity.as_json(),
    }
    rows.append({**row, "scores": scores})
    cache.write_json(workdir / "path.json", {"points": rows})
  console().print(_path_table(rows))


def _path_table(rows: Sequence[Mapping[str, Any]]) -> Table:
  """A table with a row per point and a column per suite; the best in bold."""
  folders = list(rows[0]["scores"])
  best = {f: max(row["scores"][f] for row in rows) for f in folders}
  look = lambda score, f: "bold" if score == best[f] else ""
  shown = []
  for row in rows:
    scores = [
      [(f"{score:.4f}", look(score, f))] for f, score in row["scores"].items()
    ]
    shown.append([f"{1 - row['share']:.3f} {row['share']:.3f}", *scores])
  return Table(["weights", *folders], shown, "mean over task types")


def doctor(values: flags.FlagValues, *words: str) -> int:
  """Check a model for silent faults; returns 1 if there is one."""
  if len(words) != 1:
    raise BadInput("doctor: give one path: doctor PATH [--json]")
  findings = doctors.examine(words[0], console())
  if values.json:
    say(doctors.as_json(words[0], findings))
  else:
    Terminal(stderr=False).print(doctors.as_table(findings))
  return 0 if doctors.passed(findings) else 1


def import_(values: flags.FlagValues) -> None:
  """Import public weights as a checkpoint, and check it for silent faults."""
  source, workdir = getattr(values, "from"), folder_of(values.workdir)
  convert.import_model(
    source, workdir, values.part, _examine, console(), values.base
  )


def export(values: flags.FlagValues) -> None:
  """Export a checkpoint in another runtime's format."""
  output = folder_of(values.output, "--output")
  convert.export_model(
    values.model,
    values.format,
    output,
    values.dtype,
    values.uncertified,
    _examine,
    console(),
  )


def _examine(place: pathlib.Path) -> None:
  doctors.check_or_stop(place, console())
