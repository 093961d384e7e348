"""The bidirectional Gemma 3 encoder M_n of the paper's section 2.1."""

import flax.linen as nn
from jaxtyping import Array, Float, Int

from embeddinggemma.model import layers
from embeddinggemma.model.config import LOCAL, WINDOW_RULES, ModelConfig
from embeddinggemma.model.layers import Window


class Encoder(nn.Module):
  """Hidden states of packed texts: scaled embedding, blocks, final norm.

  `embedded`, if given, holds the embedding table's rows for the ids, so that
  they are not looked up again.
  """

  config: ModelConfig

  @nn.compact
  def __call__(
    self,
    ids: Int[Array, "R L"],
    segment_ids: Int[Array, "R L"],
    embedded: Float[Array, "R L D"] | None = None,
  ) -> Float[Array, "R L D"]:
    c = self.config
    init = nn.initializers.normal(c.width**-0.5)
    table = self.param("embedding", init, (c.vocab_size, c.width))
    if embedded is None:
      embedded = layers.embed(table, ids, c.dtype)
    return layers.stack(c, embedded, segment_ids, window)


def window(config: ModelConfig, kind: str) -> Window:
  """The attention window of a layer: bidirectional, and limited if local.

  `window_rule` of the config says how far a local layer sees to each side.
  """
  if kind == LOCAL:
    return Window(*WINDOW_RULES[config.window_rule](config.window))
  return Window(None, None)
