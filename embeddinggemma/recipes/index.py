"""The index that a recipe leaves, of what its pairs hold or of a given path."""

import dataclasses
import pathlib
import shlex
import shutil
import sys
from collections.abc import Sequence
from typing import Any

from rich.console import Console

from embeddinggemma import progress as progress_lib
from embeddinggemma.data import corpus, jsonl
from embeddinggemma.load import Model, load
from embeddinggemma.retrieval import chunks, codes, index, update
from embeddinggemma.types import BadInput

# What makes a recipe's old index anew.
FORMAT = f"{index.FORMAT}, {chunks.VERSION}"
DOCUMENTS = "documents.jsonl"  # of the user's pairs, that the recipe indexes


@dataclasses.dataclass(frozen=True)
class IndexConfig:
  """What the recipe indexes. Empty input: the standard library's modules, or
  the positives of the user's pairs."""

  input: str
  dim: int


@dataclasses.dataclass(frozen=True)
class Source:
  """A folder or JSONL to index, without some of its paths."""

  path: pathlib.Path
  excluded: tuple[pathlib.Path, ...] = ()


def documents(pairs: pathlib.Path, workdir: pathlib.Path) -> Source:
  """The positives of a corpus's training pairs, once each, as a JSONL.

  In the workdir: answers name this file and a line of it.
  """
  rows = {(pair.title, pair.positive) for pair in corpus.read_train(pairs)}
  path = workdir / DOCUMENTS
  jsonl.write_jsonl(
    path, [{"text": text, "title": title} for title, text in sorted(rows)]
  )
  return Source(path)


def build(
  model: pathlib.Path,
  source: Source,
  dim: int,
  directory: pathlib.Path,
  console: Console,
) -> dict[str, Any]:
  """Indexes a source with the model of a workdir, in a stage's folder."""
  about = build_index(
    load(model),
    source.path,
    directory,
    console,
    dim=dim,
    excluded=source.excluded,
  )
  return {"chunks": about["chunks"], "source": about["source"]}


def command(verb: str, *arguments: str) -> str:
  """A command line of ours, by a name that works in this shell."""
  program = pathlib.Path(sys.argv[0])
  if shutil.which("embeddinggemma") or program.name != "embeddinggemma":
    program = pathlib.Path("embeddinggemma")
  elif program.is_relative_to(pathlib.Path.cwd()):
    program = program.relative_to(pathlib.Path.cwd())
  return shlex.join([str(program), verb, *arguments])


def query_command(workdir: pathlib.Path, text: str) -> str:
  """What to type next, of a run that has its index."""
  places = f"--model={workdir}", f"--index={workdir / 'index'}"
  return command("query", *places, text)


def build_index(
  model: Model,
  source: pathlib.Path,
  output: pathlib.Path,
  console: Console,
  *,
  dim: int | None = None,
  vectors: codes.Kind | None = None,
  rebuild: bool = False,
  excluded: Sequence[pathlib.Path] = (),
) -> dict[str, Any]:
  """update.build_index with a bar.

  Without `dim` and `vectors`, as the index that is there, else 256 dimensions
  or the model's, if that is less, in int8.
  """
  most = model.config.embed_dim
  there: dict[str, Any] = {} if rebuild else index.choices(output)
  making = update.Making(
    model.hash,
    model.prompt("document"),
    there.get("dim", min(256, most)) if dim is None else dim,
    vectors or there.get("vectors", "int8"),
  )
  if dim is not None and not 0 < dim <= most:
    raise BadInput(f"--dim={dim}: the model has dimensions 1 to {most}")
  with progress_lib.Progress(console, "index", 1) as progress:
    return update.build_index(
      model,
      source,
      output,
      making,
      rebuild=rebuild,
      excluded=excluded,
      progress=progress.show_of,
    )
