"""Encode texts: pack them into full rows, in few compiled shapes.

Also cuts embeddings to fewer dimensions, which Matryoshka training allows.
"""

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import numpy as np
from jax.sharding import Mesh
from jaxtyping import Float, Int

from embeddinggemma import sharding
from embeddinggemma.data import packing
from embeddinggemma.model import embedder
from embeddinggemma.model.config import ModelConfig
from embeddinggemma.types import BadInput, Encode, Params, Stopped, Text

# Numbers of positions that a group may have; small ones answer few texts quickly.
# On a CPU a token of a group of 8192 takes twice as long as one of
# 2048, whose intermediate arrays stay in the cache.
BUDGETS = {"cpu": (128, 512, 2048)}
_OTHER_BUDGETS = (128, 1024, 8192)
# Shorter rows would waste more positions than they save in attention.
_SHORTEST_ROW = 128
# Mean tokens of a text for which a group has places, at the least. The cost of
# pooling grows with the number of places, so there are two: few for most calls,
# and many for the others.
_MEANS = (32, 8)


class Call(NamedTuple):
  """Texts that are encoded together, distributed over groups by rows."""

  rows: list[list[int]]  # texts of each row; row i belongs to group i % groups
  length: int  # positions of a row
  size: int  # rows of a group, empty ones included
  places: int  # places for texts in a group, empty ones included


