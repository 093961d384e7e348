"""Task weights on the simplex, as points of a unit cube.

The mixture search (paper section 3.3) models the score as a function of the
weights. Raw weights in a box, normalised, have one direction too many: w and
2w are one mixture, yet two points to a Gaussian process, and a uniform box
crowds the middle of the simplex.

Here n tasks have n - 1 coordinates. A balanced binary tree stands over the
tasks; each inner node splits its mass between its halves, and its coordinate
is the quantile of that split. Under Dirichlet(alpha) the splits are
independent, and the share of the left half is Beta(its alphas' sum, those of
the right half): so the uniform distribution on the cube is Dirichlet(alpha)
on the simplex, and every point of the cube is another mixture. A chain in the
tree's place (stick-breaking) has the same property, but makes the last weight
a product of n - 1 splits; in a tree every weight is one of log2(n), so no task
is harder to model than another.

A split of no mass has no effect: the one redundancy that is left, on faces of
the simplex. There a coordinate is 0.5.
"""

import math
from collections.abc import Iterator, Sequence

import numpy as np
from jaxtyping import Float
from scipy import special

from embeddinggemma.config import suggest
from embeddinggemma.types import BadInput, Weights

# The least coordinate other than 0: SciPy's quantiles are NaN near 1e-300.
_LEAST = 1e-15
# How far from 1 the sum of given weights may be, since people round them.
_TOLERANCE = 1e-3
# Decimal places of a proposed weight, so that printed weights are exact.
_PLACES = 4


def to_weights(
  point: Float[np.ndarray, "*batch m"], alpha: Float[np.ndarray, "m+1"]
) -> Float[np.ndarray, "*batch m+1"]:
  """The weights of points of the cube, in the order of alpha."""
  weights = np.ones((*point.shape[:-1], len(alpha)))
  for k, (first, middle, last) in enumerate(_nodes(0, len(alpha))):
    a, b = alpha[first:middle].sum(), alpha[middle:last].sum()
    u = point[..., k, None]
    u = np.where(u > 0, np.maximum(u, _LEAST), 0)
    weights[..., first:middle] *= special.betaincinv(a, b, u)
    # Not 1 - left: that would round small shares away.
    weights[..., middle:last] *= special.betainccinv(b, a, u)
  return weights / weights.sum(axis=-1, keepdims=True)


def to_point(
  weights: Float[np.ndarray, "*batch n"], alpha: Float[np.ndarray, "n"]
) -> Float[np.ndarray, "*batch n-1"]:
  """The inverse of `to_weights`: the point of the cube for given weights."""
  point = np.full((*weights.shape[:-1], len(alpha) - 1), 0.5)
  for k, (first, middle, last) in enumerate(_nodes(0, len(alpha))):
    a, b = alpha[first:middle].sum(), alpha[middle:last].sum()
    left = weights[..., first:middle].sum(axis=-1)
    mass = left + weights[..., middle:last].sum(axis=-1)
    share = np.divide(left, mass, out=np.zeros_like(mass), where=mass > 0)
    point[..., k] = np.where(mass > 0, special.betainc(a, b, share), 0.5)
  return point


def _nodes(first: int, last: int) -> Iterator[tuple[int, int, int]]:
  """Inner nodes of the tree, as (first leaf, first of the right half, end)."""
  if last - first > 1:
    middle = (first + last) // 2
    yield first, middle, last
    yield from _nodes(first, middle)
    yield from _nodes(middle, last)


def dirichlet(
  n: int, count: int, alpha: float, seed: int
) -> Float[np.ndarray, "{count} {n}"]:
  """Samples of the symmetric Dirichlet; a larger count appends to them."""
  samples = [
    np.random.default_rng([seed, i]).dirichlet(np.full(n, alpha))
    for i in range(count)
  ]
  return np.array(samples).reshape(count, n)


def hellinger(a: Float[np.ndarray, "n"], b: Float[np.ndarray, "n"]) -> float:
  """Hellinger distance of two mixtures: 0 if equal, 1 if no task in common."""
  return math.sqrt(max(0.0, 1.0 - float(np.sqrt(a * b).sum())))


def named(values: Float[np.ndarray, "n"], tasks: Sequence[str]) -> Weights:
  """Weights by task, in ten-thousandths that sum to exactly 1."""
  units = values / values.sum() * 10**_PLACES
  whole = np.floor(units)
  missing = round(10**_PLACES - whole.sum())
  order = np.argsort(whole - units, kind="stable")
  whole[order[:missing]] += 1
  return {t: float(w) / 10**_PLACES for t, w in zip(tasks, whole, strict=True)}


def vector(weights: Weights, tasks: Sequence[str]) -> Float[np.ndarray, "_"]:
  """Weights as an array in the order of `tasks`; 0 for a task without one."""
  return np.array([weights.get(task, 0.0) for task in tasks])


def printed(weights: Weights) -> str:
  """The tasks that have a weight, as in "code 0.40, qa 0.60"."""
  return ", ".join(f"{t} {w:.4g}" for t, w in weights.items() if w) or "none"


def check_weights(weights: Weights, tasks: Sequence[str]) -> Weights:
  """Weights of all tasks in the order of `tasks`, summing to exactly 1.

  Raises BadInput for an unknown task, for a weight that is negative or not
  finite, and if the given weights do not sum to 1.
  """
  for task, weight in weights.items():
    if task not in tasks:
      raise BadInput(
        f"mixture weight of unknown task {task!r}{suggest(task, list(tasks))}"
      )
    if not (math.isfinite(weight) and weight >= 0):
      raise BadInput(f"mixture weight {task}={weight}: weights are >= 0")
  total = math.fsum(weights.values())
  if abs(total - 1) > _TOLERANCE:
    given = ", ".join(f"{task}={weight}" for task, weight in weights.items())
    raise BadInput(
      f"mixture weights {given or '{}'} sum to {total:.6g}; make them sum to 1"
    )
  return {task: weights.get(task, 0.0) / total for task in tasks}
