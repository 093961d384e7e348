"""Floating-point operations of a forward pass over a text of n tokens.

Only matrix products count, at 2 operations for a multiplication and addition. A
text costs

  n x 2 x (q + k + v + o + gate + up + down)   in each layer
  4 x heads x head_dim x (pairs of positions that attend to each other)

Bidirectional attention has n^2 such pairs, or those that the window of a local
layer admits; causal attention has about half. The head of an embedder adds 2 x
(width x up + up x embedding) a text, the logits of a language model 2 x width x
vocabulary a target token. Padding, norms, softmax and lookups count as nothing.
"""

from embeddinggemma.model import decoder as decoder_lib
from embeddinggemma.model import encoder
from embeddinggemma.model.config import (
  MERGED,
  EncoderDecoderConfig,
  ModelConfig,
)
from embeddinggemma.model.layers import Window


def pairs_seen(n: int, window: Window) -> int:
  """Number of (query, key) pairs inside an attention window, for n tokens."""
  back = n - 1 if window.left is None else min(window.left, n - 1)
  ahead = n - 1 if window.right is None else min(window.right, n - 1)
  # Each distance d joins n - d pairs.
  joined = lambda far: far * n - far * (far + 1) // 2
  return n + joined(back) + joined(ahead)


def _stack(model: ModelConfig, n: int, window_of) -> int:
  """Operations of all layers of an encoder or decoder on a text of n tokens."""
  heads = model.num_heads * model.head_dim
  keys = model.num_kv_heads * model.head_dim
  weights = model.width * (2 * heads + 2 * keys + 3 * model.mlp_width)
  seen = sum(
    pairs_seen(n, window_of(model, model.attention_kind(i)))
    for i in range(model.num_layers)
  )
  return 2 * n * weights * model.num_layers + 4 * heads * seen


def embedder(model: ModelConfig, n: int) -> int:
  """Operations of the encoder and its head on a text of n tokens."""
  head = 2 * model.up_width * (model.width + model.embed_dim)
  return _stack(model, n, encoder.window) + head


def _words(model: ModelConfig, n: int) -> int:
  return 2 * n * model.width * model.vocab_size


def decoder(model: ModelConfig, n: int) -> int:
  """Operations of a causal language model on a text of n tokens."""
  return _stack(model, n, decoder_lib.window) + _words(model, n)


def encoder_decoder(both: EncoderDecoderConfig, n: int) -> int:
  """Operations of an encoder-decoder with n tokens on each side.

  Includes the decoder's attention to the encoder.
  """
  model = both.decoder
  heads = model.num_heads * model.head_dim
  keys = model.num_kv_heads * model.head_dim
  read = 4 * heads * n * n + 2 * n * both.encoder.width * 2 * keys
  if both.cross_attention != MERGED:  # queries and output of its own
    read += 2 * n * model.width * 2 * heads
  return (
    _stack(both.encoder, n, encoder.window)
    + _stack(model, n, decoder_lib.window)
    + model.num_layers * read
    + _words(model, n)
  )
