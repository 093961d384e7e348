"""Functions that both recipes' configs need."""

import dataclasses
import pathlib
from collections.abc import Collection, Mapping
from typing import Any

from embeddinggemma import cache, checkpoint
from embeddinggemma.training.config import TrainConfig
from embeddinggemma.types import BadInput


def without_knobs(cls: type, tree: Mapping[str, Any]) -> dict[str, Any]:
  """A recipe's tree without the keys of TrainConfig at its top level.

  configs/recipe.py repeats them there, as references into the stages; `cls` is
  the recipe's config class, whose own fields stay.
  """
  knobs = {f.name for f in dataclasses.fields(TrainConfig)}
  own = {f.name for f in dataclasses.fields(cls)}
  return {k: v for k, v in tree.items() if k in own or k not in knobs}


def require_own(workdir: pathlib.Path, names: Collection[str]) -> None:
  """Raise BadInput for a workdir with tasks or checkpoints of something else.

  A run would replace those of its own names, and leave a mixture of both.
  """
  files = (cache.STAGE_FILE, cache.KEY_FILE)
  folders = workdir.iterdir() if workdir.is_dir() else ()
  others = sorted(
    path.name
    for path in folders
    if any((path / file).is_file() for file in files)
    and path.name.removesuffix(".partial") not in names
  )
  if checkpoint.steps(workdir):
    others.append(checkpoint.CHECKPOINTS)
  if others:
    raise BadInput(
      f"{workdir} is the workdir of another run ({', '.join(others[:3])}); use"
      " another --workdir"
    )


def fingerprint(key: str, source: str) -> str:
  """A hash of the sizes and times of all files under a config's path.

  It changes when one of them does; "" for an empty path. Raises BadInput,
  naming the config's `key`, for a path that does not exist.
  """
  if not source:
    return ""
  root = pathlib.Path(source)
  if not root.exists():
    raise BadInput(f"{key}={source} does not exist")
  files = sorted(p for p in (root, *root.rglob("*")) if p.is_file())
  stats = [(str(p), p.stat().st_size, p.stat().st_mtime_ns) for p in files]
  return cache.key_of({"files": stats})
