"""What would fit, when a step does not: more groups, or more recomputation.

A device that embeds its part of the batch in several groups holds the
activations of one at a time, for one more forward pass. What does not shrink
with them (parameters, gathered embeddings, logits) is told from two tries, so
that few compilations find the answer, or that there is none.
"""

import dataclasses
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

from embeddinggemma.aot import compiling, shapes
from embeddinggemma.aot.compiling import Compiled
from embeddinggemma.model.config import REMATS

_MOST = 6  # compilations


class Try(NamedTuple):
  """What was tried."""

  groups: int  # a device
  fits: bool
  needed: int  # bytes


def choices(on_device: int, groups: int) -> list[int]:
  """Numbers of groups above `groups`: doublings that divide the examples."""
  found = []
  while (groups := 2 * groups) <= on_device:
    found += [groups] if on_device % groups == 0 else []
  return found


def following(
  tries: Sequence[Try], left: Sequence[int], capacity: int
) -> int | None:
  """The next number of groups to try; None: found, or out of reach.

  needed = fixed + moving / groups, by the last two tries that have groups.
  """
  left = [groups for groups in left if groups > tries[-1].groups]
  if not left or tries[-1].fits:
    return None
  if len(tries) < 3:  # the first has no recomputation, and tells little
    return left[0]
  one, two = tries[-2:]
  moving = (one.needed - two.needed) / (1 / one.groups - 1 / two.groups)
  fixed = two.needed - moving / two.groups
  fitting = [g for g in left if fixed + moving / g <= capacity]
  return fitting[0] if fitting else None


def tries(
  first: Try,
  left: Sequence[int],
  capacity: int,
  attempt: Callable[[int], Try],
) -> list[Try]:
  """All attempts, the first included, until one fits or none will."""
  made = [first]
  while len(made) < _MOST:
    groups = following(made, left, capacity)
    if groups is None:
      break
    made.append(attempt(groups))
  return made


def search(first: Compiled) -> list[dict[str, Any]]:
  """Compiles one number of groups after another; a row for each.

  What recomputes more of a layer is tried beside them, in the config's groups.
  """
  groups = shapes.groups(first.config, first.mesh, first.slice_)

  def compile_again(**changed: Any) -> Compiled:
    config = dataclasses.replace(first.config, **changed)
    return compiling.compile_step(config, first.slice_, first.num_slices)

  def attempt(groups: int) -> Try:
    again = compile_again(groups_per_device=groups)
    return Try(groups, again.fits, again.memory.needed)

  made = tries(
    Try(groups, first.fits, first.memory.needed),
    choices(first.config.batch_size // first.mesh.size, groups),
    first.capacity,
    attempt,
  )
  rows = [
    _row({"groups_per_device": one.groups}, one.fits, one.needed)
    for one in made
  ]
  if first.fits:
    return rows
  for policy in REMATS[REMATS.index(first.config.model.remat) + 1 :]:
    sides = [s for s in ("model", "decoder") if hasattr(first.config, s)]
    again = compile_again(
      groups_per_device=groups,
      **{
        side: dataclasses.replace(getattr(first.config, side), remat=policy)
        for side in sides
      },
    )
    change = {f"{side}.remat": policy for side in sides}
    rows.append(_row(change, again.fits, again.memory.needed))
  return rows


def _row(change: dict[str, Any], fits: bool, needed: int) -> dict[str, Any]:
  return {"change": change, "fits": fits, "needed_bytes": needed}
