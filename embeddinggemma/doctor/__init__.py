"""Doctor: looks for the ways in which an embedding model is silently wrong.

CHECKS is the table: each is a function of an opened model. `examine` runs all
of them on texts in many languages, `quick` the cheap ones on a few words.
"""

import pathlib
from collections.abc import Callable, Iterable, Sequence
from typing import Any, NamedTuple

import jax
from rich.console import Console

from embeddinggemma import checkpoint
from embeddinggemma.convert import folder as folders
from embeddinggemma.convert import origin, tensors
from embeddinggemma.convert.read import sentence_transformers
from embeddinggemma.data import samples
from embeddinggemma.doctor import (
  attention,
  folder,
  head,
  language,
  parts,
  vectors,
)
from embeddinggemma.doctor.opened import (
  FAIL,
  NOT_RUN,
  NOTE,
  PASS,
  Finding,
  Opened,
)
from embeddinggemma.loading import Model, opened
from embeddinggemma.progress import Progress
from embeddinggemma.quantize import FLOAT
from embeddinggemma.terminal.printable import printable
from embeddinggemma.terminal.table import Table
from embeddinggemma.types import BadInput, Stopped

Findings = list[Finding]
Show = Callable[[int, str], Any]  # (checks done, name of the next one)


class Check(NamedTuple):
  """A check, the checks that must pass before it, and whether it is cheap."""

  run: Callable[[Opened], Finding]
  needs: tuple[str, ...] = ()
  cheap: bool = True


_RUNS = ("weights", "dense")
CHECKS = {
  "prompts": Check(parts.check_prompts),
  "tokenizer": Check(parts.check_tokenizer),
  "control": Check(parts.check_control),
  "weights": Check(parts.check_weights),
  "dense": Check(parts.check_dense),
  "window": Check(parts.check_window),
  "finite": Check(vectors.check_finite, _RUNS),
  "unit": Check(vectors.check_unit, ("finite",)),
  "collapse": Check(vectors.check_collapse, ("unit",)),
  "bidirectional": Check(attention.check_bidirectional, ("finite",)),
  "reach": Check(attention.check_reach, ("bidirectional",), cheap=False),
  "packing": Check(vectors.check_packing, ("finite",)),
  "pooled": Check(head.check_pooled, ("unit", "packing")),
  "applied": Check(head.check_applied, ("collapse", "packing")),
  "bfloat16": Check(vectors.check_bfloat16, ("unit",), cheap=False),
  "float16": Check(vectors.check_float16, ("finite",), cheap=False),
  "matryoshka": Check(vectors.check_matryoshka, ("collapse",), cheap=False),
  "meaning": Check(vectors.check_meaning, ("collapse",), cheap=False),
}


def examine(path: str | pathlib.Path, console: Console) -> Findings:
  """Run every check on the model at a path, with a progress bar on the console.

  A sentence-transformers folder has a check of its own first, and a language
  model has its own checks. A model that `load` refuses is a failed finding.
  Raises BadInput if the path does not exist.
  """
  path = pathlib.Path(path)
  if not path.exists():
    raise BadInput(f"{path} does not exist; give a checkpoint or a workdir")
  try:
    words = _language(path)
    model, found = (None, None) if words else opened(path)
  except BadInput as error:
    return [_refused(error)]
  if words:
    count = len(language.PARTS | language.RUNS)
    what = "an encoder-decoder" if words.both else "a decoder"
    opens = Finding("opens", True, f"{words.directory}: {what}")
    with Progress(console, "doctor", count) as progress:
      return [opens, *language.diagnose(words, progress.show)]
  assert model is not None
  seen = "" if model.precision == FLOAT else f", seen in {model.precision}"
  cut = origin.cut_out_of(_cuts(model, found))
  seen += f", cut out of a larger model: {cut}" if cut else ""
  findings = [Finding("opens", True, model.name + seen)]
  if sentence_transformers.is_folder(path):
    prompted = [model.prompt(name) for name in ("query", "document")]
    texts = (*_texts(model), *prompted)  # a prompt alone: of an empty text
    notes = (*found.warned, *found.aside) if found else ()
    place = sentence_transformers.transformer_of(path)
    findings.append(folder.check_folder(place, model.tokenizer, texts, notes))
    if folders.has(path, folders.MARK):
      findings += folder.lost_of_card(path, model.prompts)
  with Progress(console, "doctor", len(CHECKS)) as progress:
    return [*findings, *diagnose(model, progress.show)]


