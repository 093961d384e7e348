"""The recipe: raw text to a model that answers questions, each stage cached.

`run` does what changed and continues what was killed; it ends with
summary.json, report.html and the command that asks the model something.
"""

import dataclasses
import functools
import pathlib
import shlex
import shutil
import sys
import sysconfig
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
from rich.console import Console

from embeddinggemma import cache, finetuning, initialise, inputs, train, verbs
from embeddinggemma.cache import Done, Step
from embeddinggemma.data import corpus, jsonl
from embeddinggemma.evaluate import report, suite
from embeddinggemma.load import assemble, load
from embeddinggemma.recipe import RecipeConfig, Run, check, uses_teacher
from embeddinggemma.stages import TrainConfig
from embeddinggemma.training import hooks
from embeddinggemma.types import BadInput

DOCUMENTS = "documents.jsonl"  # of the user's pairs, that the recipe indexes
TRAINED = ("pretrain", "adapt", "prefinetune")


def run(
  recipe: RecipeConfig, workdir: pathlib.Path, console: Console
) -> dict[str, Any]:
  """Runs or continues the recipe; returns what summary.json holds."""
  began = time.perf_counter()
  check(recipe)
  inputs.check_place(recipe.adapt, workdir)
  steps = _steps(Run(recipe, workdir, console))
  with cache.locked(workdir):
    done: dict[str, Done] = {}
    _print_plan(recipe, workdir, steps, console)
    for name, make in steps.items():
      step = make(done)
      cached = cache.is_done(step, workdir)
      console.rule(name, align="left")
      done[name] = cache.perform(step, workdir)
      note = (
        "done before, nothing changed"
        if cached
        else f"{done[name].seconds:.0f} s"
      )
      console.print(f"{name}: {note}", highlight=False)
    summary = _summary(workdir, done, time.perf_counter() - began)
    cache.write_json(workdir / "summary.json", summary)
  _print_end(summary, workdir, console)
  return summary


