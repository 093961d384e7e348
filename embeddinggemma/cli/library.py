"""What the verbs do, but for `run`: each a function of plain arguments."""

import pathlib
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from rich.console import Console
from rich.table import Table
from rich.text import Text

from embeddinggemma import cache, soup
from embeddinggemma.data import jsonl
from embeddinggemma.evaluate import classify, suite
from embeddinggemma.evaluate.quality import MODEL, quality
from embeddinggemma.load import load
from embeddinggemma.losses import matryoshka
from embeddinggemma.recipes.index import build_index
from embeddinggemma.recipes.whole import finetuning
from embeddinggemma.recipes.whole.finetuning import SearchConfig
from embeddinggemma.report import report
from embeddinggemma.retrieval import index, reading, search
from embeddinggemma.training import inputs
from embeddinggemma.training.alone import _made, check
from embeddinggemma.training.config import (
  PairConfig,
)
from embeddinggemma.types import BadInput


def search_mixtures(
  config: PairConfig,
  choice: SearchConfig,
  workdir: pathlib.Path,
  console: Console,
) -> list[dict[str, Any]]:
  """The verb `mixture`: tries mixtures of the data's tasks, picks some."""
  check(config)
  dependencies = inputs.dependencies(config)
  with cache.locked(workdir):
    made = _made(config, dependencies, workdir, console)
    key = {"data": dependencies, "base": inputs.parent(config.init_from)}
    directory = workdir / "mixture"
    return finetuning.search(config, choice, made, key, directory, console)


def evaluate_alone(
  model_path: str,
  data: str | None,
  precision: str | None,
  output: pathlib.Path,
  console: Console,
) -> dict[str, Any]:
  """The verb `evaluate`: on the given folder, or on the model's own test."""
  model = load(model_path, precision=precision)
  folder = pathlib.Path(data) if data else _own_test(pathlib.Path(model_path))
  tasks = suite.read_suite(folder)
  encode = suite.remember(model)
  dims = matryoshka.dims_of(model.config.embed_dim)
  table = quality(encode, dims, None, tasks, console, "evaluate")
  result = {
    "model": model.hash,
    "precision": model.precision,
    "data": str(folder),
    "quality": table,
    "summary": {
      name: value
      for name, value in suite.summarise(tasks, table[MODEL]).items()
      if name != "tasks"
    },
  }
  output.parent.mkdir(parents=True, exist_ok=True)
  cache.write_json(output, result)
  console.print(report.terminal_table(result))
  return result


def _own_test(workdir: pathlib.Path) -> pathlib.Path:
  for made in ("tokenizer", "inputs"):
    for place in (workdir, *workdir.resolve().parents[:3]):
      if (place / made / "corpus" / "test").is_dir():
        return place / made / "corpus" / "test"
  raise BadInput(f"{workdir} has no held-out texts of its own; give --data=DIR")


def soup_path(
  base: str,
  domain: str,
  count: int,
  data: Sequence[str],
  workdir: pathlib.Path,
  console: Console,
) -> list[dict[str, Any]]:
  """The verb `soup --path`: a row a point, in WORKDIR/path.json and a table.

  {"share", "checkpoint", "hash", "scores": {folder: mean over task types}} at
  the full dimension. Without data, on the held-out texts of both.
  """
  own = lambda: [str(_own_test(pathlib.Path(path))) for path in (base, domain)]
  suites = {
    folder: suite.read_suite(pathlib.Path(folder))
    for folder in dict.fromkeys(data or own())
  }
  rows = []
  for share, place in soup.path(base, domain, count, workdir):
    model = load(str(place))
    dims = [model.config.embed_dim]
    scores = {
      folder: suite.evaluate(model, tasks, dims)["mean_type"][str(dims[0])]
      for folder, tasks in suites.items()
    }
    name = str(place.relative_to(workdir))
    row = {"share": share, "checkpoint": name, "hash": model.hash}
    rows.append({**row, "scores": scores})
    cache.write_json(workdir / "path.json", {"points": rows})
  console.print(_path_table(rows))
  return rows


def _path_table(rows: Sequence[Mapping[str, Any]]) -> Table:
  """A row a point, a column a suite; the best of each column is bold."""
  folders = list(rows[0]["scores"])
  best = {f: max(row["scores"][f] for row in rows) for f in folders}
  table = Table(title="mean over task types", title_justify="left")
  table.add_column("weights", no_wrap=True)
  for folder in folders:
    table.add_column(Text(folder), justify="right", overflow="fold")
  for row in rows:
    share, scores = row["share"], row["scores"]
    table.add_row(
      f"{1 - share:.3f} {share:.3f}",
      *(
        Text(f"{scores[f]:.4f}", "bold" if scores[f] == best[f] else "")
        for f in folders
      ),
    )
  return table


