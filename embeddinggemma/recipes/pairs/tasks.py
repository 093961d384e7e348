"""The tasks of finetuning on own pairs: what each depends on and does."""

import dataclasses
import functools
import pathlib
from collections.abc import Callable, Mapping
from typing import Any

import jax
from rich.console import Console

from embeddinggemma import cache, checkpoint
from embeddinggemma.cache import AllDone, Task
from embeddinggemma.loading import load
from embeddinggemma.mining import mine
from embeddinggemma.recipes import index, shared
from embeddinggemma.recipes.own import (
  choice,
  cost,
  forecast,
  general,
  machine,
  scores,
)
from embeddinggemma.recipes.pairs import smaller
from embeddinggemma.recipes.pairs.config import PairsConfig
from embeddinggemma.report import page
from embeddinggemma.training import prepare, stages
from embeddinggemma.training import run as train
from embeddinggemma.training import workdir as workdir_lib
from embeddinggemma.training.inputs import Inputs
from embeddinggemma.training.workdir import SCORES_FILE
from embeddinggemma.types import IDENTITY


@dataclasses.dataclass(frozen=True)
class Run:
  """A run of the recipe in its workdir."""

  config: PairsConfig
  workdir: pathlib.Path
  console: Console

  @property
  def made(self) -> Inputs:
    """What training reads, from folders of the tasks `inputs` and `mine`."""
    made = prepare.inputs_in(self.config.finetune, self.workdir / "inputs")
    mined = self.workdir / "mine" if self.config.mine.enabled else None
    return dataclasses.replace(made, mined=mined)

  @property
  def suites(self) -> scores.Suites:
    """The suites that models are scored on, by name."""
    suite = general.place(self.config.general, self.workdir)
    return scores.read(self.made.corpus, suite)

  @property
  def source(self) -> index.Source:
    """What the final model indexes."""
    given = self.config.index.input
    if given:
      return index.Source(pathlib.Path(given))
    return index.documents(self.made.corpus, self.workdir)

  @functools.cached_property
  def outside(self) -> dict[str, Any]:
    """What tasks depend on that no task makes: files and the data's config.

    Raises BadInput for paths that do not exist.
    """
    given = self.config.general.suite
    return {
      "inputs": prepare.dependencies(self.config.finetune),
      "suite": shared.fingerprint("general.suite", given),
      "searched": shared.fingerprint("index.input", self.config.index.input),
    }


def tasks(run: Run) -> dict[str, Callable[[AllDone], Task]]:
  """Each task as a function of the results before it, in order.

  Raises BadInput for paths that do not exist.
  """
  _ = run.outside
  left_out = set() if run.config.mine.enabled else {"mine"}
  if run.config.general.suite:
    left_out.add("general")
  return cache.bound(TASKS, run, left_out)


def _inputs(run: Run, done: AllDone) -> Task:
  """Split the pairs, and keep them with the base's tokenizer."""
  del done
  work = lambda d: prepare.make(run.config.finetune, d, run.console)
  return Task("inputs", run.outside["inputs"], work)


def _general(run: Run, done: AllDone) -> Task:
  """Write the general suite."""
  del done
  return general.task(run.config.general)


def _suites(run: Run, done: AllDone) -> dict[str, Any]:
  """What scores depend on besides the model's weights."""
  own = done["general"].key if "general" in done else run.outside["suite"]
  return {"data": done["inputs"].key, "general": own}


def _base(run: Run) -> dict[str, Any]:
  """What a task depends on that uses the base."""
  config = run.config
  return {"base": config.base_hash, IDENTITY: config.base_identity}


def _before(run: Run, done: AllDone) -> Task:
  """Score the base."""
  config = run.config

  def work(directory: pathlib.Path) -> dict[str, Any]:
    model, names = load(config.base), list(run.suites)
    found = scores.score_of(model, run.suites, names, "base", run.console)
    cache.write_json(directory / SCORES_FILE, found)
    return dict(scores.means(found))

  depends = {**_base(run), **_suites(run, done)}
  return Task("before", depends, work)


def _mine(run: Run, done: AllDone) -> Task:
  """Mine hard negatives with the base."""
  config = run.config
  return mine.mining(
    lambda: run.made.corpus,
    done["inputs"].key,
    config.base,
    config.base_hash,
    config.mine,
    run.console,
    config.base_identity,
  )


def _of_training(run: Run, done: AllDone) -> dict[str, Any]:
  """What the finetuning depends on."""
  mined = (
    done["mine"].result(mine.Mined).hash_of_negatives if "mine" in done else ""
  )
  return {
    "config": workdir_lib.relevant(run.config.finetune),
    **_base(run),
    "data": done["inputs"].key,
    "mined": mined,
  }


