"""The recipe: tokenizer -> prefinetune -> evaluate -> index, each cached.

`run` does what changed and continues what was killed; it ends with
summary.json, report.html and the command that asks the model something.
"""

import contextlib
import dataclasses
import pathlib
import shlex
import shutil
import sys
import sysconfig
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, cast

import numpy as np
from rich.console import Console

from embeddinggemma import cache, checkpoint, config, train
from embeddinggemma.cache import Done, Step
from embeddinggemma.config import at_least
from embeddinggemma.data import corpus, jsonl, mixture
from embeddinggemma.data.tokenizer import Tokenizer
from embeddinggemma.evaluate import report, suite
from embeddinggemma.load import Model, assemble, load
from embeddinggemma.losses import matryoshka
from embeddinggemma.retrieval import index
from embeddinggemma.stages import TrainConfig
from embeddinggemma.training import hooks
from embeddinggemma.types import BadInput

DOCUMENTS = "documents.jsonl"  # of the user's pairs, that the recipe indexes
STAGES = ("tokenizer", "prefinetune", "evaluate", "index")
# Rows of the quality table, from the least to the most.
UNTRAINED, MODEL, HYBRID = "untrained", "model", "model + BM25"


@dataclasses.dataclass(frozen=True)
class IndexConfig:
  """What the recipe indexes. Empty input: the standard library's modules, or
  the positives of the user's pairs."""

  input: str
  dim: int


@dataclasses.dataclass(frozen=True)
class RecipeConfig:
  """A whole run, by stage."""

  prefinetune: TrainConfig
  index: IndexConfig
  seconds: dict[str, float]  # measured on two cores, for the plan
  gflops: float  # of the machine that these were measured on

  def __post_init__(self) -> None:
    at_least("index.dim", self.index.dim, 1)
    if self.index.dim > self.prefinetune.model.embed_dim:
      raise BadInput(
        f"index.dim={self.index.dim} exceeds model.embed_dim="
        f"{self.prefinetune.model.embed_dim}"
      )


def build(tree: Mapping[str, Any]) -> RecipeConfig:
  """RecipeConfig from a tree whose top level also names common knobs.

  configs/recipe.py puts seed, steps, ... at the top; they are references to
  the same values inside the stages.
  """
  knobs = {f.name for f in dataclasses.fields(TrainConfig)}
  own = {f.name for f in dataclasses.fields(RecipeConfig)}
  kept = {k: v for k, v in tree.items() if k in own or k not in knobs}
  return config.build(RecipeConfig, kept)


def run(
  recipe: RecipeConfig, workdir: pathlib.Path, console: Console
) -> dict[str, Any]:
  """Runs or continues the recipe; returns what summary.json holds."""
  began = time.perf_counter()
  train.check(recipe.prefinetune)
  # Bad paths end it here.
  inputs = train.inputs_of(recipe.prefinetune)
  searched = _fingerprint(recipe.index.input)
  with cache.locked(workdir):
    done: list[Done] = []
    steps = _steps(recipe, workdir, inputs, searched, console)
    _print_plan(recipe, workdir, steps, console)
    for make in steps:
      step = make(done)
      cached = cache.is_done(step, workdir)
      console.rule(step.name, align="left")
      done.append(cache.perform(step, workdir))
      note = (
        "done before, nothing changed"
        if cached
        else f"{done[-1].seconds:.0f} s"
      )
      console.print(f"{step.name}: {note}", highlight=False)
    summary = _summary(recipe, workdir, done, time.perf_counter() - began)
    cache.write_json(workdir / "summary.json", summary)
  _print_end(summary, workdir, console)
  return summary


def _steps(
  recipe: RecipeConfig,
  workdir: pathlib.Path,
  inputs: Mapping[str, Any],
  searched: str,
  console: Console,
) -> list[Callable[[list[Done]], Step]]:
  """Each stage as a function of those before it, whose results it depends on."""
  tuning = recipe.prefinetune
  made = train.Inputs(workdir / "tokenizer")
  relevant = train.relevant(tuning)
  return [
    lambda _: Step(
      "tokenizer", inputs, lambda d: train.make_inputs(tuning, d, console)
    ),
    lambda done: Step(
      "prefinetune",
      {"config": relevant, "inputs": done[0].key},
      lambda d: train.train(tuning, made, d, console),
      resumable=True,
    ),
    lambda done: Step(
      "evaluate",
      {"weights": done[1].hash, "trained": done[1].key},
      lambda d: _evaluate(recipe, workdir, d, console),
    ),
    lambda done: Step(
      "index",
      {
        "weights": done[1].hash,
        "trained": done[1].key,
        "config": dataclasses.asdict(recipe.index),
        "input": searched,
      },
      lambda d: _index(recipe, workdir, d, console),
    ),
  ]


