"""Kernels of attention, interpreted on CPU, against plain XLA."""

import dataclasses
import functools
import pathlib

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import test_mesh
from jax.experimental import pallas

from embeddinggemma import sharding
from embeddinggemma.config import sibling
from embeddinggemma.model import embedder
from embeddinggemma.model.kernels import choose
from embeddinggemma.presets import preset
from embeddinggemma.training import stages
from embeddinggemma.types import BadInput

TINY = preset("tiny").model
ROWS, LENGTH, TEXTS = 2, 128, 6
MODELS = {
  "one key for two heads": {},
  "two keys for four heads, a lopsided window": {
    "num_heads": 4,
    "num_kv_heads": 2,
    "window_rule": "t5gemma2",
    "window": 23,
  },
}
KERNELS = ("splash", "fused")


def group():
  """Packed texts that cross the window; a place and some ends are empty."""
  rng = np.random.default_rng(0)
  segment_ids = np.full((ROWS, LENGTH), TEXTS)
  for text, (row, start, end) in enumerate(
    [(0, 0, 1), (0, 1, 61), (0, 61, 128), (1, 0, 100), (1, 100, 117)]
  ):
    segment_ids[row, start:end] = text
  ids = rng.integers(4, 500, segment_ids.shape)
  return jnp.asarray(ids), jnp.asarray(segment_ids), jnp.arange(TEXTS) < 5


@functools.cache
def result(config):
  """Vectors, and the gradient of all weights for a random direction."""
  params = embedder.init(config.portable)(jax.random.key(0))
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


CASES = [(model, "attention", kernel) for model in MODELS for kernel in KERNELS]
CASES.append(("one key for two heads", "mlp", "fused"))


@pytest.mark.parametrize("model, part, kernel", CASES)
def test_a_kernel_has_the_values_and_gradients_of_xla(
  model, part, kernel, interpreted
):
  config = dataclasses.replace(TINY, **MODELS[model])
  want = result(config)
  got = result(dataclasses.replace(config, **{part: kernel}))
  paths = jax.tree_util.tree_leaves_with_path(want)
  for (path, a), b in zip(paths, jax.tree.leaves(got), strict=True):
    scale = np.abs(a).max()
    name = jax.tree_util.keystr(path)
    np.testing.assert_allclose(b, a, atol=2e-5 * scale, err_msg=name)


@pytest.mark.parametrize(
  "change, length, message",
  [
    ({"attention": "flash"}, 128, r"model.attention='flash' is unknown; use"),
    ({"remat": "some"}, 128, r"model.remat='some' is unknown; use .*dots"),
    ({"attention": "splash"}, 96, r"'splash' takes rows of a multiple of 128"),
    ({"attention": "fused"}, 96, r"'fused' takes rows of a multiple of 128"),
    ({"attention": "fused"}, 640, r"'fused' takes rows of up to 512.*'splash'"),
    (
      {"attention": "fused", "qk_norm": False},
      128,
      r"model.qk_norm=false, .*model.attention='fused'.*use 'splash'",
    ),
    (
      {"attention": "fused", "attention_softcap": 50.0},
      128,
      r"attention_softcap=50.0, .*model.attention='fused'.*use 'splash'",
    ),
  ],
)
def test_what_a_kernel_cannot_do_is_refused(change, length, message):
  with pytest.raises(BadInput, match=message):
    config = dataclasses.replace(TINY, **change)
    shape = jax.ShapeDtypeStruct((1, length), jnp.int32)
    valid = jax.ShapeDtypeStruct((2,), jnp.bool_)
    params = jax.eval_shape(embedder.init(config), jax.random.key(0))
    jax.eval_shape(embedder.encode_group(config), params, shape, shape, valid)


def test_a_kernel_needs_a_tpu():
  config = test_mesh.config("separate")
  config = dataclasses.replace(
    config, model=dataclasses.replace(TINY, attention="splash")
  )
  with pytest.raises(BadInput, match=r"model.attention='splash'.*'cpu'; use"):
    stages.make(config, sharding.make_mesh(8, 1))


def test_auto_runs_anywhere_and_takes_what_a_row_allows():
  auto = dataclasses.replace(TINY, attention="auto", mlp="auto")
  assert choose.for_device(auto, "cpu", "cpu") == TINY
  assert choose.for_device(auto, "tpu", "TPU v5 lite") == auto
  small = choose.for_device(auto, "tpu", "TPU v4")
  assert (small.attention, small.mlp) == ("splash", "xla")
  told = dataclasses.replace(auto, attention="fused")
  assert choose.for_device(told, "tpu", "TPU v4").attention == "fused"
  chosen = {n: choose.attention_of(auto, n) for n in (96, 128, 512, 2048)}
  assert chosen == {96: "xla", 128: "fused", 512: "fused", 2048: "splash"}
  unfused = dataclasses.replace(auto, qk_norm=False)
  assert choose.attention_of(unfused, 128) == "splash"
  assert [choose.mlp_of(auto, n) for n in (96, 384)] == ["xla", "fused"]


@pytest.mark.parametrize(
  "name", ["pretrain", "adapt", "prefinetune", "finetune"]
)
@pytest.mark.parametrize("shape", ["embeddinggemma_300m", "gemma3_270m"])
def test_a_large_model_trains_with_what_is_fast_on_a_tpu(name, shape):
  config = stages.build(
    sibling(str(pathlib.Path("configs/x.py").absolute()), name)
    .get_config(shape)
    .to_dict()
  )
  sides = [config.model, *([config.decoder] if name == "adapt" else [])]
  for side in sides:
    assert (side.dtype, side.attention, side.mlp) == (
      "bfloat16",
      "auto",
      "auto",
    )
  assert config.model.portable == preset(shape).model


@pytest.mark.parametrize("remat", ["dots", "full"])
def test_what_is_computed_again_changes_nothing(remat):
  want = result(TINY)
  got = result(dataclasses.replace(TINY, remat=remat))
  for a, b in zip(jax.tree.leaves(want), jax.tree.leaves(got), strict=True):
    np.testing.assert_allclose(b, a, atol=1e-6 * np.abs(a).max())


def test_how_it_runs_is_not_what_it_is():
  config = dataclasses.replace(TINY, attention="fused", remat="full")
  assert config.portable == TINY
  shapes = lambda c: jax.eval_shape(embedder.init(c), jax.random.key(0))
  assert shapes(config) == shapes(TINY)