def _steps(run: Run) -> dict[str, Callable[[Mapping[str, Done]], Step]]:
  """Each stage as a function of those before it, which it depends on.

  Bad paths end it here.
  """
  recipe, console = run.recipe, run.console
  taught = lambda done: done["teach"].metrics.get("of_vectors", "")
  pairs = inputs.dependencies(recipe.prefinetune)
  text = inputs.dependencies(recipe.adapt)
  start = inputs.parent(recipe.pretrain.init_from)
  searched = _fingerprint(recipe.index.input)
  dense = recipe.mine.search == "dense"

  def trained(
    name: str, config: TrainConfig, done: Mapping[str, Done], parent: str = ""
  ) -> Step:
    return Step(
      name,
      {
        "config": train.relevant(config),
        "inputs": [done["tokenizer"].key, done["text"].key],
        "parent": parent,
      },
      lambda d: train.train(config, run.made, d, console),
      resumable=True,
    )

  def teach(done: Mapping[str, Done]) -> Step:
    used = uses_teacher(recipe)
    pairs = lambda: corpus.read_train(run.made.corpus)
    return Step(
      "teach",
      {
        "config": dataclasses.asdict(recipe.teach) if used else {},
        "teacher": finetuning.key_of_teacher(recipe.teach) if used else "",
        "inputs": done["tokenizer"].key,
      },
      lambda d: (
        finetuning.teach(pairs(), recipe.teach, d, console)
        if used
        else {"texts": 0}
      ),
      resumable=True,
    )

  def prefinetune(done: Mapping[str, Done]) -> Step:
    chosen = done["initialise"].metrics["chosen"]
    parent = {"decoder-only": "pretrain", "encoder-decoder": "adapt"}
    hash = done[parent[chosen]].hash if chosen in parent else ""
    step = trained("prefinetune", run.prefinetune(chosen), done, hash)
    return dataclasses.replace(
      step,
      inputs={**step.inputs, "teacher": taught(done)},
      work=lambda d: _prefinetune(run, chosen, d),
    )

  def finetune_inputs(done: Mapping[str, Done]) -> dict[str, Any]:
    return {
      "config": train.relevant(recipe.finetune),
      "base": done["prefinetune"].hash,
      "data": done["tokenizer"].key,
      "teacher": taught(done),
      "mined": done["mine"].metrics["hash_of_negatives"],
    }

  return {
    "tokenizer": lambda _: Step(  # and the corpus
      "tokenizer",
      pairs,
      lambda d: inputs.make(recipe.prefinetune, d, console),
    ),
    "text": lambda done: Step(
      "text",
      {"text": text, "tokenizer": done["tokenizer"].key},
      lambda d: inputs.write_text(recipe.adapt, run.made, d, console),
    ),
    "pretrain": lambda done: trained("pretrain", recipe.pretrain, done, start),
    "adapt": lambda done: trained(
      "adapt", run.adapt(), done, done["pretrain"].hash
    ),
    "teach": teach,
    "initialise": lambda done: Step(
      "initialise",
      {
        "config": train.relevant(recipe.prefinetune),
        "choice": dataclasses.asdict(recipe.initialise),
        "inputs": [done["tokenizer"].key, taught(done)],
        "parents": [done["pretrain"].hash, done["adapt"].hash],
      },
      lambda d: initialise.compare(
        run.first, recipe.initialise, run.parents, run.made, d, console
      ),
      resumable=True,
    ),
    "prefinetune": prefinetune,
    "mine": lambda done: Step(
      "mine",
      {
        "config": dataclasses.asdict(recipe.mine),
        "inputs": done["tokenizer"].key,
        "model": done["prefinetune"].hash if dense else "",
      },
      lambda d: finetuning.mine(
        corpus.read_train(run.made.corpus),
        load(run.workdir / "prefinetune") if dense else None,
        recipe.mine,
        d,
        console,
      ),
      resumable=True,
    ),
    "mixture": lambda done: Step(
      "mixture",
      {
        **finetune_inputs(done),
        "choice": dataclasses.asdict(recipe.mixture),
      },
      lambda d: {
        "picked": finetuning.search(
          run.finetune(),
          recipe.mixture,
          run.mined,
          finetune_inputs(done),
          d,
          console,
        )
      },
      resumable=True,
    ),
    "finetune": lambda done: Step(
      "finetune",
      {**finetune_inputs(done), "mixtures": _mixtures(done)},
      lambda d: finetuning.finetune(
        run.finetune(),
        done["mixture"].metrics["picked"],
        run.mined,
        run.workdir / "mixture",
        d,
        console,
      ),
      resumable=True,
    ),
    "soup": lambda done: Step(
      "soup",
      {"ingredients": done["finetune"].metrics["ingredients"]},
      lambda d: finetuning.soup(
        [
          run.workdir / "finetune" / str(number)
          for number in range(1, 1 + len(_mixtures(done)))
        ],
        d,
      ),
    ),
    "evaluate": lambda done: Step(
      "evaluate",
      {
        "weights": done["soup"].hash,
        "trained": [done["prefinetune"].hash, done["finetune"].key],
      },
      lambda d: _evaluate(run, done, d),
    ),
    "index": lambda done: Step(
      "index",
      {
        "weights": done["soup"].hash,
        "trained": done["soup"].key,
        "config": dataclasses.asdict(recipe.index),
        "input": searched,
      },
      lambda d: _index(run, d),
    ),
  }


def _prefinetune(
  run: Run, chosen: str, directory: pathlib.Path
) -> dict[str, Any]:
  """Goes on from the chosen candidate's first steps, if they are of its seed."""
  config = run.prefinetune(chosen)
  candidate = initialise.trial(run.workdir / "initialise", chosen, config.seed)
  initialise.go_on(candidate, directory)
  return train.train(config, run.made, directory, run.console)


def _mixtures(done: Mapping[str, Done]) -> list[dict[str, float]]:
  return [item["weights"] for item in done["mixture"].metrics["picked"]]


