"""The tasks of the whole recipe: what each depends on and does.

A function per task takes the run and the results of earlier tasks; TASKS gives
their order.
"""

import dataclasses
import itertools
import pathlib
import sysconfig
from collections.abc import Callable, Mapping
from typing import Any

from embeddinggemma import cache, checkpoint
from embeddinggemma.cache import AllDone, Task
from embeddinggemma.evaluation import suite
from embeddinggemma.mining import mine, teach
from embeddinggemma.recipes import export, index
from embeddinggemma.recipes.whole import (
  ablation,
  finetuning,
  initialise,
  qat,
  scoring,
)
from embeddinggemma.recipes.whole.config import Run
from embeddinggemma.training import prepare, workdir
from embeddinggemma.training import run as train
from embeddinggemma.training.config import TrainConfig
from embeddinggemma.training.stages import language


def tasks(run: Run) -> dict[str, Callable[[AllDone], Task]]:
  """Each task as a function of the results before it, in order.

  Raises BadInput for paths that do not exist.
  """
  _ = run.outside
  left_out = set() if run.recipe.ablation.seeds else {"ablation"}
  left_out |= set() if run.recipe.qat.specs else {"qat"}
  return cache.bound(TASKS, run, left_out)


def _tokenizer(run: Run, done: AllDone) -> Task:
  """Make the tokenizer, the corpus of pairs and the LSA table."""
  del done
  work = lambda d: prepare.make(run.recipe.prefinetune, d, run.console)
  return Task("tokenizer", run.outside["pairs"], work)


def _text(run: Run, done: AllDone) -> Task:
  """Write the token shards that pretraining and adaptation read."""
  return Task(
    "text",
    {"text": run.outside["text"], "tokenizer": done["tokenizer"].key},
    lambda d: language.write_text(run.recipe.adapt, run.made, d, run.console),
  )


def _trained(
  run: Run, name: str, config: TrainConfig, done: AllDone, parent: str
) -> Task:
  """A task that trains one stage, from weights with the hash `parent`."""
  return Task(
    name,
    {
      "config": workdir.relevant(config),
      "inputs": [done["tokenizer"].key, done["text"].key],
      "parent": parent,
    },
    lambda d: train.train(config, run.made, d, run.console),
    resumable=True,
  )


def _pretrain(run: Run, done: AllDone) -> Task:
  """Pretrain the causal decoder."""
  start = run.outside["start"]
  return _trained(run, "pretrain", run.recipe.pretrain, done, start)


def _adapt(run: Run, done: AllDone) -> Task:
  """Adapt the decoder to an encoder-decoder (section 2.3, arXiv 2504.06225)."""
  return _trained(run, "adapt", run.adapt(), done, done["pretrain"].hash)


