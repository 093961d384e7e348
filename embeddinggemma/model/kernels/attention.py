"""The attention half of a layer as TPU kernels: norms, projections, attention.

They serve self-attention within short rows: a row is held whole, its logits
included. The results equal those of `layers.Attention` between its two norms,
which a test compares. Letters as in `model/config.py`; P = R * L positions of
all rows, n positions of all heads that share keys.
"""

import functools
from collections.abc import Iterator
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax.experimental.pallas import tpu as pltpu
from jaxtyping import Array, Float, Int

from embeddinggemma.model.kernels.common import (
  call,
  fold,
  full,
  gradients,
  norm,
  norm_back,
  product,
  ready,
  summed,
)
from embeddinggemma.model.rope import Rotary

_TILE = 256  # positions that one kernel step processes, as whole rows
_MASKED = -1e9


class Core(NamedTuple):
  """The static parameters that a kernel is compiled for."""

  heads: int
  kv_heads: int
  head_dim: int
  left: int | None  # attention window to each side, as in layers.Window
  right: int | None
  eps: float


class Weights(NamedTuple):
  """Weights of the attention half of a layer, with heads side by side.

  A gain is 1 + w of an RMSNorm. `q_gain` also contains the factor 1 / sqrt(E)
  of the logits.
  """

  pre_gain: Float[Array, "D"]
  q: Float[Array, "D HE"]
  k: Float[Array, "D KE"]
  v: Float[Array, "D KE"]
  q_gain: Float[Array, "E"]
  k_gain: Float[Array, "E"]
  o: Float[Array, "HE D"]
  post_gain: Float[Array, "D"]


class _Kept(NamedTuple):
  """What the forward pass keeps for the backward: arrays, or their shapes."""

  q: Any  # (P, HE)
  k: Any  # (P, KE)
  v: Any  # (P, KE)
  part: Any  # (P, D): attention's output before its second norm


@functools.partial(jax.custom_vjp, nondiff_argnums=(0,))
def add_attention(
  core: Core,
  x: Float[Array, "R L D"],
  weights: Weights,
  segment_ids: Int[Array, "R L"],
  rotary: Rotary,
) -> Float[Array, "R L D"]:
  """x plus the normalised output of its attention (the residual connection)."""
  return _forward(core, x, weights, segment_ids, rotary)[0]


