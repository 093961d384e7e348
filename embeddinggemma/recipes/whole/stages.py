"""The stages of a recipe: each says what it depends on, and does its work.

A stage is a function of the run and of those before it, which it depends on;
STAGES is their order.
"""

import dataclasses
import pathlib
import sysconfig
from collections.abc import Callable, Mapping
from typing import Any

from embeddinggemma import cache, checkpoint
from embeddinggemma.cache import AllDone, Step
from embeddinggemma.data import corpus
from embeddinggemma.evaluate import suite
from embeddinggemma.mining import mine, teach
from embeddinggemma.recipes import index, shipping
from embeddinggemma.recipes.whole import (
  ablation,
  finetuning,
  initialise,
  qat,
  scoring,
)
from embeddinggemma.recipes.whole.config import Run
from embeddinggemma.training import inputs, workdir
from embeddinggemma.training import run as train
from embeddinggemma.training.config import TrainConfig


def steps(run: Run) -> dict[str, Callable[[AllDone], Step]]:
  """Each stage as a function of those before it. Bad paths end it here."""
  _ = run.outside
  left_out = set() if run.recipe.ablation.seeds else {"ablation"}
  left_out |= set() if run.recipe.qat.specs else {"qat"}
  return cache.bound(STAGES, run, left_out)


def _tokenizer(run: Run, done: AllDone) -> Step:
  """The corpus too, and the LSA table."""
  del done
  work = lambda d: inputs.make(run.recipe.prefinetune, d, run.console)
  return Step("tokenizer", run.outside["pairs"], work)


def _text(run: Run, done: AllDone) -> Step:
  return Step(
    "text",
    {"text": run.outside["text"], "tokenizer": done["tokenizer"].key},
    lambda d: inputs.write_text(run.recipe.adapt, run.made, d, run.console),
  )


def _trained(
  run: Run, name: str, config: TrainConfig, done: AllDone, parent: str
) -> Step:
  return Step(
    name,
    {
      "config": workdir.relevant(config),
      "inputs": [done["tokenizer"].key, done["text"].key],
      "parent": parent,
    },
    lambda d: train.train(config, run.made, d, run.console),
    resumable=True,
  )


def _pretrain(run: Run, done: AllDone) -> Step:
  start = run.outside["start"]
  return _trained(run, "pretrain", run.recipe.pretrain, done, start)


def _adapt(run: Run, done: AllDone) -> Step:
  return _trained(run, "adapt", run.adapt(), done, done["pretrain"].hash)


def _teach(run: Run, done: AllDone) -> Step:
  model, dtype = run.teacher, run.recipe.teach.dtype

  def work(directory: pathlib.Path) -> dict[str, Any]:
    if model is None:
      return {"of_vectors": ""}
    pairs = corpus.read_train(run.made.corpus)
    return teach.teach(pairs, model, dtype, directory, run.console)

  return Step(
    "teach",
    {
      "teacher": run.outside["teacher"],
      "dtype": dtype,
      "inputs": done["tokenizer"].key,
    },
    work,
    resumable=True,
  )


def _taught(done: AllDone) -> str:
  """The content hash of the teacher's vectors."""
  return done["teach"].metrics["of_vectors"]


def _initialise(run: Run, done: AllDone) -> Step:
  recipe = run.recipe
  return Step(
    "initialise",
    {
      "config": workdir.relevant(recipe.prefinetune),
      "choice": dataclasses.asdict(recipe.initialise),
      "inputs": [done["tokenizer"].key, _taught(done)],
      "parents": [done["pretrain"].hash, done["adapt"].hash],
    },
    lambda d: initialise.compare(
      run.first, recipe.initialise, run.parents, run.made, d, run.console
    ),
    resumable=True,
  )


def _prefinetune(run: Run, done: AllDone) -> Step:
  """Goes on from the chosen candidate's first steps, if they are of its seed."""
  chosen = done["initialise"].metrics["chosen"]
  parent = {"decoder-only": "pretrain", "encoder-decoder": "adapt"}
  hash = done[parent[chosen]].hash if chosen in parent else ""
  config = run.prefinetune(chosen)
  step = _trained(run, "prefinetune", config, done, hash)

  def work(directory: pathlib.Path) -> dict[str, Any]:
    candidates = run.workdir / "initialise"
    candidate = initialise.trial(candidates, chosen, config.seed)
    workdir.go_on(candidate, directory)
    return step.work(directory)

  depends = {**step.inputs, "teacher": _taught(done)}
  return dataclasses.replace(step, inputs=depends, work=work)


def _mine(run: Run, done: AllDone) -> Step:
  return mine.mining(
    lambda: run.made.corpus,
    done["tokenizer"].key,
    run.workdir / "prefinetune",
    done["prefinetune"].hash,
    run.recipe.mine,
    run.console,
  )


def _of_finetuning(run: Run, done: AllDone) -> dict[str, Any]:
  """What a finetuning depends on besides its mixture."""
  return {
    "config": workdir.relevant(run.recipe.finetune),
    "base": done["prefinetune"].hash,
    "data": done["tokenizer"].key,
    "teacher": _taught(done),
    "mined": done["mine"].metrics["hash_of_negatives"],
  }


def _mixture(run: Run, done: AllDone) -> Step:
  choice, key = run.recipe.mixture, _of_finetuning(run, done)

  def work(directory: pathlib.Path) -> dict[str, Any]:
    picked = finetuning.search(
      run.finetune(), choice, run.mined, key, directory, run.console
    )
    return {"picked": picked}

  depends = {**key, "choice": dataclasses.asdict(choice)}
  return Step("mixture", depends, work, resumable=True)