def _teach(run: Run, done: AllDone) -> Task:
  """Write the teacher's vectors of the training pairs, if there is one."""
  model, dtype = run.teacher, run.recipe.teach.dtype

  def work(directory: pathlib.Path) -> teach.Taught:
    if model is None:
      return teach.Taught()
    texts = itertools.chain(run.made.pairs, run.made.texts)
    return teach.teach(texts, model, dtype, directory, run.console)

  return Task(
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
  return done["teach"].result(teach.Taught).of_vectors


def _initialise(run: Run, done: AllDone) -> Task:
  """Choose where pre-finetuning starts from."""
  recipe = run.recipe
  return Task(
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


def _prefinetune(run: Run, done: AllDone) -> Task:
  """Pre-finetune on pairs without hard negatives.

  It continues from the chosen candidate's first steps, if their seed is its
  own.
  """
  chosen = done["initialise"].result(initialise.Chosen).chosen
  parent = {"decoder-only": "pretrain", "encoder-decoder": "adapt"}
  weights = done[parent[chosen]].hash if chosen in parent else ""
  config = run.prefinetune(chosen)
  task = _trained(run, "prefinetune", config, done, weights)

  def work(directory: pathlib.Path) -> dict[str, Any]:
    candidates = run.workdir / "initialise"
    candidate = initialise.trial(candidates, chosen, config.seed)
    workdir.go_on(candidate, directory)
    return task.work(directory)

  depends = {**task.inputs, "teacher": _taught(done)}
  return dataclasses.replace(task, inputs=depends, work=work)


def _mine(run: Run, done: AllDone) -> Task:
  """Mine hard negatives with the pre-finetuned model."""
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
    "mined": done["mine"].result(mine.Mined).hash_of_negatives,
  }


def _mixture(run: Run, done: AllDone) -> Task:
  """Search mixtures of tasks."""
  choice, key = run.recipe.mixture, _of_finetuning(run, done)

  def work(directory: pathlib.Path) -> finetuning.Mixtures:
    picked = finetuning.search(
      run.finetune(), choice, run.mined, key, directory, run.console
    )
    return finetuning.Mixtures(picked)

  depends = {**key, "choice": dataclasses.asdict(choice)}
  return Task("mixture", depends, work, resumable=True)


def _picked(done: AllDone) -> list[dict[str, Any]]:
  return done["mixture"].result(finetuning.Mixtures).picked


def _finetune(run: Run, done: AllDone) -> Task:
  """Finetune with each picked mixture."""
  return Task(
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
  """The finetuned models' workdirs, by name."""
  return {
    f"finetune {number}": run.workdir / "finetune" / str(number)
    for number in range(1, 1 + len(_picked(done)))
  }


def _soup(run: Run, done: AllDone) -> Task:
  """Average the finetuned models."""
  return Task(
    "soup",
    {
      "ingredients": done["finetune"].result(finetuning.Finetuned).ingredients,
      **checkpoint.AS_WRITTEN,
    },
    lambda d: finetuning.soup([*_ingredients(run, done).values()], d),
  )


def _qat(run: Run, done: AllDone) -> Task:
  """Train the soup for each precision."""
  return Task(
    "qat",
    {
      "config": workdir.relevant(run.recipe.qat),
      "base": done["soup"].hash,
      "data": done["tokenizer"].key,
      "mined": done["mine"].result(mine.Mined).hash_of_negatives,
    },
    lambda d: qat.train_each(run.qat(), run.mined, d, run.console),
    resumable=True,
  )


def _of_models(done: AllDone) -> dict[str, str]:
  """Spec -> the hash of the model that was trained for it."""
  if "qat" not in done:
    return {}
  models = done["qat"].result(qat.Trained).models
  return {spec: row["hash"] for spec, row in models.items()}


def _evaluate(run: Run, done: AllDone) -> Task:
  """Score every model of the run."""
  return Task(
    "evaluate",
    {
      "weights": done["soup"].hash,
      "trained": [done["prefinetune"].hash, done["finetune"].key],
      "quantised": _of_models(done),
    },
    lambda d: scoring.score(
      run,
      done["initialise"].result(initialise.Chosen).chosen,
      _ingredients(run, done),
      d,
    ),
  )


def _export(run: Run, done: AllDone) -> Task:
  """Export the soup and the models that were trained for a precision."""
  config = run.recipe.export
  trained = {f"qat-{spec}": place for spec, place in run.quantised.items()}
  models = {"soup": run.workdir / "soup", **trained}
  formats = dict.fromkeys(trained, config.quantised) | {"soup": config.formats}
  return Task(
    "export",
    {
      "weights": done["soup"].hash,
      "quantised": _of_models(done),
      "config": dataclasses.asdict(config),
      "runtimes": config.runtimes,
      **checkpoint.AS_WRITTEN,  # golden texts of certificates depend on it
    },
    lambda d: export.export_all(
      models, formats, d, run.console, {"soup": scoring.of_soup(run.workdir)}
    ),
  )


def _index(run: Run, done: AllDone) -> Task:
  """Index the configured input with the soup."""
  return index.task(
    run.recipe.index,
    run.workdir / "soup",
    done["soup"].hash,
    {"trained": done["soup"].key, "input": run.outside["searched"]},
    lambda: _index_source(run),
    run.console,
  )


def _ablation(run: Run, done: AllDone) -> Task:
  """Train and score the recipe again without its parts."""
  chosen = done["initialise"].result(initialise.Chosen).chosen
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

  return Task(
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


TASKS: Mapping[str, Callable[[Run, AllDone], Task]] = {
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


def _index_source(run: Run) -> index.Source:
  """What is indexed: a configured path, the pairs, or the standard library."""
  recipe = run.recipe
  if recipe.index.input:
    return index.Source(pathlib.Path(recipe.index.input))
  if recipe.prefinetune.data.path:
    return index.documents(run.made.corpus, run.workdir)
  # Only public top-level modules, which are indexed in half a minute.
  library = pathlib.Path(sysconfig.get_path("stdlib"))
  public = lambda p: p.is_file() and not p.name.startswith("_")
  hidden = tuple(p for p in library.iterdir() if not public(p))
  return index.Source(library, hidden)
