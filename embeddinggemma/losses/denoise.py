"""Cross-entropy of the next token, for language models and denoising (UL2).

The paper's encoder comes from such a model (section 2.1; UL2, arXiv
2205.05131). Logits of all positions and words are never held at once.

Letters: R rows, L positions, N = R * L, D width, V words, b texts.
"""

import functools
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

_MASKED = -1e30  # finite, so that the first block gives no infinity - infinity


class _Sums(NamedTuple):
  """Running statistics of each position's logits, over the blocks so far."""

  top: Float[Array, "N"]  # largest logit
  mass: Float[Array, "N"]  # sum of exp(logit - top)
  label: Float[Array, "N"]  # the label's logit, 0 before its block
  rival: Float[Array, "N"]  # largest logit of a token that is not the label


def next_token(
  hidden: Float[Array, "R L D"],
  table: Float[Array, "V D"],
  ids: Int[Array, "R L"],
  segment_ids: Int[Array, "R L"],
  valid: Bool[Array, "b"],
  softcap: float,
  block: int,
) -> tuple[Float[Array, "b"], Int[Array, "b"], Int[Array, "b"]]:
  """For each text its summed loss, its number of tokens and of correct ones.

  The label of a position is the next token of the same text; the last position
  of a text and positions of no text have none. Logits are `hidden @ table.T`,
  accumulated in float32, and if softcap is not 0 limited by softcap * tanh(x /
  softcap).

  Args:
    hidden: final hidden states.
    table: the embedding table.
    ids: token ids.
    segment_ids: segment ids; b where there is no text.
    valid: False for places without a text.
    softcap: limit of the logits; 0 for none.
    block: tokens of the vocabulary whose logits are held at once, forward and
      backward. The loop is over the vocabulary and not over positions because
      the gradient of the table is then written block by block; otherwise it
      would be carried whole through the loop.
  """
  label, counts = _labels(ids, segment_ids, valid.shape[0])
  sums = _scan_words(
    hidden.reshape(-1, hidden.shape[-1]), table, label, softcap, block
  )
  loss = sums.top + jnp.log(sums.mass) - sums.label
  hit = jax.lax.stop_gradient(sums.label >= sums.rival)
  # Not a matrix product: a TPU would round its terms to bfloat16.
  place = jnp.arange(valid.shape[0])[None, :]
  member = segment_ids.reshape(-1, 1) == place
  member &= counts[:, None] & valid[None, :]
  per_text = lambda x: jnp.sum(jnp.where(member, x[:, None], 0), axis=0)
  return (
    per_text(loss),
    per_text(jnp.ones_like(label)),
    per_text(hit.astype(jnp.int32)),
  )


def _labels(
  ids: Int[Array, "R L"], segment_ids: Int[Array, "R L"], num_texts: int
) -> tuple[Int[Array, "N"], Bool[Array, "N"]]:
  """The next token of every position, and whether there is one."""
  after = lambda x, last: jnp.pad(
    x[:, 1:], ((0, 0), (0, 1)), constant_values=last
  )
  counts = (after(segment_ids, num_texts) == segment_ids) & (
    segment_ids < num_texts
  )
  return after(ids, 0).reshape(-1), counts.reshape(-1)


def _scan_words(
  hidden: Float[Array, "N D"],
  table: Float[Array, "V D"],
  label: Int[Array, "N"],
  softcap: float,
  block: int,
) -> _Sums:
  """One pass over the table in blocks of at most `block` rows."""
  words, width = table.shape
  count = _num_blocks(words, block)
  rows = -(-words // count)
  full = functools.partial(jnp.full, label.shape, dtype=jnp.float32)
  start = _Sums(full(_MASKED), full(0), full(0), full(_MASKED))
  add = functools.partial(
    _add_block, label=label, softcap=softcap, words=words, dtype=hidden.dtype
  )
  # The blocks' gradients of it are added up in float32.
  hidden = hidden.astype(jnp.float32)
  if count == 1:
    return add(hidden, start, (table, jnp.zeros((), jnp.int32)))
  if rows * count > words:
    table = jnp.pad(table, ((0, rows * count - words), (0, 0)))
  blocks = table.reshape(count, rows, width), jnp.arange(count) * rows
  step = jax.checkpoint(functools.partial(add, hidden), prevent_cse=False)
  return jax.lax.scan(lambda sums, x: (step(sums, x), None), start, blocks)[0]


def _num_blocks(words: int, block: int) -> int:
  """The least number of equal blocks that divide the vocabulary.

  Up to twice the number that is needed is tried. If none divides it, it is the
  number needed, and the last block is padded.
  """
  need = -(-words // block)
  return next((n for n in range(need, 2 * need + 1) if words % n == 0), need)


def _add_block(
  hidden: Float[Array, "N D"],
  sums: _Sums,
  rows: tuple[Float[Array, "v D"], Int[Array, ""]],
  label: Int[Array, "N"],
  softcap: float,
  words: int,
  dtype: jnp.dtype,
) -> _Sums:
  """Update the statistics with the logits of a block of the vocabulary."""
  part, first = rows
  logits = jnp.einsum(
    "nd,vd->nv",
    hidden.astype(dtype),
    part.astype(dtype),
    preferred_element_type=jnp.float32,
  )
  if softcap:
    logits = softcap * jnp.tanh(logits / softcap)
  word = first + jnp.arange(part.shape[0])[None, :]
  if words % part.shape[0]:
    logits = jnp.where(word < words, logits, _MASKED)
  is_label = word == label[:, None]
  here = jnp.sum(jnp.where(is_label, logits, 0), axis=1)
  fixed = jax.lax.stop_gradient(logits)
  rival = jnp.max(jnp.where(is_label, _MASKED, fixed), axis=1)
  rival = jnp.maximum(sums.rival, rival)
  # The sum below does not depend on what is taken off, so it has no gradient.
  top = jnp.maximum(sums.top, jnp.max(fixed, axis=1))
  mass = jnp.sum(jnp.exp(logits - top[:, None]), axis=1)
  mass += sums.mass * jnp.exp(sums.top - top)
  return _Sums(top, mass, sums.label + here, rival)
