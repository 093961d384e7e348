"""Search for a number of groups with which a step fits into memory.

A device that goes through its part of the batch in several groups holds the
activations of one group at a time, at the cost of one more forward pass. Memory
that does not depend on the number of groups (parameters, gathered embeddings,
logits) is inferred from two attempts, so that few compilations find an answer,
or that there is none.
"""

from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import NamedTuple, TypeVar

W = TypeVar("W")
T = TypeVar("T")

MOST = 6  # compilations at most


class Try(NamedTuple):
  """One attempt and its result."""

  groups: int  # of a device
  fits: bool
  needed: int  # bytes of memory


def until_one_fits(
  ways: Iterable[W], attempt: Callable[[W], T], fits: Callable[[T], bool]
) -> Iterator[T]:
  """Yield the result of each attempt, up to the first one that fits."""
  for way in ways:
    tried = attempt(way)
    yield tried
    if fits(tried):
      return


def choices(on_device: int, groups: int) -> list[int]:
  """Numbers of groups to try: `groups` doubled, if it divides `on_device`.

  `on_device` is the number of examples of a device.
  """
  found = []
  while (groups := 2 * groups) <= on_device:
    found += [groups] if on_device % groups == 0 else []
  return found


def following(
  tries: Sequence[Try], left: Sequence[int], capacity: int
) -> int | None:
  """The next number of groups to compile; None if one fits or none can.

  Memory is modelled as fixed + moving / groups, from the last two attempts that
  have groups.
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
  """All attempts, the first included, until one fits or none can."""
  made = [first]

  def numbers() -> Iterator[int]:
    while len(made) < MOST and (groups := following(made, left, capacity)):
      yield groups

  for tried in until_one_fits(numbers(), attempt, lambda one: one.fits):
    made.append(tried)
  return made
