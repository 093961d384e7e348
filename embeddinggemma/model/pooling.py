"""Poolings P: the token vectors of packed texts -> one vector per text.

The paper pools by the mean over all tokens, with prompt, BOS and EOS (section
2.1); first, last and attention pooling are its ablation (table 4). POOLINGS is
the table of all, from which the config, the embedder, the doctor, and the
readers and writers of other formats look a pooling up by name.

A pooling takes tokens (R, L, D), segment ids (R, L), which give each position's
text from 0 to b - 1 (padding has b), and the number b of texts.
"""

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int

from embeddinggemma.config import divides

NAME = "pooling"  # key of a pooling's weights in the model's parameters

# (tokens (R, L, D), segment ids (R, L), number of texts b) -> (b, D)
Pool = Callable[[Any, Any, int], Array]
Plain = Callable[[np.ndarray], np.ndarray]


class Pooling(NamedTuple):
  """A way to make one vector from a text's token vectors."""

  # config -> the pooling: a function or, with weights, a module named NAME,
  # whose parameters train like any other.
  make: Callable[[Any], Pool]
  # The same for one text in NumPy, (n, D) -> (D,), with which the doctor
  # compares. None for a module, whose result the doctor takes as it is.
  plain: Plain | None
  # Format -> its names of this pooling, the one to write first. Formats that
  # are not here do not support it.
  theirs: Mapping[str, tuple[str, ...]] = {}
  # Raises BadInput for a config that it does not fit.
  check: Callable[[Any], None] = lambda config: None


def one_hot(
  segment_ids: Int[Array, "R L"], num_texts: int
) -> Float[Array, "R L b"]:
  """1 where a position belongs to a text; padding (segment b) is all 0."""
  return jax.nn.one_hot(segment_ids, num_texts, dtype=jnp.float32)


def _gather(
  weights: Float[Array, "R L b"], tokens: Float[Array, "R L D"]
) -> Float[Array, "b D"]:
  return jnp.einsum(
    "rlb,rld->bd", weights, tokens, preferred_element_type=jnp.float32
  )


def mean(
  tokens: Float[Array, "R L D"], segment_ids: Int[Array, "R L"], num_texts: int
) -> Float[Array, "b D"]:
  """The mean of a text's token vectors; zero for a text without tokens."""
  member = one_hot(segment_ids, num_texts)
  count = jnp.sum(member, axis=(0, 1))[:, None]
  return _gather(member, tokens) / jnp.maximum(count, 1.0)


def first(
  tokens: Float[Array, "R L D"], segment_ids: Int[Array, "R L"], num_texts: int
) -> Float[Array, "b D"]:
  """The vector of a text's first token (BOS)."""
  starts = jnp.pad(
    segment_ids[:, 1:] != segment_ids[:, :-1],
    ((0, 0), (1, 0)),
    constant_values=True,
  )
  return _gather(one_hot(segment_ids, num_texts) * starts[..., None], tokens)


def last(
  tokens: Float[Array, "R L D"], segment_ids: Int[Array, "R L"], num_texts: int
) -> Float[Array, "b D"]:
  """The vector of a text's last token (EOS)."""
  ends = jnp.pad(
    segment_ids[:, 1:] != segment_ids[:, :-1],
    ((0, 0), (0, 1)),
    constant_values=True,
  )
  return _gather(one_hot(segment_ids, num_texts) * ends[..., None], tokens)


class AttentionPooling(nn.Module):
  """softmax(Q K' / sqrt(D)) V with one learnt query, in several heads.

  The paper gives this formula, Q in R^(1 x D) and four heads; that keys and
  values are learnt, bias-free projections of the tokens is our reading.
  """

  heads: int

  @nn.compact
  def __call__(
    self,
    tokens: Float[Array, "R L D"],
    segment_ids: Int[Array, "R L"],
    num_texts: int,
  ) -> Float[Array, "b D"]:
    width = tokens.shape[-1]
    split = (self.heads, width // self.heads)
    init = nn.initializers.lecun_normal(in_axis=0, out_axis=(1, 2))
    query = self.param("query", nn.initializers.normal(1.0), split)
    w_k = self.param("k", init, (width, *split))
    w_v = self.param("v", init, (width, *split))
    key = jnp.einsum("rld,dhe->rlhe", tokens, w_k.astype(tokens.dtype))
    value = jnp.einsum("rld,dhe->rlhe", tokens, w_v.astype(tokens.dtype))
    score = jnp.einsum("rlhe,he->rlh", key.astype(jnp.float32), query)
    score = score * width**-0.5
    mass = jnp.exp(
      score - _top(jax.lax.stop_gradient(score), segment_ids, num_texts)
    )
    member = one_hot(segment_ids, num_texts)
    total = jnp.einsum("rlb,rlh->bh", member, mass)[..., None]
    mixed = jnp.einsum(
      "rlb,rlh,rlhe->bhe", member, mass, value.astype(jnp.float32)
    )
    return (mixed / jnp.maximum(total, 1e-30)).reshape(num_texts, width)


def _top(
  score: Float[Array, "R L H"], segment_ids: Int[Array, "R L"], num_texts: int
) -> Float[Array, "R L H"]:
  """The largest score of each position's text, for a softmax over the text.

  One maximum for all texts would let a large one push its neighbours to 0.
  """
  flat = score.reshape(-1, score.shape[-1])
  top = jax.ops.segment_max(flat, segment_ids.reshape(-1), num_texts + 1)
  return top[segment_ids]


def check_heads(config: Any) -> None:
  """Raise BadInput if the width does not divide into the heads."""
  divides(
    "model.pooling_heads", config.pooling_heads, "model.width", config.width
  )


POOLINGS: dict[str, Pooling] = {
  "mean": Pooling(
    lambda config: mean,
    lambda tokens: tokens.mean(axis=0),
    {"sentence-transformers": ("mean_tokens", "mean"), "gguf": ("MEAN",)},
  ),
  "attention": Pooling(
    lambda config: AttentionPooling(config.pooling_heads, name=NAME),
    None,
    check=check_heads,
  ),
  "first": Pooling(lambda config: first, lambda tokens: tokens[0]),
  "last": Pooling(lambda config: last, lambda tokens: tokens[-1]),
}


def held_by(form: str) -> dict[str, str]:
  """A format's name of each pooling that it supports -> our name of it."""
  return {
    theirs: ours
    for ours, pooling in POOLINGS.items()
    for theirs in pooling.theirs.get(form, ())
  }


def theirs(form: str, name: str) -> str:
  """The name under which a format that supports a pooling writes it."""
  return POOLINGS[name].theirs[form][0]


def all_held_by(form: str) -> str:
  """Our names of the poolings that a format supports, for a message."""
  return " or the ".join(dict.fromkeys(held_by(form).values()))