def _evaluate(
  recipe: RecipeConfig,
  workdir: pathlib.Path,
  directory: pathlib.Path,
  console: Console,
) -> dict[str, Any]:
  """Scores the model on validation and test, beside what it must beat."""
  inputs = train.Inputs(workdir / "tokenizer")
  tuning = recipe.prefinetune
  tuned = load(workdir / "prefinetune")
  fresh = assemble(
    tuned.config,
    train.initial_params(tuning, inputs)[0],
    Tokenizer(inputs.directory / train.TOKENIZER_FILE),
    UNTRAINED,
    dict(tuned.prompts),
  )
  result = {}
  for side in ("validation", "test"):
    folder = inputs.corpus / side
    if not any(folder.iterdir()):
      console.print(f"{side}: too few pairs to hold any out", highlight=False)
      continue
    tasks = suite.read_suite(folder)
    result[side] = quality(tuned, fresh, tasks, console, side)
  cache.write_json(directory / "quality.json", result)
  best = result.get("test", {}).get(MODEL, {})
  return {"test": {name: _first(dims) for name, dims in best.items()}}


def _first(dims: Mapping[str, Mapping[str, float]]) -> dict[str, float]:
  return dict(next(iter(dims.values())))


def quality(
  tuned: Model,
  fresh: Model | None,
  tasks: Sequence[suite.EvalTask],
  console: Console,
  name: str,
) -> dict[str, Any]:
  """{system: {task: {dim: {metric: value}}}} for one suite."""
  dims = matryoshka.dims_of(tuned.config.embed_dim)
  table: dict[str, Any] = {}
  with hooks.Progress(console, name, 4) as progress:
    table.update(suite.baselines(tasks))
    progress.show(1, "word baselines")
    if fresh is not None:
      table[UNTRAINED] = suite.evaluate(fresh, tasks, dims[:1])["tasks"]
    progress.show(2, "untrained model")
    encode = suite.remember(tuned)
    table[MODEL] = suite.evaluate(encode, tasks, dims)["tasks"]
    progress.show(3, "model")
    table[HYBRID] = suite.hybrid(encode, tasks, dims[0])
    progress.show(4, "hybrid")
  return table


def _index(
  recipe: RecipeConfig,
  workdir: pathlib.Path,
  directory: pathlib.Path,
  console: Console,
) -> dict[str, Any]:
  """Indexes the configured input with the final model."""
  model = load(workdir / "prefinetune")
  source, excluded = _index_source(recipe, workdir)
  about = build_index(
    model, source, directory / "index", recipe.index.dim, console, excluded
  )
  for path in (directory / "index").iterdir():
    path.rename(directory / path.name)
  (directory / "index").rmdir()
  return {"chunks": about["chunks"], "source": about["source"]}


def _index_source(
  recipe: RecipeConfig, workdir: pathlib.Path
) -> tuple[pathlib.Path, Sequence[pathlib.Path]]:
  if recipe.index.input:
    return pathlib.Path(recipe.index.input), ()
  if not recipe.prefinetune.data.path:
    # The public top-level modules: enough to ask about, in half a minute.
    library = pathlib.Path(sysconfig.get_path("stdlib"))
    public = lambda p: p.is_file() and not p.name.startswith("_")
    return library, [p for p in library.iterdir() if not public(p)]
  rows = {
    (pair.title, pair.positive)
    for pair in corpus.read_train(workdir / "tokenizer" / "corpus")
  }
  # In the workdir: answers name this file and a line of it.
  path = workdir / DOCUMENTS
  jsonl.write_jsonl(
    path, [{"text": text, "title": title} for title, text in sorted(rows)]
  )
  return path, ()


def _fingerprint(source: str) -> str:
  """Changes when a file of the index's input does; "" for the default input."""
  if not source:
    return ""
  root = pathlib.Path(source)
  if not root.exists():
    raise BadInput(f"index.input={source} does not exist")
  files = sorted(p for p in (root, *root.rglob("*")) if p.is_file())
  stats = [(str(p), p.stat().st_size, p.stat().st_mtime_ns) for p in files]
  return cache.key_of({"files": stats})


def build_index(
  model: Model,
  source: pathlib.Path,
  output: pathlib.Path,
  dim: int,
  console: Console,
  excluded: Sequence[pathlib.Path] = (),
) -> dict[str, Any]:
  """retrieval.index.build_index with a bar."""
  with hooks.Progress(console, "index", 1) as progress:
    return index.build_index(
      model,
      source,
      output,
      dim=dim,
      model=model.hash,
      excluded=excluded,
      progress=progress.show_of,
    )


