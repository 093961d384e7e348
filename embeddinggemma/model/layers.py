"""The Gemma block: four RMSNorms, grouped queries, GeGLU, rotary positions.

Reference: Gemma 3 technical report, section 2; the letters are those of
`model/config.py`. Attention joins only positions with the same segment id, so
several texts can share a row. Queries attend to a sequence of sources: the row
itself, the encoder's output for the row, or both in one softmax.
"""

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

from embeddinggemma.model.config import (
  FUSED,
  GLOBAL,
  LOCAL,
  SPLASH,
  ModelConfig,
)
from embeddinggemma.model.kernels import choose
from embeddinggemma.model.rope import Rotary

# Finite, so that a row of nothing but masked keys stays finite as well.
_MASKED = -1e9


class Window(NamedTuple):
  """An attention window: the largest distance to each side; None: no limit."""

  left: int | None
  right: int | None


class Own(NamedTuple):
  """What an attention kernel needs for self-attention in place of a mask."""

  segment_ids: Int[Array, "R L"]
  window: Window


class Source(NamedTuple):
  """Vectors that queries attend to; `rotary` is None where nothing is rotated.

  The underscores in the shapes: the sources of one call may differ in length
  and width.
  """

  x: Float[Array, "R _S _D"]
  mask: Bool[Array, "R L _S"]  # True: the query attends to the vector
  rotary: Rotary | None


def positions(segment_ids: Int[Array, "R L"]) -> Int[Array, "R L"]:
  """Positions in each text: they restart at 0 where the segment id changes."""
  index = jnp.broadcast_to(jnp.arange(segment_ids.shape[1]), segment_ids.shape)
  starts = jnp.pad(segment_ids[:, 1:] != segment_ids[:, :-1], ((0, 0), (1, 0)))
  return index - jax.lax.cummax(jnp.where(starts, index, 0), axis=1)


def same_text(
  segment_ids: Int[Array, "R L"], other: Int[Array, "R S"]
) -> Bool[Array, "R L S"]:
  """True where a position and one of another sequence share a segment id."""
  return segment_ids[:, :, None] == other[:, None, :]


def attention_mask(
  segment_ids: Int[Array, "R L"], window: Window
) -> Bool[Array, "R L L"]:
  """True for keys of the same segment id inside the attention window.

  Distances are counted along the row, since a text has no gaps in it.
  """
  mask = same_text(segment_ids, segment_ids)
  index = jnp.arange(segment_ids.shape[1])
  back = (index[:, None] - index[None, :])[None]
  if window.left is not None:
    mask &= back <= window.left
  if window.right is not None:
    mask &= -back <= window.right
  return mask


def rotary_of(
  config: ModelConfig, kind: str, position: Int[Array, "R L"]
) -> Rotary:
  """The rotary angles of a kind of layer (local or global) at `position`."""
  (base, factor), half = config.rope(kind), config.head_dim // 2
  frequency = base ** -(jnp.arange(half, dtype=jnp.float32) / half) / factor
  angle = position[..., None] * frequency[None, None]
  return Rotary(jnp.sin(angle), jnp.cos(angle))


def rotate(
  x: Float[Array, "R L N E"], rotary: Rotary
) -> Float[Array, "R L N E"]:
  """Apply rotary position embedding; a pair is coordinates i and i + E / 2."""
  sin, cos = (angle[:, :, None, :] for angle in rotary)
  first, second = jnp.split(x.astype(jnp.float32), 2, axis=-1)
  turned = (first * cos - second * sin, second * cos + first * sin)
  return jnp.concatenate(turned, axis=-1).astype(x.dtype)


def embed(
  table: Float[Array, "V D"], ids: Int[Array, "R L"], dtype: str
) -> Float[Array, "R L D"]:
  """Rows of the embedding table for the ids, times sqrt(D).

  Ids must lie in the table, which is checked where texts become ids; XLA would
  clip others.
  """
  x = jnp.take(table, ids, axis=0, mode="clip").astype(dtype)
  return x * jnp.asarray(table.shape[1] ** 0.5, x.dtype)


class RMSNorm(nn.Module):
  """x / rms(x) * (1 + w), computed in float32; `gain` is 1 + w at the start."""

  eps: float
  gain: float = 1.0

  @nn.compact
  def __call__(self, x: Float[Array, "... D"]) -> Float[Array, "... D"]:
    start = nn.initializers.constant(self.gain - 1.0)
    w = self.param("scale", start, (x.shape[-1],), jnp.float32)
    x32 = x.astype(jnp.float32)
    power = jnp.mean(x32 * x32, axis=-1, keepdims=True)
    w = jnp.reshape(w, (1,) * (x.ndim - 1) + w.shape)
    return (x32 * jax.lax.rsqrt(power + self.eps) * (1.0 + w)).astype(x.dtype)


