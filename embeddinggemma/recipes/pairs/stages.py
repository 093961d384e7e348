"""The stages of finetuning on own pairs: what each depends on, and does."""

import dataclasses
import functools
import importlib.metadata
import pathlib
import platform
from collections.abc import Callable, Mapping
from typing import Any

import jax
from rich.console import Console

from embeddinggemma import cache, checkpoint
from embeddinggemma.cache import AllDone, Step
from embeddinggemma.data import stdlib
from embeddinggemma.load import load
from embeddinggemma.mining import mine
from embeddinggemma.recipes import index, shared
from embeddinggemma.recipes.pairs import (
  choice,
  cost,
  forecast,
  memory,
  scores,
  smaller,
)
from embeddinggemma.recipes.pairs.config import PairsConfig
from embeddinggemma.training import inputs
from embeddinggemma.training import run as train
from embeddinggemma.training import workdir as record
from embeddinggemma.training.inputs import Inputs

SCORES_FILE = "scores.json"


@dataclasses.dataclass(frozen=True)
class Run:
  """The recipe in its workdir."""

  config: PairsConfig
  workdir: pathlib.Path
  console: Console

  @property
  def made(self) -> Inputs:
    """What training reads: made by the stages `inputs` and `mine`."""
    made = inputs.of(self.config.finetune, self.workdir / "inputs")
    mined = self.workdir / "mine" if self.config.mine.enabled else None
    return dataclasses.replace(made, mined=mined)

  @property
  def suites(self) -> scores.Suites:
    """What models are scored on."""
    given = self.config.general.suite
    general = pathlib.Path(given) if given else self.workdir / "general"
    return scores.read(self.made.corpus, general)

  @property
  def source(self) -> index.Source:
    """What is indexed."""
    given = self.config.index.input
    if given:
      return index.Source(pathlib.Path(given))
    return index.documents(self.made.corpus, self.workdir)

  @functools.cached_property
  def outside(self) -> dict[str, Any]:
    """What the stages depend on that none of them makes; fails on bad paths."""
    given = self.config.general.suite
    return {
      "inputs": inputs.dependencies(self.config.finetune),
      "suite": shared.fingerprint("general.suite", given),
      "searched": shared.fingerprint("index.input", self.config.index.input),
    }


def steps(run: Run) -> dict[str, Callable[[AllDone], Step]]:
  """Each stage as a function of those before it. Bad paths end it here."""
  _ = run.outside
  left_out = set() if run.config.mine.enabled else {"mine"}
  if run.config.general.suite:
    left_out.add("general")
  return cache.bound(STAGES, run, left_out)


def _inputs(run: Run, done: AllDone) -> Step:
  """The split, with the base's tokenizer."""
  del done
  work = lambda d: inputs.make(run.config.finetune, d, run.console)
  return Step("inputs", run.outside["inputs"], work)


def _general(run: Run, done: AllDone) -> Step:
  del done
  queries = run.config.general.queries
  depends = {
    "queries": queries,
    "format": 2,  # of what is written; 1 had labels and clusters
    "python": platform.python_version(),
    "version": importlib.metadata.version("embeddinggemma"),
  }
  return Step("general", depends, lambda d: stdlib.write_test(d, queries))


def _suites(run: Run, done: AllDone) -> dict[str, Any]:
  """What scores depend on besides the weights."""
  own = done["general"].key if "general" in done else run.outside["suite"]
  return {"data": done["inputs"].key, "general": own}


def _before(run: Run, done: AllDone) -> Step:
  config = run.config

  def work(directory: pathlib.Path) -> dict[str, Any]:
    model, names = load(config.base), list(run.suites)
    found = scores.score_of(model, run.suites, names, "base", run.console)
    cache.write_json(directory / SCORES_FILE, found)
    return dict(scores.means(found))

  depends = {"base": config.base_hash, **_suites(run, done)}
  return Step("before", depends, work)


def _mine(run: Run, done: AllDone) -> Step:
  config = run.config
  return mine.mining(
    lambda: run.made.corpus,
    done["inputs"].key,
    config.base,
    config.base_hash,
    config.mine,
    run.console,
  )


def _of_training(run: Run, done: AllDone) -> dict[str, Any]:
  mined = done["mine"].metrics["hash_of_negatives"] if "mine" in done else ""
  return {
    "config": record.relevant(run.config.finetune),
    "base": run.config.base_hash,
    "data": done["inputs"].key,
    "mined": mined,
  }


def _forecast(run: Run, done: AllDone) -> Step:
  config = run.config

  def work(directory: pathlib.Path) -> dict[str, Any]:
    limit = memory.room()
    if config.memory is not None:
      limit = min(limit, int(config.memory * memory.GB))
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
    run.console.print(forecast.said(result), highlight=False, soft_wrap=True)
    return result

  return Step(
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


def _costs(run: Run) -> dict[str, Any]:
  """What reading the base, scoring and indexing take."""
  base, loading = forecast.warm(lambda: load(run.config.base))
  pace = cost.seconds_a_token(base, run.suites)
  return {
    "loading": loading,
    "pace": pace,
    "suites": scores.costs(base, run.suites),
    "indexing": loading + cost.searching(base, pace, run.source),
  }


def _finetune(run: Run, done: AllDone) -> Step:
  work = lambda d: train.train(run.config.finetune, run.made, d, run.console)
  return Step("finetune", _of_training(run, done), work, resumable=True)


def _choose(run: Run, done: AllDone) -> Step:
  """What is handed over, and its scores on all suites."""
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
    found = walk.after(chosen, before, place)
    cache.write_json(directory / SCORES_FILE, found)
    run.console.print(
      f"choose: {chosen.name}: {reason}", highlight=False, soft_wrap=True
    )
    rows = [
      {"name": p.name, "share": p.share, "step": p.step, **p.means}
      for p in points
    ]
    return {
      "place": str(place.relative_to(run.workdir)),
      "hash": inputs.hash_of(place),
      "chosen": chosen.name,
      "reason": reason,
      "points": rows,
      **scores.means(found),
    }

  depends = {
    "base": config.base_hash,
    "result": done["finetune"].hash,
    "steps": checkpoint.steps(run.workdir / "finetune"),
    "points": config.points,
    "loss": config.general.loss,
    "before": done["before"].key,
  }
  return Step("choose", depends, work, resumable=True)


def _index(run: Run, done: AllDone) -> Step:
  config = run.config.index
  model = run.workdir / done["choose"].metrics["place"]
  return Step(
    "index",
    {
      "format": index.FORMAT,
      "weights": done["choose"].hash,
      "data": done["inputs"].key,
      "config": dataclasses.asdict(config),
      "input": run.outside["searched"],
    },
    lambda d: index.build(model, run.source, config.dim, d, run.console),
    resumable=True,
  )


STAGES: Mapping[str, Callable[[Run, AllDone], Step]] = {
  "inputs": _inputs,
  "general": _general,
  "mine": _mine,
  "forecast": _forecast,
  "before": _before,
  "finetune": _finetune,
  "choose": _choose,
  "index": _index,
}