def train_alone(
  tuning: TrainConfig, workdir: pathlib.Path, console: Console
) -> dict[str, Any]:
  """The verb `train`: inputs once, then the stage in the workdir itself."""
  train.check(tuning)
  dependencies = train.inputs_of(tuning)
  with cache.locked(workdir):
    train.check_workdir(tuning, workdir)
    inputs = Step("inputs", dependencies, lambda _: {})
    if checkpoint.steps(workdir) and not cache.is_done(inputs, workdir):
      raise BadInput(
        f"{workdir} was trained on other data, packages or parent weights; use"
        " another --workdir"
      )
    made = _inputs(tuning, dependencies, workdir, console)
    result = train.train(tuning, made, workdir, console)
  console.print(
    f"{workdir / result['checkpoint']}  weights {result['hash'][:12]}",
    highlight=False,
    soft_wrap=True,
  )
  return result


def _inputs(
  tuning: TrainConfig,
  dependencies: Mapping[str, Any],
  workdir: pathlib.Path,
  console: Console,
) -> train.Inputs:
  """Made once in the workdir; those of a `run` serve as well."""
  make = lambda directory: train.make_inputs(tuning, directory, console)
  steps = [Step(name, dependencies, make) for name in ("tokenizer", "inputs")]
  step = next((s for s in steps if cache.is_done(s, workdir)), steps[-1])
  cache.perform(step, workdir)
  return train.Inputs(workdir / step.name)


def batches(
  tuning: TrainConfig,
  workdir: pathlib.Path | None,
  first: int,
  last: int,
  console: Console,
) -> Iterator[dict[str, Any]]:
  """The verb `prepare --show`: task, rows and texts of each batch."""
  train.check(tuning)
  with contextlib.ExitStack() as stack:
    if workdir is None:
      place = pathlib.Path(stack.enter_context(tempfile.TemporaryDirectory()))
      # The table decides no batch, and nothing would keep it.
      tuning = dataclasses.replace(tuning, init="random")
    else:
      stack.enter_context(cache.locked(workdir))
      place = workdir
    made = _inputs(tuning, train.inputs_of(tuning), place, console)
    tokenizer = made.tokenizer()
    tasks, weights, _ = train.read_tasks(tuning, made)
    drawn = mixture.draws(
      {task: tasks[task] for task in weights},
      weights,
      tuning.batch_size,
      tuning.seed,
    )
    for step in range(first, last):
      task, rows = cast(mixture.Draw, drawn[step])
      origin, query, positive = (
        tasks[task].origin,
        tasks[task].query,
        tasks[task].positive,
      )
      yield {
        "step": step,
        "task": task,
        "rows": rows.tolist(),
        "texts": [
          (
            str(pathlib.Path(origin[i]).relative_to(made.corpus)),
            tokenizer.decode(query[i]),
            tokenizer.decode(positive[i]),
          )
          for i in rows[:3]
        ],
      }


def evaluate_alone(
  model_path: str, data: str | None, output: pathlib.Path, console: Console
) -> dict[str, Any]:
  """The verb `evaluate`: on the given folder, or on the model's own test."""
  model = load(model_path)
  folder = pathlib.Path(data) if data else _own_test(pathlib.Path(model_path))
  tasks = suite.read_suite(folder)
  table = quality(model, None, tasks, console, "evaluate")
  result = {
    "model": model.hash,
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
    texts, prompt, dim, titles=titles, show_progress_bar=console.is_terminal
  )
  output.parent.mkdir(parents=True, exist_ok=True)
  partial = output.with_name(f"{output.name}.partial")
  with partial.open("wb") as file:
    np.save(file, vectors)
  partial.replace(output)
  console.print(
    f"{output}: {vectors.shape[0]} x {vectors.shape[1]}", highlight=False
  )


def read_texts(source: str) -> tuple[list[str], list[str]]:
  """Texts and titles of a .jsonl, or a text a line of a .txt or stdin (-)."""
  read = _read_rows if source.endswith(".jsonl") else _read_lines
  try:
    rows = list(read(pathlib.Path("/dev/stdin" if source == "-" else source)))
  except OSError as error:
    raise BadInput(f"cannot read {source}: {error.strerror}") from None
  if not rows:
    raise BadInput(f"{source}: holds no text")
  return [text for text, _ in rows], [title for _, title in rows]


def _read_rows(path: pathlib.Path) -> Iterator[tuple[str, str]]:
  for _, row in jsonl.read_rows(path, ("text",), ("title",)):
    yield row["text"], row["title"]