class Gain(nn.Module):
  """The gain 1 + w of an RMSNorm, for a kernel that applies the norm itself.

  It has the parameter name of the RMSNorm whose place it takes.
  """

  size: int
  start: float = 1.0

  @nn.compact
  def __call__(self) -> Float[Array, "D"]:
    start = nn.initializers.constant(self.start - 1.0)
    return 1.0 + self.param("scale", start, (self.size,))


class Products(nn.Module):
  """Base of modules that multiply by weights of their own."""

  def reads(self, weight: str, x: Array) -> Array:
    """The input of the product with a weight of this name: x, unchanged.

    It computes nothing. It is the hook at which `flax.linen.intercept_methods`
    rounds inputs as another runtime does (`model.arithmetic`).
    """
    del weight
    return x


class Attention(Products):
  """Grouped-query attention, by default with QK-norm; scale 1 / sqrt(E).

  All sources share the projections, the norm of the keys and one softmax.
  Self-attention of a row can be computed by a kernel, which takes `own`
  (segment ids and window) in place of the mask. If `run` is given, it computes
  the whole of attention from the weights.
  """

  config: ModelConfig

  @nn.compact
  def __call__(
    self,
    x: Float[Array, "R L D"],
    rotary: Rotary | None,
    sources: Sequence[Source],
    own: Own | None = None,
    run: Callable[..., Array] | None = None,
  ) -> Float[Array, "R L D"]:
    c = self.config
    heads, kv_heads, head_dim = c.num_heads, c.num_kv_heads, c.head_dim
    width = sources[0].x.shape[-1]
    init = nn.initializers.lecun_normal(in_axis=0, out_axis=(1, 2))
    out_init = nn.initializers.lecun_normal(in_axis=(0, 1), out_axis=2)
    w_q = self.param("q", init, (c.width, heads, head_dim))
    w_k = self.param("k", init, (width, kv_heads, head_dim))
    w_v = self.param("v", init, (width, kv_heads, head_dim))
    w_o = self.param("o", out_init, (heads, head_dim, c.width))
    if run:
      gains = (Gain(head_dim, name=f"{n}_norm")() for n in "qk")
      return run(w_q, w_k, w_v, *gains, w_o)
    norm = lambda name: (
      RMSNorm(c.norm_eps, name=name) if c.qk_norm else lambda y: y
    )
    turn = lambda y, by: y if by is None else rotate(y, by)
    q_norm, k_norm = norm("q_norm"), norm("k_norm")
    times = lambda y, name, w: _project(self.reads(name, y), w)
    q = turn(q_norm(times(x, "q", w_q)), rotary) * head_dim**-0.5
    turned = [turn(k_norm(times(s.x, "k", w_k)), s.rotary) for s in sources]
    k = _join(turned, 1)
    v = _join([times(s.x, "v", w_v) for s in sources], 1)
    if own and choose.attention_of(c, x.shape[1]) == SPLASH:
      choose.check_row(c, x.shape[1])
      mixed = choose.splash(q, k, v, *own, c.attention_softcap)
    else:
      q = q.reshape(*q.shape[:2], kv_heads, heads // kv_heads, head_dim)
      mask = _join([s.mask for s in sources], 2)[:, None, :, None]
      mixed = _attend(q, k, v, mask, c.attention_softcap)
    mixed = self.reads("o", mixed.reshape(*x.shape[:2], heads, head_dim))
    return jnp.einsum("rlhe,hed->rld", mixed, w_o.astype(x.dtype))


def _project(
  x: Float[Array, "R L D"], w: Float[Array, "D H E"]
) -> Float[Array, "R L H E"]:
  return jnp.einsum("rld,dhe->rlhe", x, w.astype(x.dtype))


def _join(parts: Sequence[Array], axis: int) -> Array:
  return parts[0] if len(parts) == 1 else jnp.concatenate(parts, axis)


def _attend(
  q: Float[Array, "R L K G E"],
  k: Float[Array, "R S K E"],
  v: Float[Array, "R S K E"],
  mask: Bool[Array, "R 1 L 1 S"],
  softcap: float,
) -> Float[Array, "R L K G E"]:
  """Softmax attention in float32.

  The heads that share keys fold into one product of L * G rows: on a CPU that
  is 1.4 times as fast, forward and backward, as a product a head.
  """
  rows, length, kv_heads, shared, head_dim = q.shape
  folded = jnp.reshape(
    q.transpose(0, 2, 1, 3, 4), (rows, kv_heads, length * shared, head_dim)
  )
  logits = jnp.einsum(
    "rkne,rmke->rknm", folded, k, preferred_element_type=jnp.float32
  )
  if softcap:
    logits = softcap * jnp.tanh(logits / softcap)
  seen = k.shape[1]
  logits = logits.reshape(rows, kv_heads, length, shared, seen)
  weights = jax.nn.softmax(jnp.where(mask, logits, _MASKED), axis=-1)
  weights = weights.reshape(rows, kv_heads, length * shared, seen)
  mixed = jnp.einsum("rknm,rmke->rkne", weights.astype(v.dtype), v)
  mixed = mixed.reshape(rows, kv_heads, length, shared, head_dim)
  return mixed.transpose(0, 2, 1, 3, 4)


class MLP(Products):
  """GeGLU with the tanh approximation; gate and up stay separate products.

  If `run` is given, it computes the MLP from the weights (a fused kernel).
  """

  config: ModelConfig

  @nn.compact
  def __call__(
    self,
    x: Float[Array, "R L D"],
    run: Callable[[Array, Array, Array], Array] | None = None,
  ) -> Float[Array, "R L D"]:
    c = self.config
    init = nn.initializers.lecun_normal()
    gate = self.param("gate", init, (c.width, c.mlp_width))
    up = self.param("up", init, (c.width, c.mlp_width))
    down = self.param("down", init, (c.mlp_width, c.width))
    if run:
      return run(gate, up, down)
    gated = self.activation(self.reads("gate", x) @ gate.astype(x.dtype))
    hidden = gated * (self.reads("up", x) @ up.astype(x.dtype))
    return self.reads("down", hidden) @ down.astype(x.dtype)

  def activation(self, x: Float[Array, "R L F"]) -> Float[Array, "R L F"]:
    """GeLU, as a method so that it can be intercepted like `reads`."""
    return jax.nn.gelu(x, approximate=True)


class Block(nn.Module):
  """One layer: attention and MLP, each between two norms, added to x.

  The attention reads the row and the sources `beside` it in one softmax.
  Sources `across` are read by a separate cross-attention between attention and
  MLP.
  """

  config: ModelConfig
  window: Window

  @nn.compact
  def __call__(
    self,
    x: Float[Array, "R L D"],
    segment_ids: Int[Array, "R L"],
    rotary: Rotary,
    mask: Bool[Array, "R L L"],
    beside: Sequence[Source] = (),
    across: Sequence[Source] = (),
  ) -> Float[Array, "R L D"]:
    c = self.config

    def add(x: Array, name: str, part: Callable[[Array], Array]) -> Array:
      norm = lambda when, gain: RMSNorm(
        c.norm_eps, gain, name=f"{when}_{name}_norm"
      )
      return x + norm("post", c.post_norm_gain)(part(norm("pre", 1.0)(x)))

    def gains(name: str) -> tuple[Array, Array]:
      after = Gain(c.width, c.post_norm_gain, name=f"post_{name}_norm")
      return Gain(c.width, name=f"pre_{name}_norm")(), after()

    attention, mlp = Attention(c, name="attention"), MLP(c, name="mlp")
    own = None if beside else Own(segment_ids, self.window)
    sources = lambda y: (Source(y, mask, rotary), *beside)
    if own and choose.attention_of(c, x.shape[1]) == FUSED:
      some = choose.fused_attention(c, x, *own, rotary, *gains("attention"))
      x = attention(x, rotary, sources(x), own, some)
    else:
      x = add(x, "attention", lambda y: attention(y, rotary, sources(y), own))
    if across:
      cross = Attention(c, name="cross_attention")
      x = add(x, "cross_attention", lambda y: cross(y, None, across))
    if choose.mlp_of(c, x.shape[0] * x.shape[1]) == FUSED:
      return mlp(x, choose.fused_mlp(c, x, *gains("mlp")))
    return add(x, "mlp", mlp)


# Checkpoint policies by `remat`: what a layer keeps for the backward pass
# besides its input.
_KEPT = {
  "dots": jax.checkpoint_policies.dots_with_no_batch_dims_saveable,
  "full": jax.checkpoint_policies.nothing_saveable,
}


def stack(
  config: ModelConfig,
  x: Float[Array, "R L D"],
  segment_ids: Int[Array, "R L"],
  window: Callable[[ModelConfig, str], Window],
  beside: Sequence[Source] = (),
  across: Sequence[Source] = (),
) -> Float[Array, "R L D"]:
  """Apply all layers and the final norm, as submodules of the calling module.

  Args:
    config: of this encoder or decoder.
    x: scaled embeddings.
    segment_ids: segment ids.
    window: function (config, kind of layer) -> attention window.
    beside: further sources of the self-attention's softmax.
    across: sources of a separate cross-attention.
  """
  position = positions(segment_ids)
  far = {kind: window(config, kind) for kind in (LOCAL, GLOBAL)}
  rotary = {kind: rotary_of(config, kind, position) for kind in far}
  masks = {kind: attention_mask(segment_ids, far[kind]) for kind in far}
  block: Any = Block
  if config.remat in _KEPT:
    block = nn.remat(Block, policy=_KEPT[config.remat])
  for i in range(config.num_layers):
    kind = config.attention_kind(i)
    layer = block(config, far[kind], name=f"layer_{i}")
    x = layer(x, segment_ids, rotary[kind], masks[kind], beside, across)
  return RMSNorm(config.norm_eps, name="final_norm")(x)
