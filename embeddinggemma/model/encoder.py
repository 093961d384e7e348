"""The bidirectional Gemma 3 encoder M_n of the paper's section 2.1."""

import flax.linen as nn
from jaxtyping import Array, Float, Int

from embeddinggemma.model import layers
from embeddinggemma.model.config import LOCAL, WINDOW_RULES, ModelConfig
from embeddinggemma.model.layers import Reach


class Encoder(nn.Module):
  """Token vectors of packed texts: scaled embedding, blocks, final norm.

  `embedded` is what the table has for the ids, if that is known already.
  """

  config: ModelConfig

  @nn.compact
  def __call__(
    self,
    ids: Int[Array, "R L"],
    slot: Int[Array, "R L"],
    embedded: Float[Array, "R L D"] | None = None,
  ) -> Float[Array, "R L D"]:
    c = self.config
    init = nn.initializers.normal(c.width**-0.5)
    table = self.param("embedding", init, (c.vocab_size, c.width))
    if embedded is None:
      embedded = layers.embed(table, ids, c.dtype)
    return layers.stack(c, embedded, slot, reach)


def reach(config: ModelConfig, kind: str) -> Reach:
  """Both ways: in a local layer by the window's rule, else everything."""
  if kind == LOCAL:
    return Reach(*WINDOW_RULES[config.window_rule](config.window))
  return Reach(None, None)
