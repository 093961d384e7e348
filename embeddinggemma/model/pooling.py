"""Poolers P: token vectors of packed texts -> one vector a text.

The paper pools by the mean over everything, prompt, BOS and EOS included
(section 2.1); first, last and attention are its ablation (Table 4).
"""

import flax.linen as nn
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int


def one_hot(slot: Int[Array, "R L"], num_texts: int) -> Float[Array, "R L b"]:
  """Membership of each position; positions of no text (slot b) have none."""
  return jax.nn.one_hot(slot, num_texts, dtype=jnp.float32)


def _gather(
  weights: Float[Array, "R L b"], tokens: Float[Array, "R L D"]
) -> Float[Array, "b D"]:
  return jnp.einsum(
    "rlb,rld->bd", weights, tokens, preferred_element_type=jnp.float32
  )


def mean(
  tokens: Float[Array, "R L D"], slot: Int[Array, "R L"], num_texts: int
) -> Float[Array, "b D"]:
  """The mean of a text's tokens; zero for a text of none."""
  member = one_hot(slot, num_texts)
  count = jnp.sum(member, axis=(0, 1))[:, None]
  return _gather(member, tokens) / jnp.maximum(count, 1.0)


def first(
  tokens: Float[Array, "R L D"], slot: Int[Array, "R L"], num_texts: int
) -> Float[Array, "b D"]:
  """The vector of a text's first token (BOS)."""
  starts = jnp.pad(
    slot[:, 1:] != slot[:, :-1], ((0, 0), (1, 0)), constant_values=True
  )
  return _gather(one_hot(slot, num_texts) * starts[..., None], tokens)


def last(
  tokens: Float[Array, "R L D"], slot: Int[Array, "R L"], num_texts: int
) -> Float[Array, "b D"]:
  """The vector of a text's last token (EOS)."""
  ends = jnp.pad(
    slot[:, 1:] != slot[:, :-1], ((0, 0), (0, 1)), constant_values=True
  )
  return _gather(one_hot(slot, num_texts) * ends[..., None], tokens)


class AttentionPooling(nn.Module):
  """softmax(Q K' / sqrt(D)) V with one learnt query, in several heads.

  The paper gives the formula, Q in R^(1 x D) and four heads; keys and values
  as learnt bias-free projections of the tokens are our reading.
  """

  heads: int

  @nn.compact
  def __call__(
    self, tokens: Float[Array, "R L D"], slot: Int[Array, "R L"], num_texts: int
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
    mass = jnp.exp(score - _top(jax.lax.stop_gradient(score), slot, num_texts))
    member = one_hot(slot, num_texts)
    total = jnp.einsum("rlb,rlh->bh", member, mass)[..., None]
    mixed = jnp.einsum(
      "rlb,rlh,rlhe->bhe", member, mass, value.astype(jnp.float32)
    )
    return (mixed / jnp.maximum(total, 1e-30)).reshape(num_texts, width)


def _top(
  score: Float[Array, "R L H"], slot: Int[Array, "R L"], num_texts: int
) -> Float[Array, "R L H"]:
  """The largest score of each position's text, for a softmax over the text.

  One maximum for all texts would let a large one push its neighbours to 0.
  """
  flat = score.reshape(-1, score.shape[-1])
  top = jax.ops.segment_max(flat, slot.reshape(-1), num_texts + 1)
  return top[slot]


POOLERS = {"mean": mean, "first": first, "last": last}
