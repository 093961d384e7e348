"""The work of the verbs `import` and `export`."""

import dataclasses
import importlib.metadata
import pathlib
import re
import sys
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

from rich.console import Console

from embeddinggemma import cache, checkpoint, quantize
from embeddinggemma import progress as progress_lib
from embeddinggemma.checkpoint import Lazy, Name
from embeddinggemma.config import suggest
from embeddinggemma.convert import folder as folders
from embeddinggemma.convert import formats, origin, safetensors_io
from embeddinggemma.convert.card import card as card_lib
from embeddinggemma.convert.card import scores as scores_lib
from embeddinggemma.convert.card import stated as stated_lib
from embeddinggemma.convert.card.scores import Scores
from embeddinggemma.convert.certify import certificate
from embeddinggemma.convert.read import families, left_aside, on_grid
from embeddinggemma.convert.read import gguf as gguf_read
from embeddinggemma.convert.read.transformers import BOTH
from embeddinggemma.convert.tensors import WHOLE_FOLDER, Imported
from embeddinggemma.convert.write import exporting, output
from embeddinggemma.data.tokenizer import Tokenizer
from embeddinggemma.lineage import stages
from embeddinggemma.model import identity
from embeddinggemma.saved import GRID
from embeddinggemma.terminal.table import Table
from embeddinggemma.types import IDENTITY, BadInput

Examine = Callable[[pathlib.Path], Any]
# Patterns of files that are fetched from a repository: no pickles, no code.
_WANTED = (
  "*.safetensors",
  "*.json",
  "tokenizer.model",
  "LICENSE*",
  "NOTICE*",
  "USE_POLICY*",
  "README.md",
)
_REPOSITORY = re.compile(r"[\w.-]+/[\w.-]+")
_VERSIONS = ("embeddinggemma", "numpy", "orbax-checkpoint", "safetensors")


def import_model(
  source: str,
  workdir: pathlib.Path,
  part: str,
  examine: Examine,
  console: Console,
  base: str | None = None,
) -> pathlib.Path:
  """Import public weights as a checkpoint; returns its folder.

  One tensor is in memory at a time. The checkpoint appears when it is whole and
  has passed `examine`; else the workdir stays as it was.

  Args:
    source: a folder, a GGUF file, or the name of a repository to fetch.
    workdir: where the checkpoint is written.
    part: of an encoder-decoder: encoder, decoder or both.
    examine: called with what an embedder can be loaded from: its source, whose
      tensors need less memory to read than those of a checkpoint, or the
      checkpoint where an adapter and its base are two sources.
    console: for progress and the table of what was read.
    base: what an adapter without weights is merged into: a folder, a file, a
      checkpoint, or the name of a repository.

  Raises:
    BadInput: see `families.read`; the workdir has a checkpoint already; the
      tokenizer has more pieces than the embedding table has rows.
  """
  folder, model, left, found, content = readied(source, part, base)
  with output.fresh(workdir):
    total = len(model.tensors)
    with progress_lib.Progress(console, "import", total) as progress:
      watched = _watched(model.tensors, lambda n: progress.show(n, ""))
      params = {"model": checkpoint.nest(watched), "aux": {}}
      place = output.first_checkpoint(
        workdir,
        params,
        content,
        lambda written: (
          examine(written if base else folder) if model.is_embedder else None
        ),
      )
  console.print(_table(model, left))
  count = sum(tensor.size for tensor in model.tensors.values())
  rest = f"; left out: {model.left_out}" if model.left_out else ""
  for line in (
    f"{place}",
    f"{model.family}: {total} tensors, {count:,} parameters{rest}",
    *model.notes,
    *model.aside,
    *(f"note: {line}" for line in (*model.warned, *left.warned)),
    *([found.line] if found.line else []),
  ):
    console.print(line, highlight=False, markup=False, soft_wrap=True)
  return place


