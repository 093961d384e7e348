"""Causal Gemma decoders, alone or reading an encoder (paper section 2.1).

An encoder-decoder is T5Gemma's (arXiv 2504.06225), with cross-attention as a
part of each block, or T5Gemma 2's (arXiv 2512.14856), whose decoder's own
attention also reads the encoder. A text keeps its row and its slot in both, so
packed texts stay apart. Logits over words are `hidden @ table.T`.
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
from embeddinggemma.model.layers import Reach, Source

# (params, ids, slot) or (params, input ids, input slot, target ids, target
# slot) of one group -> the final vectors (R, L, D) and the table (V, D).
DecodeGroup = Callable[..., tuple[Array, Array]]


class Decoder(nn.Module):
  """Vectors that see what precedes them; without a table, it has its own.

  Of `encoded`, a position sees its row's positions of the same slot. A slot of
  which `encoded` has none sees the whole row: give each text an input.
  """

  config: ModelConfig
  cross_attention: str = SEPARATE  # how `encoded`, if given, is read

  @nn.compact
  def __call__(
    self,
    ids: Int[Array, "R L"],
    slot: Int[Array, "R L"],
    table: Float[Array, "V D"] | None = None,
    encoded: Float[Array, "R S W"] | None = None,
    encoded_slot: Int[Array, "R S"] | None = None,
  ) -> Float[Array, "R L D"]:
    c = self.config
    if table is None:
      init = nn.initializers.normal(c.width**-0.5)
      table = self.param("embedding", init, (c.vocab_size, c.width))
    x, read = layers.embed(table, ids, c.dtype), ()
    if encoded is not None and encoded_slot is not None:
      mask = layers.same_text(slot, encoded_slot)
      read = (Source(encoded.astype(x.dtype), mask, None),)
    merged = self.cross_attention == MERGED
    beside, across = (read, ()) if merged else ((), read)
    return layers.stack(c, x, slot, reach, beside, across)


def reach(config: ModelConfig, kind: str) -> Reach:
  """Nothing after; in a local layer `window` positions, its own included."""
  return Reach(config.window - 1 if kind == LOCAL else None, 0)


@functools.cache
def init_causal(config: ModelConfig) -> Callable[[types.Key], types.Params]:
  """key -> {"model": {"decoder": ...}, "aux": {}}; compiled once a config."""

  def initialise(key: types.Key) -> types.Params:
    ids = jnp.zeros((1, 8), jnp.int32)
    decoder = Decoder(config.portable).init(key, ids, ids)["params"]
    return {"model": {"decoder": decoder}, "aux": {}}

  return jax.jit(initialise)


def causal_group(config: ModelConfig) -> DecodeGroup:
  """(params, ids, slot) -> vectors and the table that they are compared to."""
  module = Decoder(config)

  def decode(
    params: types.Params, ids: Int[Array, "R L"], slot: Int[Array, "R L"]
  ) -> tuple[Float[Array, "R L D"], Float[Array, "V D"]]:
    model = params["model"]["decoder"]
    hidden = module.apply({"params": model}, ids, slot)
    return cast(Array, hidden), model["embedding"]

  return decode


@functools.cache
def init_encoder_decoder(
  config: EncoderDecoderConfig,
) -> Callable[[types.Key], types.Params]:
  """key -> {"model": {"encoder": ..., "decoder": ...}, "aux": {}}.

  Tied, the decoder has no table.
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
  """(params, ids and slot of inputs, then of targets) -> vectors and table."""
  encoder, decoder = Encoder(config.encoder), _decoder(config)

  def decode(
    params: types.Params,
    input_ids: Int[Array, "R S"],
    input_slot: Int[Array, "R S"],
    target_ids: Int[Array, "R L"],
    target_slot: Int[Array, "R L"],
  ) -> tuple[Float[Array, "R L D"], Float[Array, "V D"]]:
    model = params["model"]
    encoded = encoder.apply({"params": model["encoder"]}, input_ids, input_slot)
    table = model["encoder" if config.tied else "decoder"]["embedding"]
    hidden = decoder.apply(
      {"params": model["decoder"]},
      target_ids,
      target_slot,
      table if config.tied else None,
      encoded,
      input_slot,
    )
    return cast(Array, hidden), table

  return decode


def _decoder(config: EncoderDecoderConfig) -> Decoder:
  return Decoder(config.decoder, config.cross_attention)