def _forward(
  core: Core, x: Array, weights: Weights, segment_ids: Array, rotary: Rotary
) -> tuple[Array, Any]:
  flat = lambda y: y.reshape(-1, y.shape[2])
  tiles = flat(x), segment_ids.astype(jnp.float32)[:, None], *map(flat, rotary)
  like = lambda width: jax.ShapeDtypeStruct((tiles[0].shape[0], width), x.dtype)
  widths = [w.shape[1] for w in (weights.q, weights.k, weights.v, weights.o)]
  kept = _Kept(*map(like, widths))
  (y, kept), _ = call(
    functools.partial(_forward_kernel, core),
    "attention_forward",
    _steps(segment_ids),
    tiles,
    ready(weights, x.dtype),
    (like(x.shape[2]), kept),
    scratch=(
      pltpu.VMEM(
        (x.size // x.shape[2] // _steps(segment_ids), widths[0]), x.dtype
      ),
    ),
    **_cost(core, segment_ids, weights, 1, 2),
  )
  return y.reshape(x.shape), (tiles, kept, weights)


def _backward(core: Core, saved: Any, d_y: Array) -> tuple[Any, ...]:
  tiles, kept, weights = saved
  segment_ids = tiles[1][:, 0]
  size = tiles[0].shape[0] // _steps(segment_ids)
  scratch = [
    pltpu.VMEM((size, x.shape[1]), x.dtype)
    for x in (kept.q, kept.q, kept.q, kept.k, kept.v)
  ]
  (d_x,), totals = call(
    functools.partial(_backward_kernel, core),
    "attention_backward",
    _steps(segment_ids),
    (tiles, kept, d_y.reshape(tiles[0].shape)),
    ready(weights, d_y.dtype),
    (jax.ShapeDtypeStruct(tiles[0].shape, d_y.dtype),),
    gradients(weights),
    scratch=tuple(scratch),
    **_cost(core, segment_ids, weights, 2, 6),
  )
  return d_x.reshape(d_y.shape), summed(totals, weights), None, None


add_attention.defvjp(_forward, _backward)


def _steps(segment_ids: Array) -> int:
  """Number of kernel steps, each over whole rows of about _TILE positions."""
  rows, length = segment_ids.shape
  most = min(rows, max(_TILE // length, 1))
  return rows // next(n for n in range(most, 0, -1) if not rows % n)


def _cost(
  core: Core,
  segment_ids: Array,
  weights: Weights,
  projections: int,
  products: int,
) -> dict[str, int]:
  """The cost estimate of a kernel, for the compiler's scheduler.

  `projections` and `products` say how often each weight and each logit is
  multiplied for a position.
  """
  matrices = sum(w.size for w in weights if w.ndim > 1)
  logits = segment_ids.size * segment_ids.shape[1] * core.heads
  flops = projections * segment_ids.size * matrices
  flops += products * logits * core.head_dim
  return {"flops": 2 * flops, "transcendentals": logits}


def _forward_kernel(
  core: Core, tiles: Any, weights: Any, outputs: Any, _: Any, mixed: Any
) -> None:
  (x, segment_ids, *rotary), (y, kept) = tiles, outputs
  given = full(x)
  normed = (norm(core.eps, given)[0] * weights.pre_gain[...]).astype(x.dtype)
  for out, w in ((kept.q, weights.q), (kept.k, weights.k), (kept.v, weights.v)):
    out[...] = product(normed, w[...], 1, 0).astype(x.dtype)
  for rows, seen, turn in _rows(core, segment_ids, rotary):
    for queries, shared in _groups(core):
      heads = _Heads(core, kept, weights, rows, queries, shared, turn)
      out = product(heads.weights(seen), kept.v[rows, shared], 1, 0)
      for columns, head in zip(queries, jnp.split(out, len(queries))):
        mixed[rows, columns] = head.astype(x.dtype)
  part = product(mixed[...], weights.o[...], 1, 0)
  kept.part[...] = part.astype(x.dtype)
  y[...] = (given + norm(core.eps, part)[0] * weights.post_gain[...]).astype(
    x.dtype
  )


def _backward_kernel(
  core: Core,
  tiles: Any,
  weights: Any,
  outputs: Any,
  totals: Any,
  mixed: Any,
  d_mixed: Any,
  d_q: Any,
  d_k: Any,
  d_v: Any,
) -> None:
  (x, segment_ids, *rotary), kept, d_y = tiles
  d_sum, part = full(d_y), norm(core.eps, full(kept.part))
  totals.post_gain[...] += fold(d_sum * part[0])
  d_part = norm_back(part, d_sum * weights.post_gain[...]).astype(x.dtype)
  d_mixed[...] = product(d_part, weights.o[...], 1, 1).astype(x.dtype)
  for rows, seen, turn in _rows(core, segment_ids, rotary):
    for queries, shared in _groups(core):
      heads = _Heads(core, kept, weights, rows, queries, shared, turn)
      heads.back(seen, totals, (mixed, d_mixed, d_q, d_k, d_v))
  totals.o[...] += product(mixed[...], d_part, 0, 0)
  given = norm(core.eps, full(x))
  normed = (given[0] * weights.pre_gain[...]).astype(x.dtype)
  d_normed = jnp.zeros(x.shape, jnp.float32)
  for d, w, total in (
    (d_q, weights.q, totals.q),
    (d_k, weights.k, totals.k),
    (d_v, weights.v, totals.v),
  ):
    total[...] += product(normed, d[...], 0, 0)
    d_normed += product(d[...], w[...], 1, 1)
  totals.pre_gain[...] += fold(d_normed * given[0])
  d_given = d_sum + norm_back(given, d_normed * weights.pre_gain[...])
  outputs[0][...] = d_given.astype(x.dtype)


class _Heads:
  """The query heads of a row that share keys, with queries and keys prepared.

  Queries and keys are normalised and rotated when the object is made.
  """

  def __init__(
    self,
    core: Core,
    kept: Any,
    weights: Any,
    rows: slice,
    queries: list[slice],
    shared: slice,
    turn: tuple[Array, Array],
  ):
    self.gains = weights.q_gain[...], weights.k_gain[...]
    self.places, self.turn, self.kept = (rows, queries, shared), turn, kept
    read = lambda ref, at: norm(core.eps, ref[rows, at].astype(jnp.float32))
    self.normed = [read(kept.q, columns) for columns in queries]
    self.key_normed = read(kept.k, shared)
    turned = [_rotate(x * self.gains[0], *turn) for x, _ in self.normed]
    dtype = kept.q.dtype
    self.query = jnp.concatenate([x.astype(dtype) for x in turned])
    key = _rotate(self.key_normed[0] * self.gains[1], *turn)
    self.key = key.astype(dtype)

  def softmax(self, seen: Array) -> Float[Array, "n L"]:
    """Attention weights in float32; `seen` is the mask."""
    logits = jnp.where(seen, product(self.query, self.key, 1, 1), _MASKED)
    mass = jnp.exp(logits - jnp.max(logits, axis=1, keepdims=True))
    return mass / jnp.sum(mass, axis=1, keepdims=True)

  def weights(self, seen: Array) -> Float[Array, "n L"]:
    """Attention weights in the type of the matrix products."""
    return self.softmax(seen).astype(self.key.dtype)

  def back(self, seen: Array, totals: Any, scratch: Any) -> None:
    """Write the gradients of the projections, and the mixed values again."""
    mixed, d_mixed, d_q, d_k, d_v = scratch
    (rows, queries, shared), dtype = self.places, self.key.dtype
    back = -self.turn[0], self.turn[1]
    weights, value = self.softmax(seen), self.kept.v[rows, shared]
    out = product(weights.astype(dtype), value, 1, 0)
    for columns, head in zip(queries, jnp.split(out, len(queries))):
      mixed[rows, columns] = head.astype(dtype)
    given = jnp.concatenate([d_mixed[rows, columns] for columns in queries])
    d_v[rows, shared] = product(weights.astype(dtype), given, 0, 0).astype(
      dtype
    )
    d_weights = product(given, value, 1, 1)
    own = jnp.sum(weights * d_weights, axis=1, keepdims=True)
    d_logits = (weights * (d_weights - own)).astype(dtype)
    d_key = _rotate(product(d_logits, self.query, 0, 0), *back)
    totals.k_gain[...] += fold(d_key * self.key_normed[0])
    d_key = norm_back(self.key_normed, d_key * self.gains[1])
    d_k[rows, shared] = d_key.astype(dtype)
    d_query = jnp.split(product(d_logits, self.key, 1, 0), len(queries))
    for columns, d, x in zip(queries, d_query, self.normed):
      d = _rotate(d, *back)
      totals.q_gain[...] += fold(d * x[0])
      d_q[rows, columns] = norm_back(x, d * self.gains[0]).astype(dtype)


def _rows(
  core: Core, segment_ids: Any, rotary: Any
) -> Iterator[tuple[slice, Array, tuple[Array, Array]]]:
  """For each row of a tile: its positions, attention mask and (sin, cos)."""
  length = segment_ids.shape[2]
  for row in range(segment_ids.shape[0]):
    rows = slice(row * length, (row + 1) * length)
    sin, cos = (angle[rows] for angle in rotary)
    yield rows, _seen(core, segment_ids[row]), (sin, cos)


def _groups(core: Core) -> list[tuple[list[slice], slice]]:
  """Columns of the query heads that share keys, and columns of those keys."""
  wide = lambda n: slice(n * core.head_dim, (n + 1) * core.head_dim)
  each = core.heads // core.kv_heads
  return [
    ([wide(n) for n in range(each * i, each * (i + 1))], wide(i))
    for i in range(core.kv_heads)
  ]


def _rotate(x: Float[Array, "L E"], sin: Array, cos: Array) -> Array:
  """Rotary embedding as in layers.rotate; with -sin, its transpose."""
  half = x.shape[1] // 2
  first, second = x[:, :half], x[:, half:]
  turned = (first * cos - second * sin, second * cos + first * sin)
  return jnp.concatenate(turned, axis=1)


def _seen(core: Core, segment_ids: Float[Array, "1 L"]) -> Array:
  """The attention mask: keys of the same segment id inside the window."""
  length = segment_ids.shape[1]
  across = jnp.broadcast_to(segment_ids, (length, length))
  seen = across == across.T
  place = lambda axis: jax.lax.broadcasted_iota(
    jnp.int32, (length, length), axis
  )
  if core.left is not None and core.left < length - 1:
    seen &= place(0) - place(1) <= core.left
  if core.right is not None and core.right < length - 1:
    seen &= place(1) - place(0) <= core.right
  return jnp.concatenate([seen] * (core.heads // core.kv_heads))
