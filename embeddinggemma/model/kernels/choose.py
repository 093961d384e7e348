"""TPU kernels that run parts of a layer, chosen by the config.

attention: "xla" is `layers`' own, for every platform and every source. "splash"
(Pallas, rows of any length) and "fused" (`fused_attention`, short rows, with
norms and projections) serve a row that attends to itself alone, which is every
layer of an encoder; what else there is, such as the sources of a decoder, goes
through XLA. mlp: "xla", or "fused" (`fused_mlp`) with its norms. "auto" of both
takes the fastest that the devices and a row's length allow. Pallas is imported
where one of them runs: XLA alone starts without it.
"""

import dataclasses
from collections.abc import Callable
from typing import Any, cast

import jax
from jaxtyping import Array, Float, Int

from embeddinggemma.model.config import AUTO, FUSED, SPLASH, XLA, ModelConfig
from embeddinggemma.model.rope import Turns
from embeddinggemma.types import BadInput

LANES = 128  # a TPU's vector: what kernels' rows are multiples of
LONGEST = 512  # positions that FUSED holds the logits of
# 16 MiB: FUSED needs 17 for rows of LONGEST, and 25 for the MLP's gradient.
_SMALL_VMEM = ("TPU v2", "TPU v3", "TPU v4")
_BLOCKS = (512, 256, 128)  # of SPLASH, the first that divides a row


def on(config: ModelConfig, platform: str, kind: str) -> ModelConfig:
  """The config as a kind of device runs it; BadInput if it cannot."""
  if platform == "tpu":
    if kind not in _SMALL_VMEM:
      return config
    unless = lambda told, instead: instead if told == AUTO else told
    return dataclasses.replace(
      config,
      attention=unless(config.attention, SPLASH),
      mlp=unless(config.mlp, XLA),
    )
  for name in ("attention", "mlp"):
    value = getattr(config, name)
    if value not in (XLA, AUTO):
      raise BadInput(
        f"model.{name}={value!r} is a TPU kernel, but the devices are of"
        f" {platform!r}; use {AUTO!r}"
      )
  return dataclasses.replace(config, attention=XLA, mlp=XLA)


def attention_of(config: ModelConfig, length: int) -> str:
  """Who computes the attention of rows of that length on a TPU."""
  if config.attention != AUTO:
    return config.attention
  if length % LANES:
    return XLA
  return SPLASH if config.unfused or length > LONGEST else FUSED


def mlp_of(config: ModelConfig, positions: int) -> str:
  """Who computes the MLP of so many positions on a TPU."""
  if config.mlp != AUTO:
    return config.mlp
  return XLA if positions % LANES else FUSED


def check_row(config: ModelConfig, length: int) -> None:
  """Raises BadInput for a row that the config's kernel does not take."""
  what = f"model.attention={config.attention!r} takes rows of"
  if length % LANES:
    raise BadInput(
      f"{what} a multiple of {LANES} positions, and these have {length}; use"
      f" {XLA!r}, or a max_length above {LANES} so that rows are longer"
    )
  if config.attention == FUSED and length > LONGEST:
    raise BadInput(
      f"{what} up to {LONGEST} positions, and these have {length}; use"
      f" {SPLASH!r} or lower max_length"
    )


def check_positions(config: ModelConfig, positions: int) -> None:
  """Raises BadInput for a group that the fused MLP does not divide."""
  if positions % LANES:
    raise BadInput(
      f"model.mlp={config.mlp!r} takes a multiple of {LANES} positions (rows x"
      f" length), and a group has {positions}; use {XLA!r}"
    )


def splash(
  q: Float[Array, "R L H E"],
  k: Float[Array, "R L K E"],
  v: Float[Array, "R L K E"],
  slot: Int[Array, "R L"],
  reach: tuple[int | None, int | None],
  softcap: float,
) -> Float[Array, "R L H E"]:
  """Attention of rows to themselves; q is normed, rotated and scaled.

  Blocks that no query's reach meets are not computed; slots are the kernel's
  segments. A row and the heads that share keys are one call, mapped over both.
  """
  from jax.experimental.pallas.ops.tpu import splash_attention

  rows, length, heads, head_dim = q.shape
  shared = heads // k.shape[2]
  run = _splash(length, shared, reach, softcap)
  # (R, K, G, L, E), and (R, K, L, E).
  grouped = q.reshape(rows, length, -1, shared, head_dim)
  grouped = grouped.transpose(0, 2, 3, 1, 4)
  segments = splash_attention.SegmentIds(slot, slot)
  a_row = jax.vmap(run, in_axes=(0, 0, 0, None))
  keys_first = lambda x: x.transpose(0, 2, 1, 3)
  mixed = cast(
    Array, jax.vmap(a_row)(grouped, keys_first(k), keys_first(v), segments)
  )
  return mixed.transpose(0, 3, 1, 2, 4).reshape(q.shape)


def _splash(
  length: int,
  heads: int,
  reach: tuple[int | None, int | None],
  softcap: float,
) -> Callable[..., Any]:
  """The kernel of one row: (heads, L, E), (L, E), (L, E) -> (heads, L, E)."""
  from jax.experimental.pallas.ops.tpu import splash_attention

  size = next(size for size in _BLOCKS if not length % size)
  sizes = splash_attention.BlockSizes(
    block_q=size,
    block_kv=size,
    block_q_dkv=size,
    block_kv_dkv=size,
    block_q_dq=size,
    block_kv_dq=size,
  )
  shape = (length, length)
  if all(side is None or side >= length - 1 for side in reach):
    mask: Any = splash_attention.FullMask(shape)
  else:
    mask = splash_attention.LocalMask(shape, reach, offset=0)
  return splash_attention.make_splash_mqa_single_device(
    splash_attention.MultiHeadMask([mask] * heads),
    block_sizes=sizes,
    attn_logits_soft_cap=softcap or None,
  )


def first_half(
  config: ModelConfig,
  x: Float[Array, "R L D"],
  slot: Int[Array, "R L"],
  reach: tuple[int | None, int | None],
  turns: Turns,
  before: Float[Array, "D"],
  after: Float[Array, "D"],
) -> Callable[..., Array]:
  """What runs a block's first half, given the weights of its attention."""
  from embeddinggemma.model.kernels import attention

  check_row(config, x.shape[1])
  core = attention.Core(
    config.num_heads,
    config.num_kv_heads,
    config.head_dim,
    *reach,
    config.norm_eps,
  )

  def run(
    q: Array, k: Array, v: Array, q_gain: Array, k_gain: Array, o: Array
  ) -> Array:
    q, k, v = (w.reshape(w.shape[0], -1) for w in (q, k, v))
    o, q_gain = o.reshape(-1, o.shape[2]), q_gain * config.head_dim**-0.5
    weights = attention.Weights(before, q, k, v, q_gain, k_gain, o, after)
    return attention.add_attention(core, x, weights, slot, turns)

  return run


def second_half(
  config: ModelConfig,
  x: Float[Array, "R L D"],
  before: Float[Array, "D"],
  after: Float[Array, "D"],
) -> Callable[..., Array]:
  """What runs a block's second half, given the weights of its MLP."""
  from embeddinggemma.model.kernels import mlp

  flat = x.reshape(-1, x.shape[2])
  check_positions(config, flat.shape[0])

  def run(gate: Array, up: Array, down: Array) -> Array:
    weights = mlp.Weights(before, gate, up, down, after)
    return mlp.add_mlp(config.norm_eps, flat, weights).reshape(x.shape)

  return run
