"""Blocked cross-entropy against numpy, and what its program holds at once."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from embeddinggemma import sharding
from embeddinggemma.losses import denoise

B = 5  # texts of a group; the third place is empty
SLOT = np.array(
  [
    [0, 0, 0, 0, 1, 1, 1, 5, 5, 5],
    [3, 5, 5, 5, 5, 5, 5, 5, 5, 5],
    [5, 5, 4, 4, 4, 4, 4, 4, 4, 4],
  ],
  np.int32,
)
VALID = np.array([True, True, False, True, True])
TOKENS = [3, 2, 0, 0, 7]


def example(words, width=8, seed=0, size=1.0):
  """Random vectors, a table, ids and segments; logits of about `size`."""
  rng = np.random.default_rng(seed)
  hidden = rng.normal(size=(*SLOT.shape, width)).astype(np.float32)
  table = rng.normal(size=(words, width)) * size / np.sqrt(width)
  ids = rng.integers(0, words, SLOT.shape, dtype=np.int32)
  return hidden, table.astype(np.float32), ids


def in_numpy(hidden, table, ids, softcap):
  """Sums of each text, and gradients of the whole sum, in float64."""
  h, t = hidden.astype(np.float64), table.astype(np.float64)
  loss, tokens, hits = np.zeros(B), np.zeros(B, int), np.zeros(B, int)
  d_hidden, d_table = np.zeros_like(h), np.zeros_like(t)
  for r, n in np.ndindex(SLOT.shape):
    s = SLOT[r, n]
    if s == B or n + 1 == SLOT.shape[1] or SLOT[r, n + 1] != s:
      continue
    logits, label = t @ h[r, n], ids[r, n + 1]
    slope = np.ones_like(logits)
    if softcap:
      slope = 1 - np.tanh(logits / softcap) ** 2
      logits = softcap * np.tanh(logits / softcap)
    mass = np.log(np.sum(np.exp(logits - logits.max()))) + logits.max()
    p = np.exp(logits - mass)
    loss[s] += mass - logits[label]
    tokens[s] += 1
    hits[s] += logits.argmax() == label
    d = (p - np.eye(len(p))[label]) * slope
    d_hidden[r, n] = d @ t
    d_table += d[:, None] * h[r, n]
  return (loss, tokens, hits), (d_hidden, d_table)


@functools.partial(jax.jit, static_argnames=("softcap", "block"))
def ours(hidden, table, ids, softcap, block):
  def total(hidden, table):
    sums = denoise.next_token(
      hidden, table, ids, jnp.asarray(SLOT), jnp.asarray(VALID), softcap, block
    )
    return sums[0].sum(), sums

  (_, sums), gradients = jax.value_and_grad(total, (0, 1), has_aux=True)(
    hidden, table
  )
  return sums, gradients


# Words and block: one block, even blocks, smaller even blocks (6 of 5 rows),
# and a prime, whose last block is filled up.
@pytest.mark.parametrize("softcap", [0.0, 2.0])
@pytest.mark.parametrize(
  "words, block", [(24, 24), (24, 999), (24, 8), (30, 7), (29, 8)]
)
def test_it_is_the_cross_entropy(words, block, softcap):
  data = example(words)
  (loss, tokens, hits), gradients = ours(*data, softcap, block)
  want, want_gradients = in_numpy(*data, softcap)
  np.testing.assert_allclose(loss, want[0], rtol=1e-5, atol=1e-6)
  np.testing.assert_array_equal(tokens, TOKENS)
  np.testing.assert_array_equal(hits, want[2])
  for got, gradient in zip(gradients, want_gradients):
    np.testing.assert_allclose(got, gradient, rtol=1e-5, atol=1e-5)


def test_labels_that_score_highest_are_hits():
  hidden, table, ids = example(29, width=29)
  table = np.eye(29, dtype=np.float32)
  hidden[:, :-1] = table[ids[:, 1:]]
  for block in (29, 8):
    (_, tokens, hits), _ = ours(hidden, table, ids, 0.0, block)
    np.testing.assert_array_equal(hits, TOKENS)
  hidden[0, 1] = table[(ids[0, 2] + 1) % 29]
  for block in (29, 8):
    (_, tokens, hits), _ = ours(hidden, table, ids, 0.0, block)
    np.testing.assert_array_equal(tokens - hits, [1, 0, 0, 0, 0])


@pytest.mark.parametrize(
  "words, block, count",
  [
    (16_384, 16_384, 1),
    (100, 1_000, 1),
    (262_144, 16_384, 16),
    (262_208, 16_384, 17),
    (256_000, 16_384, 16),
    (30, 8, 5),
    (26, 8, 4),  # 4 to 8 do not divide it
    (29, 8, 4),
  ],
)
def test_blocks_divide_the_words_where_they_can(words, block, count):
  got = denoise._num_blocks(words, block)
  assert got == count
  assert -(-words // got) <= block


@pytest.mark.parametrize("block", [29, 8])
def test_gradients_agree_with_differences(block):
  """Along a random direction, by what numpy says of the loss alone."""
  hidden, table, ids = example(29)
  _, gradients = ours(hidden, table, ids, 5.0, block)
  rng = np.random.default_rng(2)
  way = [rng.normal(size=x.shape) for x in (hidden, table)]
  at = lambda e: in_numpy(hidden + e * way[0], table + e * way[1], ids, 5.0)
  slope = (at(1e-5)[0][0].sum() - at(-1e-5)[0][0].sum()) / 2e-5
  got = sum(np.sum(g * w) for g, w in zip(gradients, way))
  assert abs(slope) > 1
  np.testing.assert_allclose(got, slope, rtol=1e-4)


def test_large_logits_stay_finite():
  data = example(29, size=1e4)
  (loss, _, _), gradients = ours(*data, 0.0, 8)
  np.testing.assert_allclose(loss, in_numpy(*data, 0.0)[0][0], rtol=1e-5)
  assert all(np.isfinite(g).all() for g in gradients)


def test_bfloat16_products_add_up_in_float32():
  hidden, table, ids = example(64, width=256)
  half = jnp.asarray(hidden, jnp.bfloat16)
  # What bfloat16 holds exactly, so that only the sums could lose.
  data = (
    np.asarray(half, np.float32),
    np.asarray(jnp.asarray(table, jnp.bfloat16), np.float32),
  )
  (loss, tokens, _), (d_hidden, d_table) = ours(half, data[1], ids, 0.0, 16)
  want, gradients = in_numpy(*data, ids, 0.0)
  assert loss.dtype == jnp.float32 and d_hidden.dtype == jnp.bfloat16
  np.testing.assert_allclose(loss, want[0], rtol=1e-5)
  np.testing.assert_array_equal(tokens, TOKENS)
  assert d_table.dtype == jnp.float32
  np.testing.assert_allclose(d_table, gradients[1], atol=0.02)
  np.testing.assert_allclose(
    d_hidden.astype(jnp.float32), gradients[0], atol=0.02
  )


@pytest.mark.parametrize("mesh_shape", [(1, 1), (8, 1)])
def test_groups_and_devices_change_nothing(mesh_shape):
  """Inside a shard_map and under a checkpointed scan, as training runs it."""
  size = mesh_shape[0] * mesh_shape[1]
  mesh = sharding.make_mesh(*mesh_shape, devices=jax.devices()[:size])
  groups = [example(29, seed=s) for s in range(16)]
  table = groups[0][1]
  hidden, ids = (jnp.stack([g[i] for g in groups]) for i in (0, 2))
  segment_ids, valid = (jnp.stack([x] * 16) for x in (SLOT, VALID))

  def group(params, hidden, *rest):
    return denoise.next_token(hidden, params["embedding"], *rest, 0.0, 8)

  def loss(table, hidden):
    run = sharding.data_parallel(group, mesh)
    loss, tokens, _ = run(
      {"embedding": table}, (hidden, ids, segment_ids, valid)
    )
    return loss.sum() / tokens.sum()

  value, gradients = jax.jit(jax.value_and_grad(loss, (0, 1)))(table, hidden)
  each = [in_numpy(g[0], table, g[2], 0.0) for g in groups]
  total = 16 * sum(TOKENS)
  want = sum(sums[0].sum() for sums, _ in each) / total
  np.testing.assert_allclose(value, want, rtol=1e-5)
  want = sum(g[1] for _, g in each) / total
  np.testing.assert_allclose(gradients[0], want, rtol=1e-5, atol=1e-6)
  want = np.stack([g[0] for _, g in each]) / total
  np.testing.assert_allclose(gradients[1], want, rtol=1e-5, atol=1e-6)


@functools.cache
def compiled(frozen: bool):
  """The program of 262,144 words, 768 wide, and 4,096 positions; never run."""
  shape = jax.ShapeDtypeStruct
  args = (
    shape((8, 512, 768), jnp.float32),
    shape((262_144, 768), jnp.float32),
    shape((8, 512), jnp.int32),
    shape((8, 512), jnp.int32),
    shape((32,), jnp.bool_),
  )

  def loss(hidden, table, *rest):
    table = jax.lax.stop_gradient(table) if frozen else table
    return denoise.next_token(hidden, table, *rest, 0.0, 16_384)[0].sum()

  return jax.jit(jax.value_and_grad(loss, (0, 1))).lower(*args).compile()


def test_all_logits_are_never_held():
  """They alone would be 4.3 GB, as would their gradient."""
  assert compiled(False).memory_analysis().temp_size_in_bytes < 1.5e9


def test_a_frozen_table_costs_no_gradient():
  """Three products of a block instead of four."""
  flops = [
    compiled(frozen).cost_analysis()["flops"] for frozen in (True, False)
  ]
  assert flops[0] / flops[1] == pytest.approx(0.75, abs=0.01)
