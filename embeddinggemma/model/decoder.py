"""Causal Gemma decoders, alone or reading an encoder (paper section 2.1).

An encoder-decoder is that of T5Gemma (arXiv 2504.06225), in which each block
has a cross-attention of its own, or that of T5Gemma 2 (arXiv 2512.14856), in
which the decoder's self-attention also reads the encoder. A text has the same
row and the same segment id on both sides, so packed texts stay apart. Logits
over the vocabulary are `hidden @ table.T`.
"""

import functools
from collections.abc import Callable
from typing import cast

import flax.linen as nn
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from embeddinggemma import types
from embeddinggemma.model import layers
from embeddinggemma.model.config import (
  LOCAL,
  MERGED,
  SEPARATE,
  EncoderDecoderConfig,
  ModelConfig,
)
from embeddinggemma.model.encoder import Encoder
from embeddinggemma.model.layers import Source, Window

# For one group of rows: (params, ids, segment ids), or with an encoder (params,
# input ids, input segment ids, target ids, target segment ids) -> the final
# hidden states (R, L, D) and the embedding table (V, D).
DecodeGroup = Callable[..., tuple[Array, Array]]


class Decoder(nn.Module):
  """Hidden states of packed texts, each position attending to those before it.

  Without a `table` argument the decoder has an embedding table of its own. A
  position attends to the positions of `encoded` in its row that have its
  segment id. Where `encoded` has none of that segment id the position attends
  to the whole row, so each text needs an input.
  """

  config: ModelConfig
  cross_attention: str = SEPARATE  # or MERGED: how the decoder reads `encoded`

  @nn.compact
  def __call__(
    self,
    ids: Int[Array, "R L"],
    segment_ids: Int[Array, "R L"],
    table: Float[Array, "V D"] | None = None,
    encoded: Float[Array, "R S W"] | None = None,
    encoded_segments: Int[Array, "R S"] | None = None,
  ) -> Float[Array, "R L D"]:
    c = self.config
    if table is None:
      init = nn.initializers.normal(c.width**-0.5)
      table = self.param("embedding", init, (c.vocab_size, c.width))
    x, read = layers.embed(table, ids, c.dtype), ()
    if encoded is not None and encoded_segments is not None:
      mask = layers.same_text(segment_ids, encoded_segments)
      read = (Source(encoded.astype(x.dtype), mask, None),)
    merged = self.cross_attention == MERGED
    beside, across = (read, ()) if merged else ((), read)
    return layers.stack(c, x, segment_ids, window, beside, across)


def window(config: ModelConfig, kind: str) -> Window:
  """The attention window of a layer: causal, and `window` positions if local.

  The window of a local layer includes the position itself.
  """
  return Window(config.window - 1 if kind == LOCAL else None, 0)


@functools.cache
def init_causal(config: ModelConfig) -> Callable[[types.Key], types.Params]:
  """A jitted function key -> {"model": {"decoder": ...}, "aux": {}}."""

  def initialise(key: types.Key) -> types.Params:
    ids = jnp.zeros((1, 8), jnp.int32)
    decoder = Decoder(config.portable).init(key, ids, ids)["params"]
    return {"model": {"decoder": decoder}, "aux": {}}

  return jax.jit(initialise)


def causal_group(config: ModelConfig) -> DecodeGroup:
  """A function (params, ids, segment ids) -> (hidden states, table)."""
  module = Decoder(config)

  def decode(
    params: types.Params, ids: Int[Array, "R L"], segment_ids: Int[Array, "R L"]
  ) -> tuple[Float[Array, "R L D"], Float[Array, "V D"]]:
    model = params["model"]["decoder"]
    hidden = module.apply({"params": model}, ids, segment_ids)
    return cast(Array, hidden), model["embedding"]

  return decode


@functools.cache
def init_encoder_decoder(
  config: EncoderDecoderConfig,
) -> Callable[[types.Key], types.Params]:
  """A function key -> {"model": {"encoder": ..., "decoder": ...}, "aux": {}}.

  With tied embeddings the decoder has no table.
  """

  def initialise(key: types.Key) -> types.Params:
    keys, ids = jax.random.split(key), jnp.zeros((1, 8), jnp.int32)
    encoded = jnp.zeros((1, 8, config.encoder.width))
    encoder = Encoder(config.encoder.portable).init(keys[0], ids, ids)["params"]
    table = encoder["embedding"] if config.tied else None
    portable = config.decoder.portable
    decoder = Decoder(portable, config.cross_attention).init(
      keys[1], ids, ids, table, encoded, ids
    )
    model = {"encoder": encoder, "decoder": decoder["params"]}
    return {"model": model, "aux": {}}

  return jax.jit(initialise)


def encoder_decoder_group(config: EncoderDecoderConfig) -> DecodeGroup:
  """A function from inputs and targets to the decoder's states and the table.

  It takes (params, input ids, input segment ids, target ids, target segment
  ids) of one group of rows.
  """
  encoder, decoder = Encoder(config.encoder), _decoder(config)

  def decode(
    params: types.Params,
    input_ids: Int[Array, "R S"],
    input_segments: Int[Array, "R S"],
    target_ids: Int[Array, "R L"],
    target_segments: Int[Array, "R L"],
  ) -> tuple[Float[Array, "R L D"], Float[Array, "V D"]]:
    model = params["model"]
    encoded = encoder.apply(
      {"params": model["encoder"]}, input_ids, input_segments
    )
    table = model["encoder" if config.tied else "decoder"]["embedding"]
    hidden = decoder.apply(
      {"params": model["decoder"]},
      target_ids,
      target_segments,
      table if config.tied else None,
      encoded,
      input_segments,
    )
    return cast(Array, hidden), table

  return decode


def _decoder(config: EncoderDecoderConfig) -> Decoder:
  return Decoder(config.decoder, config.cross_attention)
