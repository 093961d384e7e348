"""Texts -> vectors: sorted by length, packed, in few compiled shapes.

And vectors to fewer dimensions, which Matryoshka training allows.
"""

from collections.abc import Callable, Sequence
from typing import Any

import jax
import numpy as np
from jaxtyping import Float, Int

from embeddinggemma import sharding
from embeddinggemma.data import packing
from embeddinggemma.types import BadInput, Encode, Params, Stopped, Text

# Positions of a packed group: the small one answers a single query quickly.
BUDGETS = (512, 8192)
_MIN_TOKENS = 4  # of a text, at least: bounds the texts of a group


def chunks(
  lengths: Int[np.ndarray, "n"],
  groups: int,
  max_length: int,
  most: int | None = None,
) -> list[tuple[Int[np.ndarray, "_"], int, int]]:
  """Splits texts into (indices, row length, rows of a group), long ones first.

  Sorted by length, so that a chunk's row length fits its texts. Each chunk is
  one call, of at most `most` texts; its shape depends on row length, budget
  and `most` only.
  """
  order = np.argsort(-lengths, kind="stable")
  out = []
  done = 0
  while done < len(order):
    length = min(packing.rung(int(lengths[order[done]])), max(max_length, 1))
    length = max(length, int(lengths[order[done]]))
    left = order[done:]
    tokens = np.cumsum(lengths[left])
    budget = next(
      (b for b in BUDGETS if tokens[-1] <= 0.8 * b * groups), BUDGETS[-1]
    )
    rows = max(1, budget // length)
    limit = groups * texts_per_group(rows, length)
    if most is not None:
      # A text fits a row, so more rows than texts would only cost memory.
      rows, limit = min(rows, -(-most // groups)), min(limit, most)
    take = int(np.searchsorted(tokens, groups * rows * length, "right"))
    take = max(1, min(take, limit, len(left)))
    while not _fits(lengths[left[:take]], groups, rows, length):
      take -= max(1, take // 64)
    out.append((left[:take], length, rows))
    done += take
  return out


def truncate(
  vectors: Float[np.ndarray, "n M"], dim: int
) -> Float[np.ndarray, "n dim"]:
  """The first `dim` numbers of each vector at unit length (Matryoshka).

  Raises:
    BadInput: the model has no such dimension.
    Stopped: a vector is zero or not finite; it would rank first or anywhere.
  """
  if not 0 < dim <= vectors.shape[1]:
    raise BadInput(
      f"dim={dim}: the model has dimensions 1 to {vectors.shape[1]}"
    )
  prefix = np.asarray(vectors[:, :dim], np.float32)
  norms = np.linalg.norm(prefix, axis=1, keepdims=True)
  bad = ~np.isfinite(norms) | (norms == 0)
  if bad.any():
    raise Stopped(
      f"{int(bad.sum())} of {len(bad)} embeddings are zero or not finite in"
      f" {dim} dimensions; the weights are damaged or training diverged"
    )
  return prefix / norms


def texts_per_group(rows: int, length: int) -> int:
  """Places of a group: texts of a chunk are alike, a third of a row at least."""
  return max(1, rows * length // max(length // 3, _MIN_TOKENS))


def _groups(
  lengths: Int[np.ndarray, "n"], groups: int, rows: int, length: int
) -> Int[np.ndarray, "G b"]:
  places = groups * texts_per_group(rows, length)
  return packing.deal(np.pad(lengths, (0, places - len(lengths))), groups)


def _fits(
  lengths: Int[np.ndarray, "n"], groups: int, rows: int, length: int
) -> bool:
  dealt = _groups(lengths, groups, rows, length)
  places = np.pad(lengths, (0, dealt.size - len(lengths)))
  return packing.rows_needed(places, dealt, length) <= rows


def make_encode_ids(
  program: Encode, params: Params, mesh: jax.sharding.Mesh, width: int
) -> Callable[..., Float[np.ndarray, "n M"]]:
  """A function from token ids of texts to vectors in the texts' order.

  `program` is a jitted Encode; models of one config share it, and so what it
  has compiled.
  """
  size = mesh.size

  def encode_ids(
    texts: Sequence[Int[np.ndarray, "_"]],
    max_length: int,
    on_progress: Callable[[int], Any] = lambda done: None,
    most: int | None = None,
  ) -> Float[np.ndarray, "n M"]:
    lengths = np.array([len(t) for t in texts], np.int64)
    out = np.zeros((len(texts), width), np.float32)
    done, waiting = 0, []
    for members, length, rows in chunks(lengths, size, max_length, most):
      groups = _groups(lengths[members], size, rows, length)
      batch = [texts[i] for i in members]
      batch += [np.zeros(0, np.int32)] * (groups.size - len(batch))
      packed: Text = packing.pack(batch, groups, length, rows)
      vectors = program(params, sharding.to_devices(packed, mesh))
      waiting.append((members, groups.reshape(-1), vectors))
      # Read a chunk while the device computes the next one.
      if len(waiting) > 1:
        done += _collect(out, *waiting.pop(0))
        on_progress(done)
    for item in waiting:
      done += _collect(out, *item)
    on_progress(done)
    return out

  return encode_ids


def _collect(out: Any, members: Any, places: Any, vectors: jax.Array) -> int:
  real = places < len(members)
  out[members[places[real]]] = np.asarray(vectors)[real]
  return len(members)
