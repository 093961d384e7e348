"""A process that was forked from one that had used JAX cannot use it itself.

JAX has threads, which a forked child lacks: its first computation would wait
for them for ever.
"""

import os
import sys

from embeddinggemma.types import BadInput

_before: list[bool] = []  # whether JAX was in use when this process last forked
_inherited: list[bool] = []  # whether it was in the parent of this process


def require_own_jax() -> None:
  """Raise BadInput in a forked child of a process that had used JAX."""
  if any(_inherited):
    raise BadInput(
      "this process was forked from one that had used JAX, and would hang; start"
      ' it with multiprocessing.get_context("spawn"), or load the model only'
      " after the fork"
    )


def _in_use() -> bool:
  """Whether JAX has started a backend, which is when it starts threads."""
  bridge = sys.modules.get("jax._src.xla_bridge")  # it has no public name
  return bool(getattr(bridge, "_backends", None))


def _note() -> None:
  _before[:] = [_in_use()]


def _inherit() -> None:
  _inherited[:] = [*_before, *_inherited]


if hasattr(os, "register_at_fork"):
  os.register_at_fork(before=_note, after_in_child=_inherit)
