"""The encoder: sizes, attention, packing, pooling."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from embeddinggemma.model import embedder, layers, pooling
from embeddinggemma.model.config import GLOBAL, LOCAL
from embeddinggemma.model.encoder import window
from embeddinggemma.presets import PRESETS, preset
from embeddinggemma.types import BadInput

TINY = preset("tiny").model


@functools.cache
def program(config):
  """One group's encoder, compiled once for each shape."""
  return jax.jit(embedder.encode_group(config))


def encode(config, texts, rows, length, params=None, num_texts=None):
  """Packs texts at given (row, start) places and encodes the group."""
  b = num_texts or len(texts)
  ids = np.zeros((rows, length), np.int32)
  segment_ids = np.full((rows, length), b, np.int32)
  for s, (row, start, text) in enumerate(texts):
    ids[row, start : start + len(text)] = text
    segment_ids[row, start : start + len(text)] = s
  ids, segment_ids = jnp.asarray(ids), jnp.asarray(segment_ids)
  valid = jnp.arange(b) < len(texts)
  params = params or random_params(config)
  return program(config)(params, ids, segment_ids, valid)


@functools.cache
def random_params(config):
  """Weights and norms all random, so that every wrong path shows."""
  params = jax.jit(embedder.init(config))(jax.random.key(0))
  leaves, tree = jax.tree.flatten(params)
  keys = jax.random.split(jax.random.key(1), len(leaves))
  noisy = [
    leaf + 0.1 * jax.random.normal(key, leaf.shape)
    for leaf, key in zip(leaves, keys)
  ]
  return jax.tree.unflatten(tree, noisy)


def text(length, seed=0):
  return np.random.default_rng(seed).integers(4, 500, length, dtype=np.int32)


def test_embeddinggemma_has_the_published_number_of_parameters():
  assert (
    embedder.num_parameters(preset("embeddinggemma_300m").model) == 307_581_696
  )


def test_gemma3_270m_backbone_has_the_public_number_of_parameters():
  config = preset("gemma3_270m").model
  head = config.up_width * (config.width + config.embed_dim)
  assert embedder.num_parameters(config) - head == 268_098_176


@pytest.mark.parametrize("name", list(PRESETS))
def test_presets_can_be_exported(name):
  config = preset(name).model
  inner = config.num_heads * config.head_dim
  for dim in (config.width, config.mlp_width, config.up_width, inner):
    assert dim % 32 == 0
  kinds = [config.attention_kind(i) for i in range(config.num_layers)]
  assert GLOBAL in kinds


def test_the_published_pattern_is_five_local_one_global():
  config = preset("embeddinggemma_300m").model
  full = [i + 1 for i in range(24) if config.attention_kind(i) == GLOBAL]
  assert full == [6, 12, 18, 24]


def test_unknown_preset_names_the_known_ones():
  with pytest.raises(BadInput, match=r"unknown preset 'huge'.*laptop"):
    preset("huge")


@pytest.mark.parametrize(
  "change, message",
  [
    ({"width": 0}, "model.width=0 must be at least 1"),
    ({"num_layers": 0}, "model.num_layers=0 must be at least 1"),
    ({"window": -1}, "model.window=-1 must be at least 1"),
    ({"max_length": 3}, "model.max_length=3 must be at least 4"),
    ({"head_dim": 15}, "model.head_dim=15 must be even"),
    ({"norm_eps": 0.0}, "model.norm_eps=0.0 must be above 0"),
    ({"pattern": ()}, "model.pattern is empty"),
    ({"pooling": "max"}, "pooling='max'"),
    ({"dtype": "float16"}, "dtype='float16'"),
    ({"num_kv_heads": 3}, "num_kv_heads=3 does not divide"),
    ({"pattern": ("sideways",)}, "pattern='sideways'"),
    ({"pooling": "attention", "pooling_heads": 5}, "pooling_heads=5"),
    ({"window_rule": "wide"}, "window_rule='wide'.*t5gemma2"),
    ({"attention_softcap": -1.0}, "attention_softcap=-1.0 must be at least 0"),
    ({"logit_softcap": float("nan")}, "logit_softcap=nan must be at least 0"),
  ],
)
def test_a_config_that_cannot_be_is_refused(change, message):
  with pytest.raises(BadInput, match=message):
    dataclasses.replace(TINY, **change)


def test_positions_restart_where_the_slot_changes():
  segment_ids = jnp.array([[0, 0, 0, 1, 1, 2, 2, 2], [3, 3, 4, 4, 4, 4, 5, 5]])
  np.testing.assert_array_equal(
    layers.positions(segment_ids),
    [[0, 1, 2, 0, 1, 0, 1, 2], [0, 1, 0, 1, 2, 3, 0, 1]],
  )


def test_a_local_layer_sees_half_a_window_to_each_side():
  segment_ids = jnp.zeros((1, 40), jnp.int32)
  seen = layers.attention_mask(segment_ids, window(TINY, LOCAL))[0]
  np.testing.assert_array_equal(
    np.flatnonzero(np.asarray(seen[20])), np.arange(12, 29)
  )
  assert layers.attention_mask(segment_ids, window(TINY, GLOBAL)).all()