def _forecast(run: Run, done: AllDone) -> Task:
  """Forecast time and memory, or stop with advice on what would fit."""
  config = run.config

  def work(directory: pathlib.Path) -> dict[str, Any]:
    limit = machine.room()
    if config.memory is not None:
      limit = min(limit, int(config.memory * machine.GB))
    stage, say = config.finetune, lambda line: None  # training says it
    stages.kind_of(stage).examine(stage, run.made, say)
    try:
      found = forecast.training(config.finetune, run.made, directory, limit)
    except forecast.Unfit as unfit:
      raise smaller.advice(
        config.finetune, config.lora, run.made, unfit, limit
      ) from None
    costs = forecast.remembered(directory / "scoring.json", lambda: _costs(run))
    scoring = cost.scoring(
      costs["suites"],
      costs["pace"],
      costs["loading"],
      found.save,
      len(choice.planned(config.finetune)),
      len(config.shares),
    )
    result = {
      **found._asdict(),
      "seconds": found.seconds + scoring + costs["indexing"],
      "training": found.seconds,
      "scoring": scoring,
      "indexing": costs["indexing"],
    }
    run.console.print(_said(result), highlight=False, soft_wrap=True)
    return result

  return Task(
    "forecast",
    {
      **_of_training(run, done),
      **_suites(run, done),
      "points": config.points,
      "searched": run.outside["searched"],
      "mesh": dataclasses.asdict(config.finetune.mesh),
      "groups": config.finetune.groups_per_device,
      "devices": [str(jax.devices()[0]), len(jax.devices())],
      "memory": config.memory,
    },
    work,
    resumable=True,
  )


def _said(found: Mapping[str, Any]) -> str:
  """The forecast as one line for people."""
  return (
    f"forecast: {page.duration(found['seconds'])} (training"
    f" {page.duration(found['training'])}, scoring"
    f" {page.duration(found['scoring'])}, index"
    f" {page.duration(found['indexing'])}), memory about {found['memory'] / machine.GB:.1f} GB of"
    f" {found['room'] / machine.GB:.1f} GB"
  )


def _costs(run: Run) -> dict[str, Any]:
  """Seconds to load the base and to index, and what scoring costs."""
  base, loading = forecast.warm(lambda: load(run.config.base))
  pace = cost.seconds_a_token(base, cost.texts_of(run.suites))
  return {
    "loading": loading,
    "pace": pace,
    "suites": scores.costs(base, run.suites),
    "indexing": loading + cost.searching(base, pace, run.source),
  }


def _finetune(run: Run, done: AllDone) -> Task:
  """Train on the pairs."""
  work = lambda d: train.train(run.config.finetune, run.made, d, run.console)
  return Task("finetune", _of_training(run, done), work, resumable=True)


def _choose(run: Run, done: AllDone) -> Task:
  """Choose the model that is handed over, and score it on all suites."""
  config = run.config

  def work(directory: pathlib.Path) -> dict[str, Any]:
    walk = choice.Walk(
      config.finetune,
      config.base,
      run.workdir / "finetune",
      run.suites,
      directory,
      run.console,
    )
    before = cache.read_json(run.workdir / "before" / SCORES_FILE)
    points = walk.points(before, config.shares)
    chosen, reason = choice.best(points, config.general.loss)
    place = walk.place(chosen)
    after = walk.after(chosen, before, place)
    cache.write_json(directory / SCORES_FILE, after)
    run.console.print(
      f"choose: {chosen.name}: {reason}", highlight=False, soft_wrap=True
    )
    rows = [
      {"name": p.name, "share": p.share, "step": p.step, **p.means}
      for p in points
    ]
    found = choice.Choice(
      str(place.relative_to(run.workdir)), chosen.name, reason, rows
    )
    means = scores.means(after)
    return {"hash": checkpoint.hash_of(place), **found._asdict(), **means}

  depends = {
    **_base(run),
    "result": done["finetune"].hash,
    "steps": checkpoint.steps(run.workdir / "finetune"),
    "points": config.points,
    "loss": config.general.loss,
    "before": done["before"].key,
  }
  return Task("choose", depends, work, resumable=True)


def _index(run: Run, done: AllDone) -> Task:
  """Index the source with the chosen model."""
  return index.task(
    run.config.index,
    run.workdir / done["choose"].result(choice.Choice).place,
    done["choose"].hash,
    {"data": done["inputs"].key, "input": run.outside["searched"]},
    lambda: run.source,
    run.console,
  )


TASKS: Mapping[str, Callable[[Run, AllDone], Task]] = {
  "inputs": _inputs,
  "general": _general,
  "mine": _mine,
  "forecast": _forecast,
  "before": _before,
  "finetune": _finetune,
  "choose": _choose,
  "index": _index,
}