def embed(
  model_path: str,
  source: str,
  prompt: str,
  dim: int | None,
  output: pathlib.Path,
  console: Console,
) -> None:
  """The verb `embed`: one row a text, float32, unit norm."""
  texts, titles = read_texts(source)
  model = load(model_path)
  model.prompt(prompt)  # an unknown name fails before any work
  vectors = model.encode(
    texts,
    prompt,
    titles=titles,
    truncate_dim=dim,
    show_progress_bar=console.is_terminal,
  )
  output.parent.mkdir(parents=True, exist_ok=True)
  cache.write_array(output, vectors)
  console.print(
    f"{output}: {vectors.shape[0]} x {vectors.shape[1]}", highlight=False
  )


def read_texts(source: str) -> tuple[list[str], list[str]]:
  """Texts and titles of a .jsonl, or a text a line of a .txt or stdin (-).

  As they are: an empty line is an empty text.
  """
  read = _read_rows if source.endswith(".jsonl") else _read_lines
  try:
    rows = list(read(pathlib.Path("/dev/stdin" if source == "-" else source)))
  except OSError as error:
    raise BadInput(f"cannot read {source}: {error.strerror}") from None
  if not rows:
    raise BadInput(f"{source}: holds no text")
  return [text for text, _ in rows], [title for _, title in rows]


def _read_rows(path: pathlib.Path) -> Iterator[tuple[str, str]]:
  rows = jsonl.read_rows(path, ("text",), ("title",), jsonl.any_text)
  for _, row in rows:
    yield row["text"], row["title"]


def _read_lines(path: pathlib.Path) -> Iterator[tuple[str, str]]:
  for origin, line in jsonl.read_lines(path):
    try:
      yield jsonl.without_end(line).decode("utf-8"), ""
    except UnicodeDecodeError as error:
      raise BadInput(f"{origin}: not UTF-8 (byte {error.start + 1})") from None


def query(
  model_path: str,
  directory: pathlib.Path,
  text: str,
  mode: search.Mode,
  k: int,
  console: Console,
) -> list[search.Hit]:
  """The verb `query`: the best chunks of an index."""
  opened = index.open_index(directory)
  if mode == "lexical":
    return search.search(opened, None, text, model="", mode=mode, k=k)
  if said := index.note(opened.about, "`index` again embeds what has any anew"):
    console.print(said, highlight=False, soft_wrap=True)
  cache.keep_programs(directory, waiting=True)
  model = load(model_path)
  return search.search(opened, model, text, model=model.hash, mode=mode, k=k)


def label(
  model_path: str, examples: pathlib.Path, texts: Sequence[str]
) -> list[classify.Guess]:
  """The verb `query --labels`: what labelled examples say of other texts."""
  known = classify.read(examples)
  return classify.classify(load(model_path), known, texts)


def index_alone(
  model_path: str,
  source: pathlib.Path,
  output: pathlib.Path,
  console: Console,
  **options: Any,
) -> dict[str, Any]:
  """The verb `index`: `options` are those of build_index."""
  reading.require(source)
  index.require_ours(output)
  model = load(model_path)
  output.mkdir(parents=True, exist_ok=True)
  cache.keep_programs(output, waiting=True)
  return build_index(model, source, output, console, **options)


def index_summary(output: pathlib.Path, about: Mapping[str, Any]) -> str:
  """What `index` did, as a person reads it."""
  lines = [
    f"{output}: {about['chunks']:,} chunks of {about['files']:,} files,"
    f" {about['vectors']} at {about['dim']} dimensions,"
    f" {about['bytes'] / 1e6:,.1f} MB",
    f"{about['kept']:,} kept, {about['new']:,} new, {about['removed']:,}"
    f" removed; {about['embedded']:,} embedded in"
    f" {about['embedding_seconds']:.1f} s, {about['seconds']:.1f} s in all",
  ]
  for reason, count in about["skipped"].items():
    names = ", ".join(about["examples"][reason])
    more = ", ..." if count > len(about["examples"][reason]) else ""
    lines.append(f"left out, {reason}: {count:,} ({names}{more})")
  return "\n".join([*lines, *filter(None, [about["note"]])])
