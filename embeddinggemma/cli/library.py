"""What the verbs do, but for `run`: each a function of plain arguments."""

import contextlib
import dataclasses
import pathlib
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, cast

from rich.console import Console
from rich.table import Table
from rich.text import Text

from embeddinggemma import cache, checkpoint, distributed, doctor, soup
from embeddinggemma.cache import Step
from embeddinggemma.data import jsonl, loader
from embeddinggemma.evaluate import classify, suite
from embeddinggemma.load import Model, load
from embeddinggemma.losses import matryoshka
from embeddinggemma.recipes.whole import finetuning, qat
from embeddinggemma.recipes.whole.finetuning import SearchConfig
from embeddinggemma.report import report
from embeddinggemma.retrieval import codes, index, reading, search, update
from embeddinggemma.training import hooks, inputs, run, start, streams
from embeddinggemma.training import workdir as record
from embeddinggemma.training.config import (
  LanguageConfig,
  PairConfig,
  QatConfig,
  TrainConfig,
)
from embeddinggemma.training.inputs import Inputs
from embeddinggemma.types import BadInput, TextEncoder

# Rows of the quality table, from the least to the most.
UNTRAINED, MODEL, HYBRID = "untrained", "model", "model + BM25"


def train_alone(
  config: TrainConfig, workdir: pathlib.Path, console: Console
) -> dict[str, Any]:
  """The verb `train`: inputs once, then the stage in the workdir itself.

  An embedder is Stopped at its end if the doctor's cheap checks find a fault;
  its weights stay.
  """
  distributed.agree("the config", record.flat(config))
  distributed.agree("versions", record.versions())
  check(config)
  dependencies = inputs.dependencies(config)
  distributed.agree("the data", dependencies)
  cache.require_writable(workdir)
  cache.keep_programs(workdir)
  first = distributed.is_first()
  with cache.locked(workdir) if first else contextlib.nullcontext():
    ready = lambda: _ready(config, dependencies, workdir, console)
    distributed.first_does("inputs", ready)
    if not first and not cache.is_done(_step(dependencies), workdir):
      raise BadInput(
        f"{workdir} is not the first process's folder; put --workdir on storage"
        " that all hosts share"
      )
    made = _made(config, dependencies, workdir, console)
    if isinstance(config, QatConfig):
      place = workdir / qat.TEACH
      config = qat.with_teacher(config, made, place, console)
    trained = run.train(config, made, workdir, console)
    done = lambda: _close(config, trained, workdir, console)
    distributed.first_does("check", done)
  return trained


def _step(dependencies: Mapping[str, Any]) -> Step:
  """The making of inputs, to ask whether it is done."""
  return Step("inputs", dependencies, lambda _: {})


def _ready(
  config: TrainConfig,
  dependencies: Mapping[str, Any],
  workdir: pathlib.Path,
  console: Console,
) -> None:
  """What training reads; fails on a workdir of another run."""
  record.check_workdir(config, workdir)
  if checkpoint.steps(workdir) and not cache.is_done(
    _step(dependencies), workdir
  ):
    raise BadInput(
      f"{workdir} was trained on other data, packages or parent weights, or by a"
      " version that stripped texts; use another --workdir"
    )
  _made(config, dependencies, workdir, console)


def _close(
  config: TrainConfig,
  trained: Mapping[str, Any],
  workdir: pathlib.Path,
  console: Console,
) -> None:
  console.print(
    f"{workdir / trained['checkpoint']}  weights {trained['hash'][:12]}",
    highlight=False,
    soft_wrap=True,
  )
  if isinstance(config, PairConfig):
    doctor.check_or_stop(workdir / trained["checkpoint"], console)


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


def check(config: TrainConfig) -> None:
  """Fails on what no data can mend, before any work."""
  start.check(config)
  streams.check_teacher(config)