@pytest.mark.parametrize(
  "rule, size, left, right",
  [
    ("symmetric", 512, 256, 256),
    ("symmetric", 7, 3, 3),
    ("t5gemma2", 512, 255, 256),
    ("t5gemma2", 7, 3, 3),
    ("t5gemma2", 1, 0, 0),
    ("t5gemma", 4096, 4095, 4095),
  ],
)
def test_a_window_rule_says_how_far_each_side_is(rule, size, left, right):
  config = dataclasses.replace(TINY, window_rule=rule, window=size)
  assert window(config, LOCAL) == (left, right)


def test_a_window_may_be_lopsided():
  segment_ids = jnp.zeros((1, 40), jnp.int32)
  config = dataclasses.replace(TINY, window_rule="t5gemma2")
  seen = layers.attention_mask(segment_ids, window(config, LOCAL))[0]
  np.testing.assert_array_equal(
    np.flatnonzero(np.asarray(seen[20])), np.arange(13, 29)
  )


@pytest.mark.parametrize("pool", ["mean", "attention", "first", "last"])
def test_packing_is_invisible(pool):
  config = dataclasses.replace(TINY, pooling=pool)
  texts = [text(n, n) for n in (1, 7, 8, 9, 16, 17, 30)]
  places = [(0, 0), (0, 1), (0, 8), (0, 16), (1, 0), (2, 3), (3, 20)]
  packed = encode(
    config, [(r, s, t) for (r, s), t in zip(places, texts)], 5, 64
  )
  for i, t in enumerate(texts):
    alone = encode(config, [(0, 0, t)], 1, 32, num_texts=1)
    np.testing.assert_allclose(packed[i], alone[0], atol=1e-5)


@pytest.mark.parametrize("pool", ["mean", "first"])
def test_attention_is_bidirectional(pool):
  """A later token moves an earlier one's vector."""
  config = dataclasses.replace(TINY, pooling=pool)
  a = text(12)
  b = a.copy()
  b[-1] = (b[-1] + 1) % 500
  one, other = (encode(config, [(0, 0, t)], 1, 16) for t in (a, b))
  assert np.abs(one - other).max() > 1e-4


def test_every_weight_matters():
  """No Dense, norm or projection is dropped on the way."""
  params = random_params(TINY)
  loss = lambda p: encode(
    TINY, [(0, 0, text(20)), (1, 3, text(9, 1))], 2, 32, p
  )[:, :7].sum()
  for path, g in jax.tree_util.tree_leaves_with_path(
    jax.jit(jax.grad(loss))(params)
  ):
    assert np.abs(g).max() > 0, jax.tree_util.keystr(path)


def test_vectors_are_unit_and_finite_in_bfloat16():
  config = dataclasses.replace(TINY, dtype="bfloat16")
  params = random_params(config)
  texts = [(0, 0, text(30)), (1, 0, text(5, 1))]
  half = encode(config, texts, 2, 32, params)
  full = encode(TINY, texts, 2, 32, params)
  assert half.dtype == jnp.float32
  np.testing.assert_allclose(np.linalg.norm(half, axis=1), 1, atol=1e-5)
  assert (np.sum(half * full, axis=1) > 0.99).all()


def test_an_empty_place_is_constant_and_its_gradient_finite():
  params = random_params(TINY)
  vectors = lambda p: encode(TINY, [(0, 0, text(9))], 1, 16, p, num_texts=3)
  np.testing.assert_array_equal(vectors(params)[1], np.eye(32)[0])
  gradient = jax.jit(jax.grad(lambda p: vectors(p)[0].sum()))(params)
  assert all(np.isfinite(g).all() for g in jax.tree.leaves(gradient))


def test_the_mean_is_over_all_tokens():
  tokens = jnp.arange(12.0).reshape(1, 6, 2)
  segment_ids = jnp.array([[0, 0, 1, 1, 1, 2]])
  np.testing.assert_allclose(
    pooling.mean(tokens, segment_ids, 2), [[1, 2], [6, 7]]
  )
  np.testing.assert_allclose(
    pooling.first(tokens, segment_ids, 2), [[0, 1], [4, 5]]
  )
  np.testing.assert_allclose(
    pooling.last(tokens, segment_ids, 2), [[2, 3], [8, 9]]
  )


def test_attention_pooling_packs_extreme_scores():
  """A text whose scores are far below its neighbour's keeps its vector."""
  rng = np.random.default_rng(0)
  tokens = rng.normal(size=(1, 12, 8)).astype(np.float32)
  tokens[0, 6:] *= 1e4
  tokens = jnp.asarray(tokens)
  segment_ids = jnp.asarray([[0] * 6 + [1] * 5 + [2]])
  pool = pooling.AttentionPooling(heads=2)
  params = pool.init(jax.random.key(0), tokens, segment_ids, 2)
  both = pool.apply(params, tokens, segment_ids, 2)
  first = pool.apply(params, tokens[:, :6], segment_ids[:, :6], 1)
  second = pool.apply(params, tokens[:, 6:11], segment_ids[:, 6:11] - 1, 1)
  assert np.abs(first).max() > 0.01
  np.testing.assert_allclose(both[0], first[0], atol=1e-6)
  np.testing.assert_allclose(both[1], second[0], rtol=1e-5)


def test_identity_projections_drop_the_spare_dimension():
  config = dataclasses.replace(TINY, projection_init="identity")
  model = embedder.init(config)(jax.random.key(0))["model"]
  through = model["up"] @ model["down"]
  want = np.eye(32)
  want[-1, -1] = 0
  np.testing.assert_allclose(through, want, atol=1e-6)