class Readied(NamedTuple):
  """Public weights that can be written as a checkpoint."""

  folder: pathlib.Path  # or file
  model: Imported
  left: left_aside.Left
  found: on_grid.Found
  files: dict[str, bytes]  # the small ones of the checkpoint


def readied(source: str, part: str = BOTH, base: str | None = None) -> Readied:
  """What an import of a source would write, checked; nothing is written.

  Arguments and errors are those of `import_model`.
  """
  folder = _located(source)
  model = families.read(folder, part, _base(base))
  tokenizer = Tokenizer(model.tokenizer, str(folder))
  tokenizer.require_fits(model.config.vocab_size, str(folder))
  given = pathlib.Path(source)
  left = left_aside_of(model, given if given.is_dir() else folder)
  found = on_grid.Found(quantize.FLOAT, "")
  if model.is_embedder:
    found = on_grid.recognise(model)
  files = _files(model, folder, source, found.grid, left)
  return Readied(folder, model, left, found, files)


def _base(base: str | None) -> pathlib.Path | None:
  """The folder, file or checkpoint of --base; a repository is fetched."""
  if base is None:
    return None
  path = pathlib.Path(base)
  is_checkpoint = (path / "params").is_dir() or checkpoint.steps(path)
  return path if is_checkpoint else _located(base, "--base")


def left_aside_of(model: Imported, folder: pathlib.Path) -> left_aside.Left:
  """The files of the source that were not read.

  None where the source is one file, or a tree of Orbax, of which all is read.
  """
  if not folder.is_dir() or WHOLE_FOLDER in model.read:
    return left_aside.Left({}, ())
  return left_aside.in_folder(folder, model.read)


def _table(model: Imported, left: left_aside.Left) -> Table:
  """What was read, from which file, and what was left aside and why."""
  aside = ((file, f"left aside: {why}") for file, why in left.reasons.items())
  return Table(("file", "read"), [*model.read.items(), *aside], prose=(1,))


def export_model(
  path: str,
  form: str,
  place: pathlib.Path,
  dtype: str | None,
  uncertified: bool,
  examine: Examine,
  console: Console,
  card: str | None = None,
  scores: Sequence[str | Scores] = (),
) -> dict[str, Any]:
  """Export a checkpoint; returns the content of its certificate.

  Args:
    path: a checkpoint or a workdir.
    form: the format's name.
    place: the folder to write.
    dtype: of the weights; None: the format's choice for the model.
    uncertified: keep an export whose certificate fails.
    examine: called with the written files.
    console: for progress.
    card: a file in which its publisher states what no record knows.
    scores: of the model, for its card: files that `evaluate` wrote, or what is
      known to be of these weights.

  Raises:
    BadInput: the format cannot hold the model; or `card` or `scores` is no such
      file, or of another model.
    Stopped: the certificate fails. As with whatever `examine` raises, nothing
      is left at `place`.
  """
  if form not in formats.FORMATS:
    known = suggest(form, list(formats.FORMATS))
    raise BadInput(f"--format={form} is unknown{known}")
  how = formats.opened(form)
  say = lambda line: console.print(
    line, highlight=False, markup=False, soft_wrap=True
  )
  found: dict[str, Any] = {}
  told: list[str] = []
  stated = stated_lib.read(card) if card else stated_lib.NOTHING
  read = [(str(s), scores_lib.read(s)) for s in scores if isinstance(s, str)]
  known = [s for s in scores if isinstance(s, Scores)]

  def certify(
    job: exporting.Job, folder: pathlib.Path, written: exporting.Written
  ) -> None:
    found.update(certificate.certify(how, job, folder, written))
    given = [*known, *(one for _, one in read)]
    facts = card_lib.facts_of(how, job, written, found, given)
    (folder / origin.CARD).write_bytes(card_lib.card(facts))
    told.append(card_lib.summary(facts))
    if not uncertified:
      certificate.require(found)

  with progress_lib.Progress(console, "export", 1) as progress:
    written = exporting.export(
      how,
      path,
      place,
      dtype,
      examine,
      certify,
      progress.show_of,
      stated,
      lambda job: scores_lib.require_of(read, job),
    )
  say(f"{place}  weights {written.digest[:12]}{certificate.grid(found)}")
  if "needs" in found:
    say(f"note: the order of its layers needs {found['needs']}")
  say(certificate.summary(found))
  say(*told)
  return found


