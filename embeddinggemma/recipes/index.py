"""The search index that a recipe makes with its final model."""

import dataclasses
import pathlib
import shlex
import shutil
import sys
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from rich.console import Console

from embeddinggemma import progress as progress_lib
from embeddinggemma.cache import Task
from embeddinggemma.data import corpus, coverage, jsonl, truncation
from embeddinggemma.loading import Model, load
from embeddinggemma.retrieval import chunks, codes, index, update
from embeddinggemma.retrieval import measure as measures
from embeddinggemma.types import BadInput

# Part of the key of the task `index`: a change makes the index anew.
FORMAT = f"{index.FORMAT}, {chunks.VERSION}"
DOCUMENTS = "documents.jsonl"  # distinct positives of the user's pairs


@dataclasses.dataclass(frozen=True)
class IndexConfig:
  """What the recipe indexes, and at how many dimensions.

  An empty input stands for the positives of the user's pairs or, in the recipe
  from raw text without such pairs, for the modules of the standard library.
  """

  input: str
  dim: int
  most: int = 0  # of the pairs' positives, drawn evenly; 0: all


@dataclasses.dataclass(frozen=True)
class Source:
  """A folder or JSONL file to index, without the excluded paths."""

  path: pathlib.Path
  excluded: tuple[pathlib.Path, ...] = ()


def documents(
  pairs: pathlib.Path, workdir: pathlib.Path, most: int = 0
) -> Source:
  """Write the distinct positives of a corpus's training pairs as JSONL.

  If `most` is not 0, they are at most so many, drawn evenly.
  The file stays in the workdir, since search results name it and a line of it.
  """
  pairs_of = corpus.read_train(pairs)
  rows = sorted({(pair.title, pair.positive) for pair in pairs_of})
  if most:
    rows = rows[:: -(-len(rows) // most)]
  path = workdir / DOCUMENTS
  jsonl.write_jsonl(
    path, [{"text": text, "title": title} for title, text in rows]
  )
  return Source(path)


def build(
  model: pathlib.Path,
  source: Source,
  dim: int,
  directory: pathlib.Path,
  console: Console,
) -> dict[str, Any]:
  """Index a source with the checkpoint `model`, in a task's folder.

  Returns {"chunks": their number, "source": its path}.
  """
  about = build_index(
    load(model),
    source.path,
    directory,
    console,
    dim=dim,
    excluded=source.excluded,
  )
  return {"chunks": about["chunks"], "source": about["source"]}


def task(
  config: IndexConfig,
  model: pathlib.Path,
  weights: str,
  searched: Mapping[str, Any],
  source: Callable[[], Source],
  console: Console,
) -> Task:
  """The task `index` of a recipe.

  Args:
    config: what is indexed, and how.
    model: the checkpoint that embeds.
    weights: the hash of its weights.
    searched: all on which the source depends, as JSON.
    source: makes the source, when the task works.
    console: for messages.
  """
  return Task(
    "index",
    {
      "format": FORMAT,
      "weights": weights,
      "config": dataclasses.asdict(config),
      **searched,
    },
    lambda d: build(model, source(), config.dim, d, console),
    resumable=True,
  )


def measure(model: Model) -> measures.Measure:
  """How much of a document the model reads; BadInput if that is nothing."""
  prompt = model.prompt("document")
  return measures.of_tokenizer(model.tokenizer, prompt, model.config.max_length)


def command(verb: str, *arguments: str) -> str:
  """A command line of this program, by a name that works in this shell."""
  program = pathlib.Path(sys.argv[0])
  if shutil.which("embeddinggemma") or program.name != "embeddinggemma":
    program = pathlib.Path("embeddinggemma")
  elif program.is_relative_to(pathlib.Path.cwd()):
    program = program.relative_to(pathlib.Path.cwd())
  return shlex.join([str(program), verb, *arguments])


def query_command(workdir: pathlib.Path, text: str) -> str:
  """The command that asks the index of a finished run a question."""
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
  """Make or update an index, with a progress bar.

  Args:
    model: what embeds the chunks.
    source: a folder, a JSONL or a single file.
    output: the index's folder.
    console: where the bar is shown.
    dim: of the vectors; None: as in the index that is there, else 256 or the
      model's dimension, whichever is less.
    vectors: their codes; None: as in the index that is there, else int8.
    rebuild: embed everything anew.
    excluded: paths of the source that are left out.

  Returns:
    What `update.build_index` says of the index.

  Raises:
    BadInput: `dim` is not from 1 to the model's dimension.
  """
  most = model.config.embed_dim
  there: dict[str, Any] = {} if rebuild else index.choices(output)
  making = update.Making(
    model.identity,
    there.get("dim", min(256, most)) if dim is None else dim,
    vectors or there.get("vectors", "int8"),
  )
  if dim is not None and not 0 < dim <= most:
    raise BadInput(f"--dim={dim}: the model has dimensions 1 to {most}")
  with (
    progress_lib.Progress(console, "index", 1) as progress,
    truncation.counted() as counts,
  ):
    about = update.build_index(
      model,
      source,
      output,
      making,
      measure=measure(model),
      rebuild=rebuild,
      excluded=excluded,
      progress=progress.show_of,
    )
  truncation.report(counts)
  coverage.say(counts.bytes, counts.tokens, console)
  return about
