"""The core of attention in one TPU kernel, forward and backward (Pallas).

From projected queries, keys and values of a row to its mixed values: norms,
rotary positions, logits, softmax and both products never leave the chip's
vector memory. Rows are short, so each is held whole and what the backward pass
needs is computed again from the kernel's inputs; nothing else is saved.

The same numbers as `layers.Attention` with `attention="xla"`, which a test
compares; here all but the products' operands is float32. Letters as in
`model/config.py`; N = G * L, the positions of all heads that share keys.
"""

import functools
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax.experimental import pallas as pl
from jax.experimental.pallas import tpu as pltpu
from jaxtyping import Array, Float, Int

_MASKED = -1e9
_SUBLANES = 8
_POSITIONS = 512  # of rows that are worked on together
_VECTOR_MEMORY = 64 * 2**20  # bytes that one kernel may take


class Core(NamedTuple):
  """What a kernel is compiled for."""

  heads: int
  kv_heads: int
  head_dim: int
  left: int | None  # distances that a query sees, as layers.Reach
  right: int | None
  eps: float


class Turns(NamedTuple):
  """The rotary angles of every position."""

  sin: Float[Array, "R L half"]
  cos: Float[Array, "R L half"]


@functools.partial(jax.custom_vjp, nondiff_argnums=(0,))
def attend(
  core: Core,
  q: Float[Array, "R L HE"],
  k: Float[Array, "R L KE"],
  v: Float[Array, "R L KE"],
  q_gain: Float[Array, "E"],
  k_gain: Float[Array, "E"],
  slot: Int[Array, "R L"],
  turns: Turns,
) -> Float[Array, "R L HE"]:
  """Projections of rows -> mixed values; a head is E neighbouring columns.

  `q_gain` holds the factor 1 / sqrt(E) of logits.
  """
  return _forward(core, q, k, v, q_gain, k_gain, slot, turns)[0]


def _forward(core: Core, *inputs: Any) -> tuple[Array, Any]:
  q, _, _, _, _, slot, _ = inputs
  call = _call(core, slot.shape, "attention_forward", _forward_kernel, 2)
  out = jax.ShapeDtypeStruct(q.shape, q.dtype)
  return call(_operands(*inputs), (out,))[0], inputs


def _backward(core: Core, inputs: Any, d_out: Array) -> tuple[Any, ...]:
  q, k, v, q_gain, k_gain, slot, _ = inputs
  call = _call(core, slot.shape, "attention_backward", _backward_kernel, 5)
  like = lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype)
  gain = jax.ShapeDtypeStruct((_SUBLANES, core.head_dim), jnp.float32)
  *d, d_q_gain, d_k_gain = call(
    (*_operands(*inputs), d_out), (like(q), like(k), like(v), gain, gain)
  )
  whole = lambda d, x: jnp.sum(d, axis=0).astype(x.dtype)
  return *d, whole(d_q_gain, q_gain), whole(d_k_gain, k_gain), None, None


attend.defvjp(_forward, _backward)


def _operands(
  q: Array,
  k: Array,
  v: Array,
  q_gain: Array,
  k_gain: Array,
  slot: Array,
  turns: Turns,
) -> tuple[Array, ...]:
  """The kernels' first arguments, each of two axes or more."""
  gains = (g.astype(jnp.float32)[None] for g in (q_gain, k_gain))
  return (q, k, v, *gains, slot.astype(jnp.float32)[:, None], *turns)