def _read_lines(path: pathlib.Path) -> Iterator[tuple[str, str]]:
  for origin, line in jsonl.read_lines(path):
    try:
      yield jsonl.checked("text", line.decode("utf-8")), ""
    except UnicodeDecodeError as error:
      raise BadInput(f"{origin}: not UTF-8 (byte {error.start + 1})") from None
    except ValueError as error:
      raise BadInput(f"{origin}: {error}") from None


def query(
  model_path: str, directory: pathlib.Path, text: str, mode: index.Mode, k: int
) -> list[index.Hit]:
  """The verb `query`: the best chunks of an index."""
  opened = index.open_index(directory)
  model = None if mode == "lexical" else load(model_path)
  digest = model.hash if model else opened.about["model"]
  return index.search(opened, model, text, model=digest, mode=mode, k=k)


def gflops() -> float:
  """This machine's speed at a float32 matrix product, in 0.2 s."""
  a = np.ones((1024, 1024), np.float32)
  a @ a
  began = time.perf_counter()
  for _ in range(4):
    a @ a
  return 4 * 2 * 1.024**3 / (time.perf_counter() - began)


def _print_plan(
  recipe: RecipeConfig,
  workdir: pathlib.Path,
  steps: Sequence[Callable[[list[Done]], Step]],
  console: Console,
) -> None:
  """A line a stage: done before, or an estimate scaled to this machine.

  A stage without a measured figure (a larger preset) has no estimate.
  """
  slower = recipe.gflops / gflops()
  done: list[Done] = []
  estimates: list[float | None] = []
  console.print(f"workdir {workdir}", highlight=False, soft_wrap=True)
  for number, name in enumerate(STAGES):
    # What a stage depends on is known once those before it are done.
    if len(done) == number and cache.is_done(steps[number](done), workdir):
      done.append(cache.perform(steps[number](done), workdir))
      console.print(f"  {name:<12} done before", highlight=False)
      continue
    before = cache.read_json(workdir / name / cache.STAGE_FILE).get("seconds")
    measured = recipe.seconds.get(name)
    scaled = None if measured is None else measured * slower
    estimates.append(scaled if before is None else before)
    known = "" if before is None else ", as last time"
    _print_estimate(console, name, estimates[-1], known)
  summed = [estimate for estimate in estimates if estimate is not None]
  whole = sum(summed) if len(summed) == len(estimates) else None
  _print_estimate(console, "in all", whole, "")


def _print_estimate(
  console: Console, name: str, seconds: float | None, note: str
) -> None:
  text = "no estimate" if seconds is None else f"about {seconds:4.0f} s"
  console.print(f"  {name:<12} {text}{note}", highlight=False)


def _summary(
  recipe: RecipeConfig,
  workdir: pathlib.Path,
  done: Sequence[Done],
  seconds: float,
) -> dict[str, Any]:
  rows = []
  for item in done:
    row = dataclasses.asdict(item)
    if item.checkpoint:
      place = workdir.resolve() / item.name / item.checkpoint
      row["checkpoint"] = str(place)
    rows.append(row)
  final = next(row for row in reversed(rows) if row["checkpoint"])
  quality = cache.read_json(workdir / "evaluate" / "quality.json")
  return {
    "stages": rows,
    "final": {k: final[k] for k in ("checkpoint", "hash")}
    | {"metrics": rows[2]["metrics"]},
    "seconds": round(seconds, 2),
    "quality": quality,
    "data_hash": rows[0]["metrics"]["data_hash"],
    "command": query_command(workdir),
    "versions": train.versions(),
  }


def query_command(workdir: pathlib.Path) -> str:
  """What to type next, by a name that works in this shell."""
  program = pathlib.Path(sys.argv[0])
  if shutil.which("embeddinggemma") or program.name != "embeddinggemma":
    program = pathlib.Path("embeddinggemma")
  elif program.is_relative_to(pathlib.Path.cwd()):
    program = program.relative_to(pathlib.Path.cwd())
  return shlex.join(
    [
      str(program),
      "query",
      f"--model={workdir}",
      f"--index={workdir / 'index'}",
      "how do I parse a date",
    ]
  )


def _print_end(
  summary: Mapping[str, Any], workdir: pathlib.Path, console: Console
) -> None:
  curves = hooks.read_metrics(workdir / "prefinetune" / hooks.METRICS)
  quality = summary["quality"].get("test", {})
  shown = {**summary, "quality": quality, "curves": curves}
  report.write_report(workdir / "report.html", shown)
  console.rule("result", align="left")
  console.print(report.terminal_table(shown))
  console.print(
    f"report  {workdir / 'report.html'}", highlight=False, soft_wrap=True
  )
  console.print(
    f"ask it  {summary['command']}",
    highlight=False,
    soft_wrap=True,
    markup=False,
  )
