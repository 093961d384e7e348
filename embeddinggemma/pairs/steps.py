"""The stages of finetuning on own pairs: what each depends on, and does."""

import dataclasses
import functools
import importlib.metadata
import pathlib
import platform
import shutil
from collections.abc import Callable, Mapping
from typing import Any

import jax
from rich.console import Console

from embeddinggemma import (
  cache,
  finetuning,
  indexing,
  inputs,
  recipe,
  record,
  train,
)
from embeddinggemma import soup as soup_lib
from embeddinggemma.cache import AllDone, Step
from embeddinggemma.data import stdlib
from embeddinggemma.inputs import Inputs
from embeddinggemma.load import load
from embeddinggemma.pairs import cost, forecast, memory, scores, smaller
from embeddinggemma.pairs.config import PairsConfig

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
  def source(self) -> indexing.Source:
    """What is indexed."""
    given = self.config.index.input
    if given:
      return indexing.Source(pathlib.Path(given))
    return indexing.documents(self.made.corpus, self.workdir)

  @functools.cached_property
  def outside(self) -> dict[str, Any]:
    """What the stages depend on that none of them makes; fails on bad paths."""
    given = self.config.general.suite
    return {
      "inputs": inputs.dependencies(self.config.finetune),
      "suite": recipe.fingerprint("general.suite", given),
      "searched": recipe.fingerprint("index.input", self.config.index.input),
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
    found, costs = scores.score_and_cost(config.base, run.suites)
    cache.write_json(directory / SCORES_FILE, found)
    rows = {name: of_suite._asdict() for name, of_suite in costs.items()}
    return {**scores.means(found), "costs": rows}

  depends = {"base": config.base_hash, **_suites(run, done)}
  return Step("before", depends, work)


def _mine(run: Run, done: AllDone) -> Step:
  config = run.config
  return finetuning.mining(
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
    base, loading = forecast.warm(lambda: load(config.base))
    scoring = cost.scoring(
      base,
      loading,
      found.save,
      done["before"].metrics["costs"],
      run.suites,
      config.points - 2,
      run.source,
    )
    del base
    result = {
      **found._asdict(),
      "seconds": found.seconds + scoring,
      "training": found.seconds,
      "scoring": scoring,
      "memory": memory.held() + found.memory,
    }
    run.console.print(forecast.said(result), highlight=False, soft_wrap=True)
    return result

  return Step(
    "forecast",
    {
      **_of_training(run, done),
      "before": done["before"].key,
      "mesh": dataclasses.asdict(config.finetune.mesh),
      "groups": config.finetune.groups_per_device,
      "devices": [str(jax.devices()[0]), len(jax.devices())],
      "memory": config.memory,
    },
    work,
  )


def _finetune(run: Run, done: AllDone) -> Step:
  work = lambda d: train.train(run.config.finetune, run.made, d, run.console)
  return Step("finetune", _of_training(run, done), work, resumable=True)


def _evaluate(run: Run, done: AllDone) -> Step:
  def work(directory: pathlib.Path) -> dict[str, Any]:
    found = scores.score_of(run.workdir / "finetune", run.suites)
    cache.write_json(directory / SCORES_FILE, found)
    return dict(scores.means(found))

  depends = {"weights": done["finetune"].hash, **_suites(run, done)}
  return Step("evaluate", depends, work)


def _soup(run: Run, done: AllDone) -> Step:
  return Step(
    "soup",
    {
      "base": run.config.base_hash,
      "result": done["finetune"].hash,
      "points": run.config.points,
      "scores": [done["before"].key, done["evaluate"].key],
    },
    lambda d: _walk(run, done, d),
  )


def _walk(run: Run, done: AllDone, directory: pathlib.Path) -> dict[str, Any]:
  """Scores points between base and result; the best is made to stay.

  The best mean of the own validation part and the general suite; of equal ones
  the one that is nearer to the result. Without a validation part there is
  nothing to choose on.
  """
  ends = run.config.base, run.workdir / "finetune"
  if scores.VALIDATION not in run.suites:
    run.console.print(
      "too few pairs for a validation part: no soup is chosen",
      highlight=False,
    )
    return {"points": []}
  judged = (scores.VALIDATION, scores.GENERAL)
  rows = []
  for number in range(run.config.points):
    share = number / (run.config.points - 1)
    if share in (0.0, 1.0):
      found = done["before" if share == 0 else "evaluate"].metrics
    else:
      place = directory / "point"
      soup_lib.soup(ends, [1 - share, share], place)
      of_both = scores.score_of(place, run.suites, judged)
      found = scores.means(of_both)
      shutil.rmtree(place)
    row = {"share": share, **{name: found[name] for name in judged}}
    row["mean"] = sum(row[name] for name in judged) / len(judged)
    rows.append(row)
  best = max(rows, key=lambda row: (round(row["mean"], 4), row["share"]))
  share = best["share"]
  place = soup_lib.soup(ends, [1 - share, share], directory)
  test = scores.score_of(directory, run.suites, (scores.TEST,))
  return {
    "checkpoint": str(place.relative_to(directory)),
    "hash": inputs.hash_of(place),
    "share": share,
    "points": rows,
    **{name: best[name] for name in judged},
    **scores.means(test),
  }


def _index(run: Run, done: AllDone) -> Step:
  config = run.config.index
  model = run.workdir / "finetune"
  return Step(
    "index",
    {
      "format": indexing.FORMAT,
      "weights": done["finetune"].hash,
      "data": done["inputs"].key,
      "config": dataclasses.asdict(config),
      "input": run.outside["searched"],
    },
    lambda d: indexing.build(model, run.source, config.dim, d, run.console),
    resumable=True,
  )


STAGES: Mapping[str, Callable[[Run, AllDone], Step]] = {
  "inputs": _inputs,
  "general": _general,
  "before": _before,
  "mine": _mine,
  "forecast": _forecast,
  "finetune": _finetune,
  "evaluate": _evaluate,
  "soup": _soup,
  "index": _index,
}
