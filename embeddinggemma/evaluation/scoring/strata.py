"""A part of texts with several labels in which labels are as frequent as in all.

Iterative stratification by pairs of labels (Sechidis et al. 2011; Szymanski and
Kajdanowicz 2017), in the order and with the random numbers of scikit-multilearn,
whose code mteb has copied: it takes the same texts.
"""

import itertools
from collections.abc import Mapping, Sequence

import numpy as np

Pair = tuple[int, int]  # two labels, or one twice


def part(labels: Sequence[Sequence[int]], count: int, seed: int) -> list[int]:
  """About `count` of the texts, in their order.

  Args:
    labels: of each text, as numbers in rising order.
    count: how many are wanted, fewer than there are.
    seed: of the random numbers that decide where nothing else does.
  """
  rng = np.random.RandomState(seed)
  share = count / len(labels)
  shares = np.array([share, 1.0 - share])
  pairs = [
    list(itertools.combinations_with_replacement(own, 2)) for own in labels
  ]
  # Pair -> the texts that have it and have no side yet; a dict as ordered set.
  having: dict[Pair, dict[int, None]] = {}
  for text, own in enumerate(pairs):
    for pair in own:
      having.setdefault(pair, {})[text] = None
  wanted = {pair: shares * len(texts) for pair, texts in having.items()}
  room = shares * len(labels)
  taken: list[int] = []
  while (pair := _next(having)) is not None:
    while having[pair]:
      text = next(reversed(having[pair]))
      sides = np.flatnonzero(wanted[pair] == wanted[pair].max())
      side = sides[0] if len(sides) == 1 else rng.choice(sides, 1)[0]
      for other in pairs[text]:
        del having[other][text]
        wanted[other][side] -= 1
      room[side] -= 1
      if side == 0:
        taken.append(text)
  for text in reversed([text for text, own in enumerate(pairs) if not own]):
    side = rng.choice(np.flatnonzero(room > 0), 1)[0]
    room[side] -= 1
    if side == 0:
      taken.append(text)
  return sorted(taken)


def _next(having: Mapping[Pair, Mapping[int, None]]) -> Pair | None:
  """The pair whose texts are divided next: two labels before one, if rarer."""
  chosen = None
  for pair, texts in having.items():
    if not texts:
      continue
    two = pair[0] != pair[1]
    if chosen is None or (
      two and chosen[0] == chosen[1] and len(texts) < len(having[chosen])
    ):
      chosen = pair
  return chosen