def plan(
  lengths: Int[np.ndarray, "n"],
  groups: int,
  max_length: int,
  budgets: Sequence[int] = BUDGETS["cpu"],
  most: int | None = None,
) -> list[Call]:
  """Split texts into calls of few shapes, each of at most `most` texts.

  The length of a row fits the longest text in it, rounded up to one of few
  lengths; its gaps are filled with shorter texts of all lengths.

  Args:
    lengths: number of tokens of each text.
    groups: number of groups of a call.
    max_length: of a row.
    budgets: numbers of positions that a group may have.
    most: texts of a call.
  """
  if len(lengths) == 1:  # a query, whose user waits
    return [_alone(int(lengths[0]), max_length)]
  calls = []
  for length, rows in sorted(_rows(lengths, max_length, most).items()):
    sizes = sorted({max(1, budget // length) for budget in budgets})
    while rows:
      take = min(len(rows), groups * sizes[-1])
      if most is not None:
        texts = np.cumsum([len(row) for row in rows[:take]])
        take = max(1, int(np.searchsorted(texts, most, "right")))
      size = next(size for size in sizes if groups * size >= take)
      now, rows = rows[:take], rows[take:]
      fullest = max(sum(map(len, now[g::groups])) for g in range(groups))
      places = (-(-size * length // mean) for mean in _MEANS)
      calls.append(
        Call(now, length, size, next(p for p in places if p >= fullest))
      )
  return calls


def _alone(length: int, max_length: int) -> Call:
  """The call of one text, whose row is as short as its few shapes allow."""
  room = _room(length, 1, max_length)
  return Call([[0]], room, 1, -(-room // _MEANS[0]))


def _room(needed: int, least: int, max_length: int) -> int:
  """Positions of a row that begins with a text: one of few lengths."""
  return max(needed, min(max(least, packing.rung(needed)), max_length))


def _rows(
  lengths: Int[np.ndarray, "n"], max_length: int, most: int | None
) -> dict[int, list[list[int]]]:
  """Texts of each row, by length of the row: best-fit, long texts first."""
  rows: dict[int, list[list[int]]] = {}
  # Room -> rows that have it left, and a set of those rooms as bits.
  having: dict[int, list[tuple[list[int], int]]] = {}
  rooms = 0
  for i in np.argsort(-lengths, kind="stable"):
    needed = int(lengths[i])
    if fitting := rooms >> needed:
      room = needed + (fitting & -fitting).bit_length() - 1
      row, limit = having[room].pop()
      if not having[room]:
        rooms ^= 1 << room
    else:
      room = _room(needed, _SHORTEST_ROW, max_length)
      row, limit = [], min(-(-room // _MEANS[-1]), most or room)
      rows.setdefault(room, []).append(row)
    row.append(int(i))
    room -= needed
    if room and len(row) < limit:
      having.setdefault(room, []).append((row, limit))
      rooms |= 1 << room
  return rows


def truncate(
  vectors: Float[np.ndarray, "n M"], dim: int
) -> Float[np.ndarray, "n dim"]:
  """The first `dim` numbers of each vector, normalised (Matryoshka).

  Raises:
    BadInput: the model has no such dimension.
    Stopped: a vector is zero or not finite and would make wrong rankings.
  """
  if not 0 < dim <= vectors.shape[1]:
    raise BadInput(
      f"dim={dim}: the model has dimensions 1 to {vectors.shape[1]}"
    )
  prefix = np.asarray(vectors[:, :dim], np.float32)
  norms = np.linalg.norm(prefix, axis=1, keepdims=True)
  bad = np.flatnonzero(~np.isfinite(norms) | (norms == 0))
  if len(bad):
    raise Stopped(
      f"{len(bad)} of {len(norms)} embeddings are zero or not finite in {dim}"
      f" dimensions, the first that of text {bad[0]}; the weights are damaged or"
      " training diverged"
    )
  return prefix / norms


def pack(
  texts: Sequence[Int[np.ndarray, "_"]], call: Call, groups: int
) -> tuple[Text, Int[np.ndarray, "t"], Int[np.ndarray, "t"]]:
  """The batch of a call, its texts, and the place of each text in the batch."""
  shape = groups, call.size, call.length
  ids, segment_ids = (
    np.zeros(shape, np.int32),
    np.full(shape, call.places, np.int32),
  )
  taken = [0] * groups
  members, places = [], []
  for n, row in enumerate(call.rows):
    r, g = divmod(n, groups)
    start = 0
    for i in row:
      end = start + len(texts[i])
      ids[g, r, start:end] = texts[i]
      segment_ids[g, r, start:end] = taken[g]
      members.append(i)
      places.append(g * call.places + taken[g])
      taken[g], start = taken[g] + 1, end
  valid = np.arange(call.places)[None] < np.array(taken)[:, None]
  return Text(ids, segment_ids, valid), np.array(members), np.array(places)


def make_encode_ids(
  program: Encode, params: Params, mesh: jax.sharding.Mesh, width: int
) -> Callable[..., Float[np.ndarray, "n M"]]:
  """A function from token ids of texts to embeddings in the texts' order.

  `program` is a jitted Encode. Models of one config can share it, and with it
  all compiled programs. The argument `most` of the returned function limits the
  texts of one call.
  """
  size = mesh.size
  budgets = BUDGETS.get(mesh.devices.flat[0].platform, _OTHER_BUDGETS)

  def encode_ids(
    texts: Sequence[Int[np.ndarray, "_"]],
    max_length: int,
    on_progress: Callable[[int], Any] = lambda done: None,
    most: int | None = None,
  ) -> Float[np.ndarray, "n M"]:
    lengths = np.array([len(t) for t in texts], np.int64)
    out = np.zeros((len(texts), width), np.float32)
    done, waiting = 0, []
    for call in plan(lengths, size, max_length, budgets, most):
      packed, members, places = pack(texts, call, size)
      vectors = program(params, sharding.to_devices(packed, mesh))
      waiting.append((members, places, vectors))
      # Read a call's vectors while the device computes the next one's.
      if len(waiting) > 1:
        done += _collect(out, *waiting.pop(0))
        on_progress(done)
    for item in waiting:
      done += _collect(out, *item)
    on_progress(done)
    return out

  return encode_ids


def _collect(out: Any, members: Any, places: Any, vectors: jax.Array) -> int:
  out[members] = np.asarray(vectors)[places]
  return len(members)


def encoder(model: ModelConfig, mesh: Mesh, rules: str = "fsdp") -> Encode:
  """(params, Text) -> (B, M) unit vectors, over the mesh."""
  return sharding.data_parallel(embedder.encode_group(model), mesh, rules)
