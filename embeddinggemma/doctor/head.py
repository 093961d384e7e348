"""Checks of the way from tokens to an embedding: pooling and the Dense layers.

The final hidden states come from the module that encodes. Numpy turns them into
embeddings in the right way and in known wrong ways, and the output of `encode`
must equal the right ones.
"""

from collections.abc import Callable
from typing import NamedTuple

import numpy as np
from jaxtyping import Float

from embeddinggemma.data import samples
from embeddinggemma.doctor.opened import Finding, Opened, States
from embeddinggemma.doctor.parts import HEAD
from embeddinggemma.model import pooling
from embeddinggemma.types import Array

TOLERANCE = 1e-4  # of a coordinate of a unit vector, in float32
_BETTER = 0.25  # share of pairs that another order must match in addition

Head = tuple[Array, Array]
Pool = Callable[[Array], Array]  # (_, D) -> (D,)

_WRONG_POOLS: dict[str, Pool] = {
  "without BOS": lambda x: x[1:].mean(axis=0),
  "without EOS": lambda x: x[:-1].mean(axis=0),
  "without BOS and EOS": lambda x: x[1:-1].mean(axis=0),
}
# Other ways to chain the two matrices, for those cases where shapes allow it.
_ORDERS: dict[str, Callable[[Array, Array], Head]] = {
  "swapped": lambda up, down: (down, up),
  "swapped and transposed": lambda up, down: (down.T, up.T),
  "transposed": lambda up, down: (up.T, down.T),
}
_WRONG_HEADS: dict[str, Callable[[Array, Array], Head]] = {
  "without Dense": lambda up, down: (np.eye(len(up)), np.eye(len(up))),
  "without the first Dense": lambda up, down: (np.eye(len(down)), down),
  "without the second Dense": lambda up, down: (up, np.eye(len(down))),
  **{f"with Dense {name}": order for name, order in _ORDERS.items()},
}


class Fault(NamedTuple):
  """How embeddings are wrongly made, and the check to which that belongs."""

  check: str
  how: str


def check_pooled(opened: Opened) -> Finding:
  """Check that `encode` pools all tokens, BOS and EOS included."""
  fault, rule = explain(opened), opened.model.config.pooling
  if fault is None or fault.check != "pooled":
    return Finding("pooled", True, f"{rule} of all tokens with BOS and EOS")
  return Finding(
    "pooled",
    False,
    f"tokens are pooled {fault.how}, not by {rule!r} of all",
    "pool every token: pooling_mode_mean_tokens and include_prompt are true",
  )


def check_applied(opened: Opened) -> Finding:
  """Check that `encode` applies both Dense layers, in their order.

  Layers that were swapped and transposed still fit all shapes. They are
  detected by quality: with another order many more paraphrases find each other.
  """
  fault = explain(opened)
  how = fault.how if fault and fault.check == "applied" else _better(opened)
  if not how:
    said = "pooled states go through both, in their order"
    return Finding("applied", True, said)
  return Finding(
    "applied",
    False,
    f"vectors are made {how}",
    "apply 2_Dense, then 3_Dense, as modules.json lists them; a kernel of"
    " torch is (out, in)",
  )


def explain(opened: Opened) -> Fault | None:
  """How the embeddings of `encode` are wrong; None if they are right."""
  vectors = opened.vectors[: len(samples.BRIEF)]
  states, head = opened.brief, _head(opened)
  right = _pooled(opened, states)
  near = lambda x: x is not None and np.abs(x - vectors).max() < TOLERANCE
  if near(_vectors(right, head, opened)):
    return None
  for how, pool in _wrong_pools().items():
    pooled = np.stack([pool(states.tokens(row)) for row in range(len(vectors))])
    if near(_vectors(pooled, head, opened)):
      return Fault("pooled", how)
  for how, wrong in _WRONG_HEADS.items():
    if near(_vectors(right, wrong(*head), opened)):
      return Fault("applied", how)
  return Fault("applied", "in a way that is not known")


def _wrong_pools() -> dict[str, Pool]:
  """How tokens may be pooled instead, by what a message says of it."""
  named = {
    f"by {name!r}": kind.plain
    for name, kind in pooling.POOLINGS.items()
    if kind.plain
  }
  return _WRONG_POOLS | named


def _head(opened: Opened) -> Head:
  up, down = (
    np.asarray(opened.model.params["model"][name], np.float32) for name in HEAD
  )
  return up, down


def _pooled(opened: Opened, states: States) -> Float[np.ndarray, "n D"]:
  if states.trace.pooled is not None:
    return np.asarray(states.trace.pooled)
  pool = pooling.POOLINGS[opened.model.config.pooling].plain
  assert pool, "a pooling that is no module has the same in NumPy"
  rows = range(len(states.lengths))
  return np.stack([pool(states.tokens(row)) for row in rows])


def _vectors(
  pooled: Float[np.ndarray, "n D"], head: Head, opened: Opened
) -> Float[np.ndarray, "n M"] | None:
  """Unit embeddings of pooled states; None if the head does not fit them."""
  up, down = head
  ends = (pooled.shape[1], opened.model.config.embed_dim)
  if (up.shape[0], down.shape[1]) != ends or up.shape[1] != down.shape[0]:
    return None
  out = pooled @ up @ down
  return out / np.maximum(np.linalg.norm(out, axis=1, keepdims=True), 1e-30)


def _better(opened: Opened) -> str:
  """A description of an order of the Dense layers that is far better, or ""."""
  if len(opened.texts) == len(samples.BRIEF):  # the pairs are not among them
    return ""
  first, second = samples.sides()
  states = opened.states(opened.ids([*first, *second]))
  pooled, head = _pooled(opened, states), _head(opened)
  ours = _found(_vectors(pooled, head, opened))
  for order, change in _ORDERS.items():
    theirs = _found(_vectors(pooled, change(*head), opened))
    if theirs >= ours + _BETTER:
      return (
        f"with Dense {order}: so {ours:.0%} of texts find the same in other"
        f" words, the other way {theirs:.0%}"
      )
  return ""


def _found(vectors: Float[np.ndarray, "n M"] | None) -> float:
  """The share of texts whose nearest one on the other side is their own."""
  if vectors is None:
    return 0.0
  first, second = np.split(vectors, 2)
  nearest = np.argmax(first @ second.T, axis=1)
  return float(np.mean(nearest == np.arange(len(first))))
