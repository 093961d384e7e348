"""Floating-point operations that a step needs: the formula behind the MFU.

Matrix products alone, 2 a multiplication and addition; a step costs three
times its forward pass, as if every parameter learned. A text of n tokens costs

  n x 2 x (q + k + v + o + gate + up + down)   in each layer
  4 x heads x head_dim x (pairs of positions that see each other)

where attention to both sides counts in full (n^2, or what the window of a
local layer lets through) and causal attention by half. Then the head of an
embedder, 2 x (width x up + up x embedding) a text, or the words of a language
model, 2 x width x words a target token; and for pairs, each query against each
positive of the global batch at every Matryoshka dimension. Padding, norms,
softmax, lookups and the optimizer count nothing.
"""

from embeddinggemma.losses import matryoshka
from embeddinggemma.model import decoder, encoder
from embeddinggemma.model.config import MERGED, ModelConfig
from embeddinggemma.model.layers import Reach
from embeddinggemma.training.config import AdaptConfig, PairConfig, TrainConfig

_BACKWARD = 3  # a forward pass, and twice that for the gradients


def of_step(config: TrainConfig) -> float:
  """Of one step over the whole mesh, each text of max_length tokens."""
  n, size = config.max_length, config.batch_size
  if isinstance(config, AdaptConfig):
    forward = size * _denoise(config, n)
  elif isinstance(config, PairConfig):
    texts = size * (2 + config.negatives)
    forward = texts * _embed(config.model, n) + _compare(config)
  else:
    model = config.model
    own = _stack(model, n, decoder.reach)
    forward = size * (own + _words(model, n))
  return float(_BACKWARD * forward)


def pairs_seen(n: int, reach: Reach) -> int:
  """Pairs (query, key) of a text of n tokens that attention joins."""
  back = n - 1 if reach.left is None else min(reach.left, n - 1)
  ahead = n - 1 if reach.right is None else min(reach.right, n - 1)
  # Each distance d joins n - d pairs.
  joined = lambda far: far * n - far * (far + 1) // 2
  return n + joined(back) + joined(ahead)


def _stack(model: ModelConfig, n: int, reach_of) -> int:
  """The layers of one side for a text of n tokens."""
  heads = model.num_heads * model.head_dim
  keys = model.num_kv_heads * model.head_dim
  weights = model.width * (2 * heads + 2 * keys + 3 * model.mlp_width)
  seen = sum(
    pairs_seen(n, reach_of(model, model.attention_kind(i)))
    for i in range(model.num_layers)
  )
  return 2 * n * weights * model.num_layers + 4 * heads * seen


def _embed(model: ModelConfig, n: int) -> int:
  head = 2 * model.up_width * (model.width + model.embed_dim)
  return _stack(model, n, encoder.reach) + head


def _words(model: ModelConfig, n: int) -> int:
  return 2 * n * model.width * model.vocab_size


def _denoise(config: AdaptConfig, n: int) -> int:
  """Both sides, and what the decoder reads of the encoder."""
  model = config.decoder
  heads = model.num_heads * model.head_dim
  keys = model.num_kv_heads * model.head_dim
  read = 4 * heads * n * n + 2 * n * config.model.width * 2 * keys
  if config.cross_attention != MERGED:  # queries and output of its own
    read += 2 * n * model.width * 2 * heads
  return (
    _stack(config.model, n, encoder.reach)
    + _stack(model, n, decoder.reach)
    + model.num_layers * read
    + _words(model, n)
  )


def _compare(config: PairConfig) -> int:
  dims = config.loss.matryoshka or matryoshka.dims_of(config.model.embed_dim)
  others = config.batch_size + config.negatives
  return 2 * config.batch_size * others * sum(dims)
