"""Causal decoders and encoder-decoders: what sees what, tables, sizes."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import PartitionSpec as P

from embeddinggemma import sharding
from embeddinggemma.model import decoder, embedder, layers
from embeddinggemma.model.config import GLOBAL, LOCAL, EncoderDecoderConfig
from embeddinggemma.presets import preset
from embeddinggemma.types import BadInput

TINY = dataclasses.replace(preset("tiny").model, window=8)
GEMMA_2 = dataclasses.replace(
  TINY,
  qk_norm=False,
  attention_softcap=2.0,
  window_rule="t5gemma",
)
WIDE = dataclasses.replace(
  TINY, width=48, num_heads=4, num_kv_heads=2, head_dim=8, num_layers=1
)
BOTH = {
  "merged, tied": EncoderDecoderConfig(TINY, TINY, True, "merged"),
  "separate, untied": EncoderDecoderConfig(GEMMA_2, GEMMA_2, False, "separate"),
  "separate, unbalanced": EncoderDecoderConfig(WIDE, TINY, False, "separate"),
}
B = 4  # texts of a group


def noisy(params):
  """Weights and norms all random, so that every wrong path shows."""
  leaves, tree = jax.tree.flatten(params)
  keys = jax.random.split(jax.random.key(1), len(leaves))
  return jax.tree.unflatten(
    tree,
    [x + 0.1 * jax.random.normal(k, x.shape) for x, k in zip(leaves, keys)],
  )


@functools.cache
def causal(config):
  params = noisy(decoder.init_causal(config)(jax.random.key(0)))
  return params, jax.jit(decoder.causal_group(config))


@functools.cache
def both(name):
  params = noisy(decoder.init_encoder_decoder(BOTH[name])(jax.random.key(0)))
  return params, jax.jit(decoder.encoder_decoder_group(BOTH[name]))


def text(length, seed=0):
  return np.random.default_rng(seed).integers(4, 500, length, dtype=np.int32)


def pack(texts, places, rows, length):
  """Ids and segments of texts at (row, start); elsewhere, noise in segment B."""
  ids = np.random.default_rng(9).integers(4, 500, (rows, length))
  ids, segment_ids = ids.astype(np.int32), np.full((rows, length), B, np.int32)
  for s, ((row, start), t) in enumerate(zip(places, texts)):
    ids[row, start : start + len(t)] = t
    segment_ids[row, start : start + len(t)] = s
  return jnp.asarray(ids), jnp.asarray(segment_ids)


def differing(a, b):
  """Positions whose vectors differ."""
  return np.flatnonzero(np.abs(np.asarray(a) - np.asarray(b)).max(-1) > 1e-6)


def changed(t, position):
  t = t.copy()
  t[position] = (t[position] + 1) % 500 + 4
  return t


def test_a_causal_local_layer_sees_its_window_back():
  segment_ids = jnp.zeros((1, 40), jnp.int32)
  seen = layers.attention_mask(segment_ids, decoder.window(TINY, LOCAL))[0]
  np.testing.assert_array_equal(
    np.flatnonzero(np.asarray(seen[20])), np.arange(13, 21)
  )
  seen = layers.attention_mask(segment_ids, decoder.window(TINY, GLOBAL))[0]
  np.testing.assert_array_equal(seen, np.tri(40, dtype=bool))


def test_a_token_moves_only_what_follows():
  params, run = causal(TINY)
  ids = text(24)
  vectors = [
    run(params, *pack([t], [(0, 0)], 1, 24))[0][0]
    for t in (ids, changed(ids, 9))
  ]
  np.testing.assert_array_equal(differing(*vectors), np.arange(9, 24))


@pytest.mark.parametrize("config", [TINY, GEMMA_2], ids=["gemma 3", "gemma 2"])
def test_packing_is_invisible_to_a_decoder(config):
  params, run = causal(config)
  texts = [text(n, n) for n in (1, 8, 9, 21)]
  places = [(0, 0), (0, 1), (0, 9), (1, 3)]
  hidden, table = run(params, *pack(texts, places, 2, 32))
  assert table is not None and table.shape == (1024, 32)
  for (row, start), t in zip(places, texts):
    alone, _ = run(params, *pack([t], [(0, 0)], 1, 32))
    np.testing.assert_allclose(
      hidden[row, start : start + len(t)], alone[0, : len(t)], atol=1e-5
    )


INPUTS = [(n, seed) for n, seed in ((5, 0), (12, 1), (1, 2), (17, 3))]
TARGETS = [(7, 4), (1, 5), (10, 6), (19, 7)]
# An example keeps its row; the order within it may differ.
INPUT_PLACES = [(0, 0), (0, 6), (0, 20), (1, 4)]
TARGET_PLACES = [(0, 3), (0, 2), (0, 12), (1, 0)]


def decode(name, inputs, targets, params=None):
  known, run = both(name)
  return run(
    params or known,
    *pack(inputs, INPUT_PLACES, 2, 24),
    *pack(targets, TARGET_PLACES, 2, 28),
  )[0]


def examples():
  return [text(*x) for x in INPUTS], [text(*x) for x in TARGETS]


@pytest.mark.parametrize("name", list(BOTH))
def test_packing_is_invisible_to_an_encoder_decoder(name):
  params, run = both(name)
  inputs, targets = examples()
  hidden = decode(name, inputs, targets)
  for i, (row, start) in enumerate(TARGET_PLACES):
    alone, _ = run(
      params,
      *pack([inputs[i]], [(0, 0)], 2, 24),
      *pack([targets[i]], [(0, 0)], 2, 28),
    )
    length = len(targets[i])
    np.testing.assert_allclose(
      hidden[row, start : start + length], alone[0, :length], atol=1e-5
    )


@pytest.mark.parametrize("name", list(BOTH))
def test_an_input_moves_all_of_its_own_target_alone(name):
  inputs, targets = examples()
  hidden = decode(name, inputs, targets)
  moved = decode(
    name, [inputs[0], changed(inputs[1], -1), *inputs[2:]], targets
  )
  np.testing.assert_array_equal(differing(moved[0], hidden[0]), [2])
  moved = decode(name, [*inputs[:3], changed(inputs[3], 0)], targets)
  np.testing.assert_array_equal(differing(moved[1], hidden[1]), np.arange(19))
  np.testing.assert_array_equal(moved[0], hidden[0])


@pytest.mark.parametrize("name", list(BOTH))
def test_a_target_moves_only_what_follows(name):
  inputs, targets = examples()
  moved = decode(name, inputs, [*targets[:3], changed(targets[3], 11)])
  hidden = decode(name, inputs, targets)
  np.testing.assert_array_equal(
    differing(moved[1], hidden[1]), np.arange(11, 19)
  )


@pytest.mark.parametrize("name", list(BOTH))
def test_every_weight_of_an_encoder_decoder_matters(name):
  params, _ = both(name)
  run = decoder.encoder_decoder_group(BOTH[name])
  inputs, targets = examples()
  group = (
    *pack(inputs, INPUT_PLACES, 2, 24),
    *pack(targets, TARGET_PLACES, 2, 28),
  )

  def loss(params):
    hidden, table = run(params, *group)
    return jnp.sin(hidden @ table[:8].T)[0, 3:10].sum()

  gradient = jax.jit(jax.grad(loss))(params)
  for path, g in jax.tree_util.tree_leaves_with_path(gradient):
    assert np.isfinite(g).all() and np.abs(g).max() > 0, path


def test_every_weight_of_a_decoder_matters():
  params, _ = causal(TINY)
  group = pack([text(20)], [(0, 2)], 1, 24)

  def loss(params):
    hidden, table = decoder.causal_group(TINY)(params, *group)
    return jnp.sin(hidden @ table[:8].T)[0, 3:22].sum()

  gradient = jax.jit(jax.grad(loss))(params)
  for path, g in jax.tree_util.tree_leaves_with_path(gradient):
    assert np.isfinite(g).all() and np.abs(g).max() > 0, path


def test_bfloat16_is_close():
  half = dataclasses.replace(TINY, dtype="bfloat16")
  config = EncoderDecoderConfig(half, half, True, "merged")
  params, _ = both("merged, tied")
  inputs, targets = examples()
  group = (
    *pack(inputs, INPUT_PLACES, 2, 24),
    *pack(targets, TARGET_PLACES, 2, 28),
  )
  hidden, table = jax.jit(decoder.encoder_decoder_group(config))(params, *group)
  assert hidden.dtype == jnp.bfloat16 and table.dtype == jnp.float32
  full = decode("merged, tied", inputs, targets)
  cosine = lambda a, b: (
    (a * b).sum(-1) / np.sqrt((a * a).sum(-1) * (b * b).sum(-1))
  )
  assert cosine(np.asarray(hidden, np.float32), np.asarray(full)).min() > 0.99


def shapes(init):
  tree = jax.eval_shape(init, jax.random.key(0))
  assert tree["aux"] == {}
  leaves = jax.tree_util.tree_leaves_with_path(tree["model"])
  return {sharding.path_name(path): leaf.shape for path, leaf in leaves}


def count(names):
  return sum(np.prod(shape) for shape in names.values())


def test_t5gemma2_270m_has_the_published_size():
  """About 370M, with a tied table and merged attention (T5Gemma 2)."""

  def size(depth):
    config = dataclasses.replace(preset("gemma3_270m").model, num_layers=depth)
    both = EncoderDecoderConfig(config, config, True, "merged")
    return count(shapes(decoder.init_encoder_decoder(both)))

  assert size(1) + 17 * (size(2) - size(1)) == 368_424_192


def test_one_side_is_made_of_what_the_embedder_is():
  """So that weights move between stages by name."""
  base = shapes(embedder.init(TINY))
  encoder = {
    k.removeprefix("encoder/"): v for k, v in base.items() if "encoder/" in k
  }
  alone = shapes(decoder.init_causal(TINY))
  assert {k.removeprefix("decoder/"): v for k, v in alone.items()} == encoder
  merged = shapes(decoder.init_encoder_decoder(BOTH["merged, tied"]))
  sides = {
    f"{s}/{k}": v for s in ("encoder", "decoder") for k, v in encoder.items()
  }
  del sides["decoder/embedding"]
  assert merged == sides


def test_separate_cross_attention_reads_the_encoders_width():
  names = shapes(decoder.init_encoder_decoder(BOTH["separate, unbalanced"]))
  layer = "decoder/layer_1"
  assert names[f"{layer}/cross_attention/k"] == (48, 1, 16)
  assert names[f"{layer}/cross_attention/q"] == (32, 2, 16)
  assert names[f"{layer}/pre_cross_attention_norm/scale"] == (32,)
  assert names["decoder/embedding"] == (1024, 32)
  assert names["encoder/embedding"] == (1024, 48)


def test_gemma_2_has_no_norm_of_queries_and_keys():
  names = shapes(decoder.init_encoder_decoder(BOTH["separate, untied"]))
  assert not [k for k in names if "q_norm" in k or "k_norm" in k]


@pytest.mark.parametrize("name", list(BOTH))
def test_the_sharding_rules_know_every_parameter(name):
  mesh = sharding.make_mesh(4, 2)
  names = shapes(decoder.init_encoder_decoder(BOTH[name]))
  specs = {k: sharding.spec_of(f"model/{k}", v, mesh) for k, v in names.items()}
  split = {k for k, spec in specs.items() if "fsdp" in spec}
  assert split == {k for k, v in names.items() if len(v) > 1}
  layer = "decoder/layer_0"
  for kind in ("attention", "cross_attention"):
    if f"{layer}/{kind}/q" in specs:
      assert specs[f"{layer}/{kind}/k"] == P(None, None, "fsdp")
      assert specs[f"{layer}/{kind}/o"] == P(None, None, "fsdp")


@pytest.mark.parametrize(
  "change, tied, cross, message",
  [
    (
      {"vocab_size": 512},
      False,
      "separate",
      "model.vocab_size=1024 and decoder.vocab_size=512 differ; both sides",
    ),
    (
      {"width": 64},
      True,
      "separate",
      "model.width=32 and decoder.width=64 differ; .*set tied=false",
    ),
    (
      {"width": 64},
      False,
      "merged",
      "model.width=32 and decoder.width=64 differ; .*use 'separate'",
    ),
    ({"num_heads": 4}, True, "merged", "decoder.num_heads=4 differ"),
    ({"num_kv_heads": 2}, True, "merged", "decoder.num_kv_heads=2 differ"),
    ({"head_dim": 8}, True, "merged", "decoder.head_dim=8 differ"),
    ({}, True, "both", "^cross_attention='both' is unknown; use one of sep"),
  ],
)
def test_sides_that_do_not_fit_are_refused(change, tied, cross, message):
  other = dataclasses.replace(TINY, **change)
  with pytest.raises(BadInput, match=message):
    EncoderDecoderConfig(TINY, other, tied, cross)


def test_sides_may_differ_in_depth_and_mlp():
  other = dataclasses.replace(TINY, num_layers=1, mlp_width=32)
  both = EncoderDecoderConfig(TINY, other, True, "merged")
  assert (both.encoder, both.decoder) == (TINY, other)
