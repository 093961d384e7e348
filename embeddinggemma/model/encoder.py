"""The bidirectional Gemma 3 encoder M_n of the paper's section 2.1."""

import flax.linen as nn
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from embeddinggemma.model import layers
from embeddinggemma.model.config import ModelConfig


class Encoder(nn.Module):
  """Token vectors of packed texts: scaled embedding, blocks, final norm."""

  config: ModelConfig

  @nn.compact
  def __call__(
    self, ids: Int[Array, "R L"], slot: Int[Array, "R L"]
  ) -> Float[Array, "R L D"]:
    c = self.config
    init = nn.initializers.normal(c.width**-0.5)
    table = self.param("embedding", init, (c.vocab_size, c.width))
    # Ids are checked where texts become ids; XLA clips what it gathers.
    x = jnp.take(table, ids, axis=0, mode="clip").astype(c.dtype)
    x = x * jnp.asarray(c.width**0.5, x.dtype)
    for i in range(c.num_layers):
      x = layers.Block(c, c.attention_kind(i), name=f"layer_{i}")(x, slot)
    return layers.RMSNorm(c.norm_eps, name="final_norm")(x)