def _cuts(model: Model, found: tensors.Imported | None) -> Any:
  """What was cut out of which model to make this one; see checkpoint.CUTS."""
  if found is not None:
    return found.source.get(checkpoint.CUTS, [])
  return checkpoint.cuts(checkpoint.read_files(pathlib.Path(model.name)))


def _language(path: pathlib.Path) -> language.Language | None:
  """The language model of a checkpoint; None for any other path."""
  if sentence_transformers.is_folder(path):
    return None
  return language.open_language(path)


def diagnose(model: Model, show: Show = lambda done, name: None) -> Findings:
  """Run every check, in order, on a loaded model.

  `show` is called before each check with the number done and its name.
  """
  return _run(Opened(model, _texts(model)), CHECKS, show)


def quick(model: Model) -> Findings:
  """The failures among the cheap checks; empty for a good model."""
  return _failed(_quick(model))


def check_or_stop(model: Model | str | pathlib.Path, console: Console) -> None:
  """Run the cheap checks on a model, or on the one at a path; print a line.

  Raises Stopped with the first fault and its fix.
  """
  if not isinstance(model, Model):
    try:
      model, _ = opened(model)
    except BadInput as error:
      raise Stopped(f"doctor: {error}") from None
  findings = _quick(model)
  for fault in _failed(findings):
    raise Stopped(f"doctor: {fault.check}: {fault.reason}; {fault.fix}")
  console.print(f"doctor: {len(findings)} checks passed", highlight=False)


def passed(findings: Iterable[Finding]) -> bool:
  """Whether no check failed."""
  return not _failed(findings)


def as_json(
  path: str | pathlib.Path, findings: Sequence[Finding]
) -> dict[str, Any]:
  """The findings as `--json` prints them."""
  return {
    "path": str(path),
    "passed": passed(findings),
    "checks": [x._asdict() | {"verdict": x.verdict} for x in findings],
  }


_SHOWN = {  # with its style
  PASS: ("pass", "green"),
  NOTE: ("note", "yellow"),
  FAIL: ("FAIL", "bold red"),
  NOT_RUN: ("not run", "dim"),
}


def as_table(findings: Sequence[Finding]) -> Table:
  """The findings as a table, with the fix below the reason."""
  rows = []
  for finding in findings:
    said = [(printable(finding.reason), "")]
    if finding.fix:
      word = "so" if finding.verdict == NOTE else "fix"
      said.append((f"\n{word}: {printable(finding.fix)}", "bold"))
    rows.append([finding.check, [_SHOWN[finding.verdict]], said])
  return Table(("check", "", "reason and fix"), rows, prose=(2,))


def _refused(error: BadInput) -> Finding:
  """A failed finding from the error of `load`.

  Its message reads "what; fix", or only "what" if the user cannot fix it.
  """
  reason, _, fix = str(error).rpartition("; ")
  fix = fix if reason else "import, export or train it again"
  return Finding("opens", False, reason or str(error), fix)


def _texts(model: Model) -> tuple[str, ...]:
  """Texts for the checks, short ones first.

  The last two are longer than the attention window and than max_length.
  """
  first, second = samples.sides()
  half = min(model.config.window, model.config.max_length) // 2
  long = samples.of_words(half + 4), samples.of_words(model.config.max_length)
  odd = (*samples.EXTREMES, *samples.WHITE_SPACE)
  return (*samples.BRIEF, *first, *second, *odd, *long)


def _quick(model: Model) -> Findings:
  cheap = {name: check for name, check in CHECKS.items() if check.cheap}
  return _run(Opened(model, samples.BRIEF), cheap)


def _run(
  opened: Opened,
  checks: dict[str, Check],
  show: Show = lambda done, name: None,
) -> Findings:
  """Run checks in order; one whose needs did not pass is not run."""
  findings: dict[str, Finding] = {}
  with jax.default_matmul_precision("highest"):  # else TPUs round to bfloat16
    for done, (name, check) in enumerate(checks.items()):
      show(done, name)
      lacking = [need for need in check.needs if not findings[need].passed]
      if lacking:
        said = f"needs {' and '.join(lacking)}"
        findings[name] = Finding(name, None, said)
      else:
        findings[name] = check.run(opened)
  return list(findings.values())


def _failed(findings: Iterable[Finding]) -> Findings:
  return [finding for finding in findings if finding.passed is False]