def _located(source: str, flag: str = "") -> pathlib.Path:
  """The folder or GGUF file of a path or of a repository's name.

  `flag` is what the user named it by, if not --from.
  """
  path = pathlib.Path(source)
  if file := gguf_read.chosen(path):
    return file
  if path.is_dir():
    if (path / "params").is_dir() or checkpoint.steps(path):
      raise BadInput(f"{path} is a checkpoint already; give it as --model")
    return path
  if path.is_file():
    if safetensors_io.is_pickle(path):
      raise safetensors_io.refusal(path)
    raise BadInput(f"{path} is a file; give the folder that holds it")
  if not _REPOSITORY.fullmatch(source):
    raise BadInput(f"{flag} {path} does not exist".strip())
  try:
    import huggingface_hub

    place = huggingface_hub.snapshot_download(
      source, allow_patterns=list(_WANTED)
    )
  except Exception as error:  # the library raises many kinds
    reason = (str(error) or repr(error)).splitlines()[0]
    raise BadInput(
      f"{source} is no folder here and could not be fetched: {reason}"
    ) from None
  return pathlib.Path(place)


def _watched(
  tensors: Mapping[Name, Lazy], on_read: Callable[[int], Any]
) -> dict[Name, Lazy]:
  """The same tensors; `on_read` is called as each is read."""
  done = 0

  def read(tensor: Lazy) -> Any:
    nonlocal done
    done += 1
    on_read(done)
    return tensor.read()

  return {
    name: dataclasses.replace(tensor, read=lambda t=tensor: read(t))
    for name, tensor in tensors.items()
  }


def _repository(source: str, folder: pathlib.Path) -> str:
  """The repository on the Hub that weights are from, as far as it is known."""
  if not pathlib.Path(source).exists():
    return source  # it was fetched
  return origin.repository(f"{folder.absolute().as_posix()}/")


def _files(
  model: Imported,
  folder: pathlib.Path,
  source: str,
  grid: str,
  left: left_aside.Left,
) -> dict[str, bytes]:
  """The small files of the imported checkpoint, as training writes them."""
  config = dataclasses.asdict(model.config)
  root = folder if folder.is_dir() else folder.parent
  paths = [folder] if folder != root else sorted(root.rglob("*.safetensors"))
  weights = {p.relative_to(root).as_posix(): p.stat().st_size for p in paths}
  files = {
    "read": dict(model.read),
    "left_aside": dict(left.reasons),
    "notes": [*model.warned, *left.warned],
  }
  about = {
    "from": source,
    "family": model.family,
    "repository": _repository(source, folder),
    "bytes": weights,
    "files": files,
  }
  recipe = {
    "stage": "import",
    "parents": {},
    "source": {**about, **model.source},
    "config": {"model": config, **model.more},
    "view": "identity",
    IDENTITY: identity.parts(
      model.config, Tokenizer(model.tokenizer).identity, model.prompts
    ),
    GRID: grid,
    **checkpoint.with_teachers(folders.teachers(folder)),
    **stages.entry(folders.trained(folder)),
    **checkpoint.AS_WRITTEN,
    "versions": {n: importlib.metadata.version(n) for n in _VERSIONS},
    "command": sys.argv,
  }
  return {
    "model.json": cache.to_json(config),
    "prompts.json": cache.to_json(dict(model.prompts)),
    "recipe.json": cache.to_json(recipe),
    checkpoint.TOKENIZER_FILE: model.tokenizer,
    **folders.terms(root, model.licence),
  }
