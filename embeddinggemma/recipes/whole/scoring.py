"""The task `evaluate`: scores of every model of the run on held-out pairs."""

import pathlib
from collections.abc import Mapping, Sequence
from typing import Any

from embeddinggemma import cache, doctor
from embeddinggemma.evaluation import models, quality, suite, vectors
from embeddinggemma.loading import assemble, load
from embeddinggemma.losses import matryoshka
from embeddinggemma.recipes.whole import qat
from embeddinggemma.recipes.whole.config import Run
from embeddinggemma.training import start

# Key in summary.json -> the file that the task `evaluate` leaves in its folder.
FILES = {
  "quality": "quality.json",
  "souped": "souped.json",
  "precision": "precision.json",
  "vectors": "vectors.json",
}


def score(
  run: Run,
  chosen: str,
  ingredients: Mapping[str, pathlib.Path],
  directory: pathlib.Path,
) -> dict[str, Any]:
  """Score the soup on validation and test, beside the models it must beat.

  `chosen` is what pre-finetuning started from, `ingredients` are the finetuned
  models' workdirs, by name. Scores go to files in `directory`; returns those
  that the task's record keeps.
  """
  tuned = load(run.workdir / "soup")
  doctor.check_or_stop(tuned, run.console)  # before minutes of scoring
  fresh = assemble(
    tuned.config,
    start.params(run.prefinetune(chosen), run.made)[0],
    run.made.tokenizer(),
    quality.UNTRAINED,
    dict(tuned.prompts),
  )
  encode = suite.remember(tuned)
  dims = matryoshka.dims_of(tuned.config.embed_dim)
  found: dict[str, dict[str, Any]] = {name: {} for name in FILES}
  for side in suite.SIDES:
    tasks = suite.held_out(run.made.corpus, side)
    if not tasks:
      run.console.print(
        f"{side}: too few pairs to hold any out", highlight=False
      )
      continue
    table = quality.quality(encode, dims, fresh, tasks, run.console, side)
    found["quality"][side] = table
    # To score every ingredient on the test takes as long as all of the above.
    own = {} if side == "test" else ingredients
    places = {"prefinetune": run.workdir / "prefinetune", **own}
    found["souped"][side] = {
      quality.UNTRAINED: _by_type(tasks, table[quality.UNTRAINED]),
      **models.compare(places, tasks),
      "soup": _by_type(tasks, table[quality.MODEL]),
    }
    if side == "test":
      found["vectors"][side] = vectors.compare(encode, tasks, dims)
    if side == "test" and run.quantised:
      found["precision"][side] = qat.compare(
        run.workdir / "soup",
        found["souped"][side]["soup"],
        run.quantised,
        tasks,
        run.console,
      )
  for name, file in FILES.items():
    cache.write_json(directory / file, found[name])
  best = found["quality"].get("test", {}).get(quality.MODEL, {})
  return {
    "test": {name: dict(next(iter(d.values()))) for name, d in best.items()}
  }


def of_soup(workdir: pathlib.Path) -> dict[str, Any]:
  """The soup's scores as the task `evaluate` left them, for its model card."""
  return {"quality": cache.read_json(workdir / "evaluate" / FILES["quality"])}


def _by_type(
  tasks: Sequence[suite.EvalTask], scores: suite.TaskScores
) -> dict[str, float]:
  """{task type or "mean": score}, at full dimension."""
  return suite.with_mean(suite.by_type(suite.summarise(tasks, scores)))
