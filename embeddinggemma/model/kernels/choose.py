"""Choose, by the config, which implementation computes a part of a layer.

`attention` of the config is "xla" (`layers`, on every platform and for every
source of keys), "splash" (Pallas, rows of any length) or "fused"
(`kernels.attention`: short rows, with norms and projections). The two kernels
serve self-attention within a row, which is every layer of an encoder; other
attention, such as a decoder's to an encoder, uses XLA. `mlp` is "xla" or
"fused" (`kernels.mlp`, with its norms). "auto" selects the fastest one that the
devices and the row length allow. Pallas is imported only where a kernel runs,
so that XLA alone starts without it.
"""

import dataclasses
from collections.abc import Callable
from typing import Any, cast

import jax
from jaxtyping import Array, Float, Int

from embeddinggemma.model.config import AUTO, FUSED, SPLASH, XLA, ModelConfig
from embeddinggemma.model.rope import Rotary
from embeddinggemma.types import BadInput

LANES = 128  # width of a TPU vector; kernels take rows of a multiple of it
LONGEST = 512  # the longest row, in positions, that FUSED attention takes
# These have 16 MiB of vector memory. FUSED needs 17 MiB for rows of LONGEST
# positions and 25 MiB for the gradient of the MLP.
_SMALL_VMEM = ("TPU v2", "TPU v3", "TPU v4")
_BLOCKS = (512, 256, 128)  # block sizes of SPLASH: the first that divides a row


def for_device(config: ModelConfig, platform: str, kind: str) -> ModelConfig:
  """The config with the implementations that a kind of device can run.

  Args:
    platform: of JAX, such as "tpu".
    kind: the `device_kind` of JAX.

  Raises:
    BadInput: the config names a TPU kernel, and the platform is another one.
  """
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
  """Name of the attention implementation for rows of this length on a TPU."""
  if config.attention != AUTO:
    return config.attention
  if length % LANES:
    return XLA
  return SPLASH if config.unfused or length > LONGEST else FUSED


def mlp_of(config: ModelConfig, positions: int) -> str:
  """Name of the MLP implementation for this number of positions on a TPU."""
  if config.mlp != AUTO:
    return config.mlp
  return XLA if positions % LANES else FUSED


def check_row(config: ModelConfig, length: int) -> None:
  """Raise BadInput for a row length that the attention kernel rejects."""
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
  """Raise BadInput for a number of positions that the fused MLP rejects."""
  if positions % LANES:
    raise BadInput(
      f"model.mlp={config.mlp!r} takes a multiple of {LANES} positions (rows x"
      f" length), and a group has {positions}; use {XLA!r}"
    )


def splash(
  q: Float[Array, "R L H E"],
  k: Float[Array, "R L K E"],
  v: Float[Array, "R L K E"],
  segment_ids: Int[Array, "R L"],
  window: tuple[int | None, int | None],
  softcap: float,
) -> Float[Array, "R L H E"]:
  """Self-attention of rows by the splash kernel of Pallas.

  q is already normalised, rotated and scaled. Blocks outside every query's
  attention window are not computed. One call serves a row and the heads that
  share keys; it is mapped over rows and key heads.
  """
  from jax.experimental.pallas.ops.tpu import splash_attention

  rows, length, heads, head_dim = q.shape
  shared = heads // k.shape[2]
  run = _splash(length, shared, window, softcap)
  # (R, K, G, L, E), and (R, K, L, E).
  grouped = q.reshape(rows, length, -1, shared, head_dim)
  grouped = grouped.transpose(0, 2, 3, 1, 4)
  segments = splash_attention.SegmentIds(segment_ids, segment_ids)
  a_row = jax.vmap(run, in_axes=(0, 0, 0, None))
  keys_first = lambda x: x.transpose(0, 2, 1, 3)
  mixed = cast(
    Array, jax.vmap(a_row)(grouped, keys_first(k), keys_first(v), segments)
  )
  return mixed.transpose(0, 3, 1, 2, 4).reshape(q.shape)


def _splash(
  length: int,
  heads: int,
  window: tuple[int | None, int | None],
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
  if all(side is None or side >= length - 1 for side in window):
    mask: Any = splash_attention.FullMask(shape)
  else:
    mask = splash_attention.LocalMask(shape, window, offset=0)
  return splash_attention.make_splash_mqa_single_device(
    splash_attention.MultiHeadMask([mask] * heads),
    block_sizes=sizes,
    attn_logits_soft_cap=softcap or None,
  )


def fused_attention(
  config: ModelConfig,
  x: Float[Array, "R L D"],
  segment_ids: Int[Array, "R L"],
  window: tuple[int | None, int | None],
  rotary: Rotary,
  before: Float[Array, "D"],
  after: Float[Array, "D"],
) -> Callable[..., Array]:
  """Prepare the fused kernel for the attention half of a block.

  Returns a function of the attention weights (q, k, v, q_gain, k_gain, o) that
  gives x plus the normalised attention output. `before` and `after` are the
  gains of the norms around it. Raises BadInput for a row length that the kernel
  rejects.
  """
  from embeddinggemma.model.kernels import attention

  check_row(config, x.shape[1])
  core = attention.Core(
    config.num_heads,
    config.num_kv_heads,
    config.head_dim,
    *window,
    config.norm_eps,
  )

  def run(
    q: Array, k: Array, v: Array, q_gain: Array, k_gain: Array, o: Array
  ) -> Array:
    q, k, v = (w.reshape(w.shape[0], -1) for w in (q, k, v))
    o, q_gain = o.reshape(-1, o.shape[2]), q_gain * config.head_dim**-0.5
    weights = attention.Weights(before, q, k, v, q_gain, k_gain, o, after)
    return attention.add_attention(core, x, weights, segment_ids, rotary)

  return run


def fused_mlp(
  config: ModelConfig,
  x: Float[Array, "R L D"],
  before: Float[Array, "D"],
  after: Float[Array, "D"],
) -> Callable[..., Array]:
  """Prepare the fused kernel for the MLP half of a block.

  Returns a function of the MLP weights (gate, up, down) that gives x plus the
  normalised MLP output. `before` and `after` are the gains of the norms around
  it. Raises BadInput for a number of positions that the kernel rejects.
  """
  from embeddinggemma.model.kernels import mlp

  flat = x.reshape(-1, x.shape[2])
  check_positions(config, flat.shape[0])

  def run(gate: Array, up: Array, down: Array) -> Array:
    weights = mlp.Weights(before, gate, up, down, after)
    return mlp.add_mlp(config.norm_eps, flat, weights).reshape(x.shape)

  return run