def prepare(
  config: TrainConfig, workdir: pathlib.Path, console: Console
) -> None:
  """The verb `prepare`: what `train` would read, made in its workdir."""
  start.check(config)
  with cache.locked(workdir):
    made = _made(config, inputs.dependencies(config), workdir, console)
  console.print(f"{made.directory}", highlight=False, soft_wrap=True)


def _made(
  config: TrainConfig,
  dependencies: Mapping[str, Any],
  workdir: pathlib.Path,
  console: Console,
) -> Inputs:
  """Made once in the workdir; those of a `run` serve as well."""
  inputs.check_place(config, workdir)
  make = lambda directory: inputs.make(config, directory, console)
  steps = [Step(name, dependencies, make) for name in ("tokenizer", "inputs")]
  step = next((s for s in steps if cache.is_done(s, workdir)), steps[-1])
  cache.perform(step, workdir)
  return inputs.of(config, workdir / step.name)


def batches(
  config: TrainConfig,
  workdir: pathlib.Path | None,
  first: int,
  last: int,
  console: Console,
) -> Iterator[dict[str, Any]]:
  """The verb `prepare --show`: task, rows and texts of each batch.

  A text is (origin, query, positive), or for a language model (row id, what
  it reads, what it answers, if the two differ).
  """
  start.check(config)
  with contextlib.ExitStack() as stack:
    if workdir is None:
      place = pathlib.Path(stack.enter_context(tempfile.TemporaryDirectory()))
      # The table decides no batch, and nothing would keep it.
      config = dataclasses.replace(config, init="random")
    else:
      stack.enter_context(cache.locked(workdir))
      place = workdir
    made = _made(config, inputs.dependencies(config), place, console)
    show = _shown(config, made)
    data, _ = streams.dataset(config, made, 1)
    for step in range(first, last):
      loaded = cast(loader.Loaded, data[step])
      yield {
        "step": step,
        "task": loaded.task,
        "rows": loaded.rows.tolist(),
        "texts": [show(loaded.task, int(i)) for i in loaded.rows[:3]],
      }


def _shown(
  config: TrainConfig, made: Inputs
) -> Callable[[str, int], tuple[str, ...]]:
  """(task, row) -> where it is from, and its sides as text."""
  decode = made.tokenizer().decode
  if isinstance(config, LanguageConfig):
    windows = streams.read_windows(config, made)
    example = streams.example_of(config, made)
    tokens = lambda row: windows.tokens(row % len(windows))
    return lambda _, row: (
      f"row {row}",
      *map(decode, example(tokens(row), row)),
    )
  assert isinstance(config, PairConfig)
  tasks, _ = streams.read_tasks(config, made)
  origin = lambda rows, i: str(
    pathlib.Path(rows.origin[i]).relative_to(made.corpus)
  )
  return lambda task, i: (
    origin(tasks[task], i),
    decode(tasks[task].query[i]),
    decode(tasks[task].positive[i]),
  )


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


def quality(
  encode: TextEncoder,
  dims: Sequence[int],
  fresh: Model | None,
  tasks: Sequence[suite.EvalTask],
  console: Console,
  name: str,
) -> dict[str, Any]:
  """{system: {task: {dim: {metric: value}}}} for one suite.

  `encode` remembers, since hybrid search asks it again.
  """
  table: dict[str, Any] = {}
  with hooks.Progress(console, name, 4) as progress:
    table.update(suite.baselines(tasks))
    progress.show(1, "word baselines")
    if fresh is not None:
      table[UNTRAINED] = suite.evaluate(fresh, tasks, dims[:1])["tasks"]
    progress.show(2, "untrained model")
    table[MODEL] = suite.evaluate(encode, tasks, dims)["tasks"]
    progress.show(3, "model")
    table[HYBRID] = suite.hybrid(encode, tasks, dims[0])
    progress.show(4, "hybrid")
  return table


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
  with hooks.Progress(console, "index", 1) as progress:
    return update.build_index(
      model,
      source,
      output,
      making,
      rebuild=rebuild,
      excluded=excluded,
      progress=progress.show_of,
    )


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