def _evaluate(
  run: Run, done: Mapping[str, Done], directory: pathlib.Path
) -> dict[str, Any]:
  """Scores the model on validation and test, beside what it must beat."""
  chosen = done["initialise"].metrics["chosen"]
  tuned = load(run.workdir / "soup")
  fresh = assemble(
    tuned.config,
    train.start(run.prefinetune(chosen), run.made)[0],
    run.made.tokenizer(),
    verbs.UNTRAINED,
    dict(tuned.prompts),
  )
  result = {}
  for side in initialise.SIDES:
    folder = run.made.corpus / side
    if not any(folder.iterdir()):
      run.console.print(
        f"{side}: too few pairs to hold any out", highlight=False
      )
      continue
    tasks = suite.read_suite(folder)
    result[side] = verbs.quality(tuned, fresh, tasks, run.console, side)
  cache.write_json(directory / "quality.json", result)
  places = {"prefinetune": run.workdir / "prefinetune"}
  for number in range(1, 1 + len(_mixtures(done))):
    name = f"finetune {number}"
    places[name] = run.workdir / "finetune" / str(number)
  places["soup"] = run.workdir / "soup"
  models = {n: functools.partial(load, p) for n, p in places.items()}
  compared = finetuning.compare(models, run.made.corpus)
  cache.write_json(directory / "souped.json", compared)
  best = result.get("test", {}).get(verbs.MODEL, {})
  return {"test": {name: _first(dims) for name, dims in best.items()}}


def _first(dims: Mapping[str, Mapping[str, float]]) -> dict[str, float]:
  return dict(next(iter(dims.values())))


def _index(run: Run, directory: pathlib.Path) -> dict[str, Any]:
  """Indexes the configured input with the final model."""
  model = load(run.workdir / "soup")
  source, excluded = _index_source(run)
  about = verbs.build_index(
    model,
    source,
    directory / "index",
    run.recipe.index.dim,
    run.console,
    excluded,
  )
  for path in (directory / "index").iterdir():
    path.rename(directory / path.name)
  (directory / "index").rmdir()
  return {"chunks": about["chunks"], "source": about["source"]}


def _index_source(run: Run) -> tuple[pathlib.Path, Sequence[pathlib.Path]]:
  recipe = run.recipe
  if recipe.index.input:
    return pathlib.Path(recipe.index.input), ()
  if not recipe.prefinetune.data.path:
    # The public top-level modules: enough to ask about, in half a minute.
    library = pathlib.Path(sysconfig.get_path("stdlib"))
    public = lambda p: p.is_file() and not p.name.startswith("_")
    return library, [p for p in library.iterdir() if not public(p)]
  rows = {
    (pair.title, pair.positive) for pair in corpus.read_train(run.made.corpus)
  }
  # In the workdir: answers name this file and a line of it.
  path = run.workdir / DOCUMENTS
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
  steps: Mapping[str, Callable[[Mapping[str, Done]], Step]],
  console: Console,
) -> None:
  """A line a stage: done before, or an estimate scaled to this machine.

  A stage without a measured figure (a larger preset) has no estimate.
  """
  slower = recipe.gflops / gflops()
  done: dict[str, Done] = {}
  estimates: list[float | None] = []
  console.print(f"workdir {workdir}", highlight=False, soft_wrap=True)
  for number, (name, make) in enumerate(steps.items()):
    # What a stage depends on is known once those before it are done.
    if len(done) == number and cache.is_done(make(done), workdir):
      done[name] = cache.perform(make(done), workdir)
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
  workdir: pathlib.Path, done: Mapping[str, Done], seconds: float
) -> dict[str, Any]:
  rows = []
  for item in done.values():
    row = dataclasses.asdict(item)
    if item.checkpoint:
      place = workdir.resolve() / item.name / item.checkpoint
      row["checkpoint"] = str(place)
    rows.append(row)
  final = next(row for row in reversed(rows) if row["checkpoint"])
  compared = workdir / "initialise" / initialise.RESULT_FILE
  quality = cache.read_json(workdir / "evaluate" / "quality.json")
  return {
    "stages": rows,
    "final": {k: final[k] for k in ("checkpoint", "hash")}
    | {"metrics": done["evaluate"].metrics},
    "seconds": round(seconds, 2),
    "quality": quality,
    "initialisation": cache.read_json(compared),
    "mixtures": cache.read_json(workdir / "mixture" / finetuning.TRIALS_FILE)
    | {"picked": done["mixture"].metrics["picked"]},
    "souped": cache.read_json(workdir / "evaluate" / "souped.json"),
    "data_hash": done["tokenizer"].metrics["data_hash"],
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
  finetunes = sorted((workdir / "finetune").glob(f"*/{hooks.METRICS}"))
  places = {name: workdir / name / hooks.METRICS for name in TRAINED}
  places |= {f"finetune {path.parent.name}": path for path in finetunes}
  curves = {name: hooks.read_metrics(path) for name, path in places.items()}
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
