"""Whether training in a workdir goes on under a config, and what to type if not.

A workdir goes on under the config that it was begun with. It also goes on under
another schedule, if that has the same learning rate at each step that was taken:
then state and data are those of a run that had the new schedule from its start.
"""

import contextlib
import dataclasses
import json
import pathlib
import shlex
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Float

from embeddinggemma import checkpoint
from embeddinggemma import config as config_lib
from embeddinggemma.training import optimizer, stages, start, workdir
from embeddinggemma.training.config import TrainConfig
from embeddinggemma.types import BadInput

# Keys that decide nothing but the learning rate of each step, and the last one.
_SCHEDULE = frozenset(
  {"steps", "optimizer.lr", "optimizer.warmup_steps", "optimizer.end_factor"}
)


def check(config: TrainConfig, place: pathlib.Path) -> str:
  """How training in a workdir goes on under a config that is not its own.

  Returns a note for people, "" if the config is the workdir's or there is
  none. Raises BadInput, with the keys that differ and the ways on, if steps
  were taken that the config would have taken otherwise.
  """
  path = place / workdir.CONFIG_FILE
  if not path.is_file():
    return ""
  try:
    saved, now = json.loads(path.read_bytes()), workdir.resolved(config)
  except ValueError as error:
    raise BadInput(f"{path}: {error}; {_ways(config, place)}") from None
  known = None
  with contextlib.suppress(BadInput):  # what cannot be built, differs
    known = stages.build(saved)
    saved = workdir.resolved(known)
  changed = [
    key
    for key in sorted({*config_lib.flat(saved), *config_lib.flat(now)})
    if key.split(".")[0] not in workdir.free(config)
    and config_lib.at(saved, key) != config_lib.at(now, key)
  ]
  if not changed:
    return ""
  differs = "; ".join(
    f"{key}={config_lib.at(saved, key)!r} there, {config_lib.at(now, key)!r} now"
    for key in changed
  )
  taken = [0, *checkpoint.steps(place)][-1]
  if not taken:
    return f"{place} has no checkpoint of its former config ({differs})"
  why = ""
  if known is not None and _SCHEDULE.issuperset(changed):
    why = _other_past(known, config, taken)
    if not why:
      return f"goes on in {place} with another schedule ({differs})"
  raise BadInput(
    f"{place} was trained with another config ({differs}){why}; nothing of it"
    f" was touched; {_ways(config, place)}; or give the former config to go on"
  )


def _other_past(old: TrainConfig, new: TrainConfig, taken: int) -> str:
  """Why so many steps of one schedule are none of another; "" if they are."""
  if new.steps < taken:
    return f"; step {taken} is there already, beyond steps={new.steps}"
  if np.array_equal(_rates(old, taken), _rates(new, taken)):
    return ""
  return (
    f"; the {taken} steps that were taken had another learning rate than these"
    " would have, so it cannot go on in place (what can has a rate that stays"
    " after its warm-up, --config.optimizer.end_factor=1 from its start)"
  )


def _rates(config: TrainConfig, taken: int) -> Float[np.ndarray, "_"]:
  """The learning rate of each of the first steps."""
  rate = optimizer.schedule(config.optimizer, config.steps)
  return np.asarray(jax.vmap(rate)(jnp.arange(taken)))


def other_inputs(
  config: TrainConfig, dependencies: Mapping[str, Any], place: pathlib.Path
) -> BadInput:
  """The error of a workdir that was trained on other inputs, with ways on."""
  return BadInput(
    f"{place} was trained on {_other(dependencies, place)}; nothing of it was"
    f" touched; {_ways(config, place)}"
  )


def _other(dependencies: Mapping[str, Any], place: pathlib.Path) -> str:
  """Which of the inputs is another one, by what the checkpoint records."""
  files = checkpoint.read_files(checkpoint.find(place))
  recipe = json.loads(files.get("recipe.json", b"{}"))
  ours = recipe.get("versions", {}).get("embeddinggemma")
  if ours != dependencies["version"]:
    return f"embeddinggemma {ours}, this is {dependencies['version']}"
  parent, now = recipe.get("parents", {}).get("init"), dependencies["init_from"]
  if recipe.get("config", {}).get("init_from") or now:
    if parent != now:
      short = lambda digest: (digest or "none")[:12]
      return f"from other weights: init_from {short(parent)}, now {short(now)}"
  return "other data, or the data's files have changed since"


def _ways(config: TrainConfig, place: pathlib.Path) -> str:
  """What to add to the command: from the weights that are there, and anew."""
  new = _free_name(place)
  quoted = lambda path: shlex.quote(str(path))
  anew = f"to train from the start, add --workdir={quoted(new)}"
  started = dataclasses.replace(config, init_from=str(place))
  try:
    start.check_start(started)
  except BadInput as error:
    return f"{anew} (its weights are no start for this: {error})"
  return (
    "to train on from its weights, add"
    f" --config.init_from={quoted(place)} --workdir={quoted(new)}; {anew}"
  )


def _free_name(place: pathlib.Path) -> pathlib.Path:
  """The first of PLACE-2, PLACE-3, ... that does not exist."""
  number = 2
  while (new := place.with_name(f"{place.name}-{number}")).exists():
    number += 1
  return new
