"""AdamW with warm-up and cosine decay. The paper publishes none of its values."""

from collections.abc import Callable

import jax
import jax.numpy as jnp
import optax

from embeddinggemma import sharding
from embeddinggemma.config import OptimizerConfig


def schedule(config: OptimizerConfig, steps: int) -> optax.Schedule:
  """Step -> learning rate: linear warm-up, then cosine to `end_factor` * lr."""
  warmup = min(config.warmup_steps, max(steps - 1, 0))
  return optax.warmup_cosine_decay_schedule(
    init_value=0.0 if warmup else config.lr,
    peak_value=config.lr,
    warmup_steps=warmup,
    decay_steps=steps,
    end_value=config.lr * config.end_factor,
  )


def adamw(config: OptimizerConfig, steps: int) -> optax.GradientTransformation:
  """AdamW after clipping by the global norm; norms have no weight decay."""
  return optax.chain(
    optax.clip_by_global_norm(config.clip_norm),
    optax.adamw(
      schedule(config, steps),
      b1=config.b1,
      b2=config.b2,
      eps=config.eps,
      weight_decay=config.weight_decay,
      mask=_matrices,
    ),
  )


def hold(
  optimizer: optax.GradientTransformation,
  steps: int,
  moving: Callable[[str], bool],
) -> optax.GradientTransformation:
  """Freeze all but the `moving` parameters for the first `steps` updates.

  `moving` decides by the path of a parameter. The moments of the frozen ones
  are collected from the start.
  """

  def held(params: optax.Params) -> optax.Params:
    return jax.tree_util.tree_map_with_path(
      lambda path, _: not moving(sharding.path_name(path)), params
    )

  released = optax.scale_by_schedule(
    lambda count: jnp.where(jnp.less(count, steps), 0.0, 1.0)
  )
  return optax.chain(optimizer, optax.masked(released, held))


def _matrices(params: optax.Params) -> optax.Params:
  return jax.tree.map(lambda leaf: leaf.ndim > 1, params)
