"""Kernels of attention, interpreted on CPU, against plain XLA."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.experimental import pallas

from embeddinggemma import sharding, stages
from embeddinggemma.model import attention, embedder
from embeddinggemma.model.config import preset
from embeddinggemma.types import BadInput

TINY = preset("tiny")
ROWS, LENGTH, TEXTS = 2, 128, 6
MODELS = {
  "one key for two heads": {},
  "two keys for four heads": {"num_heads": 4, "num_kv_heads": 2},
  "a lopsided window": {"window_rule": "t5gemma2", "window": 23},
}


def group():
  """Packed texts that cross the window; a place and some ends are empty."""
  rng = np.random.default_rng(0)
  slot = np.full((ROWS, LENGTH), TEXTS)
  for text, (row, start, end) in enumerate(
    [(0, 0, 1), (0, 1, 61), (0, 61, 128), (1, 0, 100), (1, 100, 117)]
  ):
    slot[row, start:end] = text
  ids = rng.integers(4, 500, slot.shape)
  return jnp.asarray(ids), jnp.asarray(slot), jnp.arange(TEXTS) < 5


@functools.cache
def result(config):
  """Vectors, and the gradient of all weights for a random direction."""
  params = embedder.init(attention.portable(config))(jax.random.key(0))
  leaves, tree = jax.tree.flatten(params)
  keys = jax.random.split(jax.random.key(1), len(leaves))
  noisy = lambda x, key: x + 0.1 * jax.random.normal(key, x.shape)
  params = jax.tree.unflatten(tree, map(noisy, leaves, keys))
  encode = embedder.encode_group(config)
  direction = jax.random.normal(jax.random.key(2), (TEXTS, config.embed_dim))

  @jax.jit
  def run(params):
    vectors, back = jax.vjp(lambda p: encode(p, *group()), params)
    return vectors, *back(direction)

  return run(params)


@pytest.fixture
def interpreted(monkeypatch):
  """Every Pallas call runs as ordinary JAX, splash attention's too."""
  call = pallas.pallas_call
  monkeypatch.setattr(
    pallas, "pallas_call", lambda *a, **k: call(*a, **k | {"interpret": True})
  )


@pytest.mark.parametrize("model", list(MODELS))
@pytest.mark.parametrize("kernel", ["splash", "fused"])
def test_a_kernel_has_the_values_and_gradients_of_xla(
  kernel, model, interpreted
):
  config = dataclasses.replace(TINY, **MODELS[model])
  want = result(config)
  got = result(dataclasses.replace(config, attention=kernel))
  paths = jax.tree_util.tree_leaves_with_path(want)
  for (path, a), b in zip(paths, jax.tree.leaves(got), strict=True):
    scale = np.abs(a).max()
    name = jax.tree_util.keystr(path)
    np.testing.assert_allclose(b, a, atol=2e-5 * scale, err_msg=name)
