"""What recipes have in common."""

import dataclasses
import pathlib
from collections.abc import Mapping
from typing import Any

from embeddinggemma import cache
from embeddinggemma.training.config import TrainConfig
from embeddinggemma.types import BadInput


def without_knobs(cls: type, tree: Mapping[str, Any]) -> dict[str, Any]:
  """The tree of a recipe of this class without a stage's keys at its top."""
  knobs = {f.name for f in dataclasses.fields(TrainConfig)}
  own = {f.name for f in dataclasses.fields(cls)}
  return {k: v for k, v in tree.items() if k in own or k not in knobs}


def fingerprint(key: str, source: str) -> str:
  """Changes when a file of a config's path does; "" where it names none."""
  if not source:
    return ""
  root = pathlib.Path(source)
  if not root.exists():
    raise BadInput(f"{key}={source} does not exist")
  files = sorted(p for p in (root, *root.rglob("*")) if p.is_file())
  stats = [(str(p), p.stat().st_size, p.stat().st_mtime_ns) for p in files]
  return cache.key_of({"files": stats})
