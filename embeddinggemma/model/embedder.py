"""The embedding model E(T) = f(g(P(M_n(T)))), paper section 2.1.

M_n is the encoder, P the pooling; g: D -> U and f: U -> M are linear maps
without bias or activation. The result is L2-normalised.
"""

import functools
from collections.abc import Callable
from typing import Any, cast

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int

from embeddinggemma import types
from embeddinggemma.model import layers, pooling
from embeddinggemma.model.config import ModelConfig
from embeddinggemma.model.encoder import Encoder

EncodeGroup = Callable[
  ..., Array
]  # (params, ids, segment_ids, valid) -> (b, M)


class Embedder(layers.Products):
  """Encodes the packed texts of one group as unit vectors (b, M) in float32.

  `ids` and `segment_ids` (R, L) hold b texts in R rows; `valid` (b,) is False
  where a place has no text. `embedded` replaces the lookup of `ids`.
  """

  config: ModelConfig

  @nn.compact
  def __call__(
    self,
    ids: Int[Array, "R L"],
    segment_ids: Int[Array, "R L"],
    valid: Bool[Array, "b"],
    embedded: Float[Array, "R L D"] | None = None,
  ) -> Float[Array, "b M"]:
    c = self.config
    tokens = Encoder(c, name="encoder")(ids, segment_ids, embedded)
    pool = pooling.POOLINGS[c.pooling].make(c)
    pooled = pool(tokens, segment_ids, valid.shape[0])
    up = self.param("up", up_init(c), (c.width, c.up_width))
    down = self.param("down", down_init(c), (c.up_width, c.embed_dim))
    dtype = tokens.dtype
    wide = self.reads("up", pooled.astype(dtype)) @ up.astype(dtype)
    vector = self.reads("down", wide) @ down.astype(dtype)
    return unit_or_constant(vector.astype(jnp.float32), valid)


def unit_or_constant(
  vector: Float[Array, "b M"], valid: Bool[Array, "b"]
) -> Float[Array, "b M"]:
  """Vectors of unit norm; a place without text gets (1, 0, ...).

  The constant is put in before the norm: the derivative of a norm at zero is
  NaN and would reach every gradient even through a later mask. A *valid* zero
  vector does give NaN, since it is a fault that must be seen.
  """
  constant = jnp.zeros_like(vector).at[:, 0].set(1.0)
  vector = jnp.where(valid[:, None], vector, constant)
  return vector / jnp.linalg.norm(vector, axis=-1, keepdims=True)


def up_init(config: ModelConfig) -> Callable[..., Array]:
  """The initialiser of g: random, or the identity beside random columns."""
  random = nn.initializers.lecun_normal()
  if config.projection_init == "random":
    return random

  def identity(
    key: Array, shape: tuple[int, int], dtype: Any = jnp.float32
  ) -> Array:
    d, u = shape
    return (
      random(key, shape, dtype).at[:, : min(d, u)].set(jnp.eye(d, u)[:, :d])
    )

  return identity


def down_init(config: ModelConfig) -> Callable[..., Array]:
  """The initialiser of f: random, or the identity without the last input.

  That is the spare dimension of a latent semantic table: `data/lsa.py` keeps a
  piece's rarity as the angle towards it, and dropping it here turns the angle
  into the piece's weight in the mean.
  """
  if config.projection_init == "random":
    return nn.initializers.lecun_normal()

  def identity(
    key: Array, shape: tuple[int, int], dtype: Any = jnp.float32
  ) -> Array:
    del key
    kept = jnp.arange(shape[0]) < config.width - 1
    return jnp.eye(*shape, dtype=dtype) * kept[:, None]

  return identity


@functools.cache
def init(config: ModelConfig) -> Callable[[types.Key], types.Params]:
  """A compiled function key -> {"model": parameters in float32, "aux": {}}."""

  def initialise(key: types.Key) -> types.Params:
    ids, valid = jnp.zeros((1, 8), jnp.int32), jnp.ones((1,), bool)
    return {
      "model": Embedder(config.portable).init(key, ids, ids, valid)["params"],
      "aux": {},
    }

  return jax.jit(initialise)


def encode_group(config: ModelConfig) -> EncodeGroup:
  """A function that encodes one group of packed texts.

  (params, ids, segment_ids, valid) -> unit vectors (b, M).
  """
  module = Embedder(config)

  def encode(
    params: types.Params,
    ids: Int[Array, "R L"],
    segment_ids: Int[Array, "R L"],
    valid: Bool[Array, "b"],
  ) -> Float[Array, "b M"]:
    variables = {"params": params["model"]}
    return cast(Array, module.apply(variables, ids, segment_ids, valid))

  return encode


def encode_sides(config: ModelConfig) -> Callable[..., tuple[Array, ...]]:
  """A function that encodes several sides of one group, such as queries.

  (params, sides) -> the unit vectors (b, M) of each. It equals `encode_group`
  on each side, but looks all token ids up at once: the table's gradient is then
  one array into which all are scattered, not one per side and their sum, which
  at 262,144 entries would be a twentieth of a step.
  """
  module = Embedder(config)

  # Of one group, so that a Text's arrays lack their first axis.
  def encode(params: types.Params, *sides: Any) -> tuple[Array, ...]:
    model = params["model"]
    ids = jnp.concatenate([jnp.reshape(side.ids, -1) for side in sides])
    found = layers.embed(model["encoder"]["embedding"], ids[None], config.dtype)
    ends = np.cumsum([side.ids.size for side in sides])[:-1]
    parts = jnp.split(found[0], ends.tolist())
    shaped = [x.reshape(*side.ids.shape, -1) for x, side in zip(parts, sides)]
    return tuple(
      cast(Array, module.apply({"params": model}, *side, x))
      for side, x in zip(sides, shaped)
    )

  return encode


def num_parameters(config: ModelConfig) -> int:
  """The number of parameters, found without allocating any."""
  shapes = jax.eval_shape(init(config), jax.random.key(0))
  return sum(leaf.size for leaf in jax.tree.leaves(shapes["model"]))