def _call(
  core: Core, shape: tuple[int, ...], name: str, kernel: Any, products: int
) -> Any:
  """(operands, outputs' shapes) -> outputs; some rows of three axes a step.

  The compiler is told what it costs: `products` of queries, keys and E, an
  exponential a logit, and all operands and outputs once through HBM.
  """
  rows, length = shape
  logits = rows * length * length * core.heads
  step = next(
    n for n in range(min(rows, max(_POSITIONS // length, 1)), 0, -1) if not rows % n
  )

  def spec(x: Any) -> pl.BlockSpec:
    if len(x.shape) == 3:
      return pl.BlockSpec((step, *x.shape[1:]), lambda i: (i, 0, 0))
    return pl.BlockSpec(x.shape, lambda i: (0, 0))

  def call(operands: Any, outputs: Any) -> Any:
    arrays = (*operands, *outputs)
    cost = pl.CostEstimate(
      flops=2 * products * logits * core.head_dim,
      transcendentals=logits,
      bytes_accessed=sum(x.size * x.dtype.itemsize for x in arrays),
    )
    return pl.pallas_call(
      functools.partial(kernel, core),
      grid=(rows // step,),
      in_specs=[spec(x) for x in operands],
      out_specs=[spec(x) for x in outputs],
      out_shape=outputs,
      compiler_params=pltpu.CompilerParams(
        dimension_semantics=("arbitrary",), vmem_limit_bytes=_VECTOR_MEMORY
      ),
      cost_estimate=cost,
      name=name,
    )(*operands)

  return call


def _forward_kernel(core: Core, q, k, v, q_gain, k_gain, slot, sin, cos, out):
  for row in range(q.shape[0]):
    turn = sin[row], cos[row]
    seen = _seen(core, slot[row])
    mixed = []
    for queries, shared in _groups(core):
      read = lambda ref, columns: ref[row, :, columns].astype(jnp.float32)
      normed = [norm(core.eps, read(q, columns)) for columns in queries]
      turned = [_rotate(x * q_gain[...], *turn) for x, _ in normed]
      key = _rotate(norm(core.eps, read(k, shared))[0] * k_gain[...], *turn)
      weights = _weights(_stack(turned, q), key.astype(q.dtype), seen)
      mixed += jnp.split(
        product(weights.astype(q.dtype), v[row, :, shared], 1, 0),
        len(queries),
      )
    out[row] = jnp.concatenate(mixed, axis=1).astype(out.dtype)


def _backward_kernel(
  core: Core,
  q,
  k,
  v,
  q_gain,
  k_gain,
  slot,
  sin,
  cos,
  d_out,
  d_q,
  d_k,
  d_v,
  d_q_gain,
  d_k_gain,
):
  @pl.when(pl.program_id(0) == 0)
  def _start():
    d_q_gain[...] = jnp.zeros(d_q_gain.shape, jnp.float32)
    d_k_gain[...] = jnp.zeros(d_k_gain.shape, jnp.float32)

  half = lambda x: x.astype(q.dtype)
  for row in range(q.shape[0]):
    turn, back = (sin[row], cos[row]), (-sin[row], cos[row])
    seen = _seen(core, slot[row])
    for queries, shared in _groups(core):
      read = lambda ref, columns: ref[row, :, columns].astype(jnp.float32)
      normed = [norm(core.eps, read(q, columns)) for columns in queries]
      turned = [_rotate(x * q_gain[...], *turn) for x, _ in normed]
      query, key_normed = _stack(turned, q), norm(core.eps, read(k, shared))
      key = half(_rotate(key_normed[0] * k_gain[...], *turn))
      weights = _weights(query, key, seen)
      given = jnp.concatenate([d_out[row, :, c] for c in queries])
      d_v[row, :, shared] = product(half(weights), given, 0, 0).astype(
        d_v.dtype
      )
      d_weights = product(given, v[row, :, shared], 1, 1)
      own = jnp.sum(weights * d_weights, axis=1, keepdims=True)
      d_logits = half(weights * (d_weights - own))
      d_key = _rotate(product(d_logits, query, 0, 0), *back)
      d_k_gain[...] += fold(d_key * key_normed[0])
      d_k[row, :, shared] = norm_back(key_normed, d_key * k_gain[...]).astype(
        d_k.dtype
      )
      d_query = jnp.split(product(d_logits, key, 1, 0), len(queries))
      for columns, d, x in zip(queries, d_query, normed):
        d = _rotate(d, *back)
        d_q_gain[...] += fold(d * x[0])
        d_q[row, :, columns] = norm_back(x, d * q_gain[...]).astype(d_q.dtype)


def _groups(core: Core) -> list[tuple[list[slice], slice]]:
  """The columns of heads that share keys, and those of these keys."""
  wide = lambda n: slice(n * core.head_dim, (n + 1) * core.head_dim)
  each = core.heads // core.kv_heads
  return [
    ([wide(n) for n in range(each * i, each * (i + 1))], wide(i))
    for i in range(core.kv_heads)
  ]


def _stack(heads: list[Array], like: Any) -> Float[Array, "N E"]:
  return jnp.concatenate([x.astype(like.dtype) for x in heads])


def norm(
  eps: float, x: Float[Array, "L E"]
) -> tuple[Float[Array, "L E"], Float[Array, "L 1"]]:
  """x at root mean square 1, and the factor that brought it there."""
  factor = jax.lax.rsqrt(jnp.mean(x * x, axis=1, keepdims=True) + eps)
  return x * factor, factor


def norm_back(
  normed: tuple[Array, Array], d: Float[Array, "L E"]
) -> Float[Array, "L E"]:
  x, factor = normed
  return factor * (d - x * jnp.mean(d * x, axis=1, keepdims=True))


def _rotate(x: Float[Array, "L E"], sin: Array, cos: Array) -> Array:
  """As layers.rotate; with -sin, its transpose."""
  half = x.shape[1] // 2
  first, second = x[:, :half], x[:, half:]
  turned = (first * cos - second * sin, second * cos + first * sin)
  return jnp.concatenate(turned, axis=1)


def fold(x: Float[Array, "L E"]) -> Float[Array, "8 E"]:
  """Sums over positions as far as that needs no move between sublanes."""
  return jnp.sum(x.reshape(-1, _SUBLANES, x.shape[1]), axis=0)


def _seen(core: Core, slot: Float[Array, "1 L"]) -> Array:
  """Which keys each query sees: those of its slot, within reach."""
  length = slot.shape[1]
  across = jnp.broadcast_to(slot, (length, length))
  seen = across == across.T
  place = lambda axis: jax.lax.broadcasted_iota(
    jnp.int32, (length, length), axis
  )
  if core.left is not None and core.left < length - 1:
    seen &= place(0) - place(1) <= core.left
  if core.right is not None and core.right < length - 1:
    seen &= place(1) - place(0) <= core.right
  return jnp.concatenate([seen] * (core.heads // core.kv_heads))


def _weights(
  query: Float[Array, "N E"], key: Float[Array, "L E"], seen: Array
) -> Float[Array, "N L"]:
  logits = jnp.where(seen, product(query, key, 1, 1), _MASKED)
  mass = jnp.exp(logits - jnp.max(logits, axis=1, keepdims=True))
  return mass / jnp.sum(mass, axis=1, keepdims=True)


def product(a: Array, b: Array, a_axis: int, b_axis: int) -> Array:
  """Contracts an axis of each, accumulating in float32."""
  axes = (((a_axis,), (b_axis,)), ((), ()))
  return jax.lax.dot_general(a, b, axes, preferred_element_type=jnp.float32)