def _picked(done: AllDone) -> list[dict[str, Any]]:
  return done["mixture"].metrics["picked"]


def _finetune(run: Run, done: AllDone) -> Step:
  return Step(
    "finetune",
    {
      **_of_finetuning(run, done),
      "mixtures": [item["weights"] for item in _picked(done)],
    },
    lambda d: finetuning.finetune(
      run.finetune(),
      _picked(done),
      run.mined,
      run.workdir / "mixture",
      d,
      run.console,
    ),
    resumable=True,
  )


def _ingredients(run: Run, done: AllDone) -> dict[str, pathlib.Path]:
  """The finetunings, by name."""
  return {
    f"finetune {number}": run.workdir / "finetune" / str(number)
    for number in range(1, 1 + len(_picked(done)))
  }


def _soup(run: Run, done: AllDone) -> Step:
  return Step(
    "soup",
    {
      "ingredients": done["finetune"].metrics["ingredients"],
      **checkpoint.AS_WRITTEN,
    },
    lambda d: finetuning.soup([*_ingredients(run, done).values()], d),
  )


def _qat(run: Run, done: AllDone) -> Step:
  return Step(
    "qat",
    {
      "config": workdir.relevant(run.recipe.qat),
      "base": done["soup"].hash,
      "data": done["tokenizer"].key,
      "mined": done["mine"].metrics["hash_of_negatives"],
    },
    lambda d: qat.train_each(run.qat(), run.mined, d, run.console),
    resumable=True,
  )


def _of_models(done: AllDone) -> dict[str, str]:
  """The hash of each model that was trained for a precision."""
  models = done["qat"].metrics["models"] if "qat" in done else {}
  return {spec: row["hash"] for spec, row in models.items()}


def _evaluate(run: Run, done: AllDone) -> Step:
  return Step(
    "evaluate",
    {
      "weights": done["soup"].hash,
      "trained": [done["prefinetune"].hash, done["finetune"].key],
      "quantised": _of_models(done),
    },
    lambda d: scoring.score(
      run,
      done["initialise"].metrics["chosen"],
      _ingredients(run, done),
      d,
    ),
  )


def _export(run: Run, done: AllDone) -> Step:
  config = run.recipe.export
  trained = {f"qat-{spec}": place for spec, place in run.quantised.items()}
  models = {"soup": run.workdir / "soup", **trained}
  formats = dict.fromkeys(trained, config.quantised) | {"soup": config.formats}
  return Step(
    "export",
    {
      "weights": done["soup"].hash,
      "quantised": _of_models(done),
      "config": dataclasses.asdict(config),
      "runtimes": config.runtimes,
      **checkpoint.AS_WRITTEN,  # certificates have texts of it
    },
    lambda d: {"exports": shipping.export_all(models, formats, d, run.console)},
  )


def _index(run: Run, done: AllDone) -> Step:
  return Step(
    "index",
    {
      "format": index.FORMAT,
      "weights": done["soup"].hash,
      "trained": done["soup"].key,
      "config": dataclasses.asdict(run.recipe.index),
      "input": run.outside["searched"],
    },
    lambda d: _build_index(run, d),
    resumable=True,
  )


def _ablation(run: Run, done: AllDone) -> Step:
  chosen = done["initialise"].metrics["chosen"]
  config = run.recipe.ablation

  def work(directory: pathlib.Path) -> dict[str, Any]:
    stages = ablation.Stages(
      run.prefinetune(chosen),
      run.finetune(),
      [item["weights"] for item in _picked(done)],
      run.mined,
      run.workdir,
    )
    tasks = {"test": suite.held_out(run.made.corpus, "test")}
    if config.suite:
      tasks[pathlib.Path(config.suite).name] = suite.read_suite(
        pathlib.Path(config.suite)
      )
    return ablation.ablate(stages, config.seeds, tasks, directory, run.console)

  return Step(
    "ablation",
    {
      "seeds": config.seeds,
      "suite": run.outside["suite"],
      "prefinetune": done["prefinetune"].key,
      "finetune": done["finetune"].key,
    },
    work,
    resumable=True,
  )


STAGES: Mapping[str, Callable[[Run, AllDone], Step]] = {
  "tokenizer": _tokenizer,
  "text": _text,
  "pretrain": _pretrain,
  "adapt": _adapt,
  "teach": _teach,
  "initialise": _initialise,
  "prefinetune": _prefinetune,
  "mine": _mine,
  "mixture": _mixture,
  "finetune": _finetune,
  "soup": _soup,
  "qat": _qat,
  "evaluate": _evaluate,
  "export": _export,
  "index": _index,
  "ablation": _ablation,
}


def _build_index(run: Run, directory: pathlib.Path) -> dict[str, Any]:
  """Indexes the configured input with the final model."""
  model, dim = run.workdir / "soup", run.recipe.index.dim
  return index.build(model, _index_source(run), dim, directory, run.console)


def _index_source(run: Run) -> index.Source:
  recipe = run.recipe
  if recipe.index.input:
    return index.Source(pathlib.Path(recipe.index.input))
  if recipe.prefinetune.data.path:
    return index.documents(run.made.corpus, run.workdir)
  # The public top-level modules: enough to ask about, in half a minute.
  library = pathlib.Path(sysconfig.get_path("stdlib"))
  public = lambda p: p.is_file() and not p.name.startswith("_")
  hidden = tuple(p for p in library.iterdir() if not public(p))
  return index.Source(library, hidden)
