"""Grids and the view on them: to the bit, in numpy and JAX, on any mesh."""

import dataclasses

import jax
import jax.numpy as jnp
import ml_dtypes
import numpy as np
import pytest

from embeddinggemma import grids, quantize, sharding
from embeddinggemma.model import embedder
from embeddinggemma.presets import PRESETS
from embeddinggemma.types import BadInput

GRIDS = list(grids.GRIDS.values())
NAMES = list(grids.GRIDS)
TINY = dataclasses.replace(PRESETS["tiny"].model, num_layers=1)


def weights(size: float = 0.05, shape=(40, 96)) -> np.ndarray:
  """Random rows, among them zeros, and values in the middle of two steps."""
  rng = np.random.default_rng(0)
  made = rng.standard_normal(shape) * size
  made[3], made[4, 32:64] = 0, 0
  made[5] = (rng.integers(-6, 6, shape[1]) + 0.5) * size
  made[5, ::32] = 7 * size
  return made.astype(np.float32)


def tree(config=TINY) -> dict:
  made = embedder.init(config)(jax.random.key(0))
  return {**made, "aux": {"projection": jnp.ones((4, 4)) / 3}}


def leaves(params) -> dict[str, np.ndarray]:
  found = jax.tree_util.tree_leaves_with_path(params["model"])
  return {sharding.path_name(path): np.asarray(leaf) for path, leaf in found}


def by_hand(block: np.ndarray, grid: grids.Grid) -> tuple[np.ndarray, float]:
  """q and s of one block, in float64 but for the type of the scale."""
  type_ = ml_dtypes.bfloat16 if grid.scale == "bfloat16" else np.float16
  if grid.signed:
    scale = block[np.argmax(np.abs(block))] / -(2 ** (grid.bits - 1))
  else:
    scale = np.abs(block).max() / (2 ** (grid.bits - 1) - 1)
  scale = float(np.float32(scale).astype(type_))
  steps = np.round(block.astype(np.float64) / scale) if scale else 0 * block
  return np.clip(steps, grid.lowest, grid.highest), scale


@pytest.mark.parametrize("grid", GRIDS, ids=NAMES)
def test_integers_are_those_of_the_definition(grid):
  given = weights()
  q, scale = grids.integers(given, grid)
  assert q.dtype == np.int8 and scale.dtype == np.float32
  blocks = given.reshape(len(given), scale.shape[1], -1)
  for place in np.ndindex(scale.shape):
    want, by = by_hand(blocks[place], grid)
    assert scale[place] == by
    np.testing.assert_array_equal(q.reshape(blocks.shape)[place], want)
  values = grids.dequantised(q, scale).reshape(blocks.shape)
  np.testing.assert_array_equal(
    values, q.reshape(blocks.shape) * scale[..., None].astype(np.float64)
  )
  half = np.abs(scale)[..., None] * (1.0 if grid.signed else 0.5)
  assert (np.abs(values - blocks) <= half * (1 + 2**-6)).all()


def test_the_ranges_of_the_grids():
  assert {g.name: (g.lowest, g.highest, g.block) for g in GRIDS} == {
    "g4": (-7, 7, 32),
    "g4c": (-7, 7, None),
    "g8": (-127, 127, None),
    "q8_0": (-127, 127, 32),
    "q4_0": (-8, 7, 32),
  }


@pytest.mark.parametrize("size", [1e-6, 1e-4, 0.05, 300.0])
@pytest.mark.parametrize("grid", GRIDS, ids=NAMES)
def test_numpy_and_jax_agree_to_the_bit(grid, size):
  given = weights(size)
  q, scale = grids.integers(given, grid)
  compiled = jax.jit(lambda w: grids.integers(w, grid))(given)
  for ours, theirs in zip((q, scale), compiled):
    np.testing.assert_array_equal(ours, theirs)
  np.testing.assert_array_equal(
    grids.dequantised(q, scale), jax.jit(grids.dequantised)(*compiled)
  )
  # Every scale is a float16, so that each fits the blocks of GGUF.
  np.testing.assert_array_equal(scale, scale.astype(np.float16))
  type_ = np.float16 if grid.scale == "float16" else ml_dtypes.bfloat16
  np.testing.assert_array_equal(scale, scale.astype(type_).astype(np.float32))


@pytest.mark.parametrize("grid", GRIDS, ids=NAMES)
@pytest.mark.parametrize("size", [1e-3, 0.05, 10])
def test_what_lies_on_a_grid_stays(grid, size):
  once = grids.dequantised(*grids.integers(weights(size), grid))
  twice = grids.dequantised(*grids.integers(once, grid))
  np.testing.assert_array_equal(once, twice)


def llama_cpp(values: np.ndarray, name: str) -> np.ndarray:
  """What llama-quantize makes of values: rounds with the scale in float32."""
  blocks = values.reshape(-1, 32)
  peak = np.argmax(np.abs(blocks), axis=1)[:, None]
  if name == "q8_0":
    d = np.abs(np.take_along_axis(blocks, peak, 1)) / np.float32(127)
  else:
    d = np.take_along_axis(blocks, peak, 1) / np.float32(-8)
  inverse = np.where(d == 0, 0, 1 / np.where(d == 0, 1, d)).astype(np.float32)
  scaled = blocks * inverse
  if name == "q8_0":
    q = np.trunc(scaled + np.copysign(np.float32(0.5), scaled))
  else:
    q = np.clip(np.trunc(scaled + np.float32(8.5)), 0, 15) - 8
  return (q * d.astype(np.float16).astype(np.float32)).reshape(values.shape)


@pytest.mark.parametrize("size", [1e-3, 0.05, 10])
@pytest.mark.parametrize("name", ["q8_0", "q4_0"])
def test_llama_cpp_keeps_its_own_grids(name, size):
  values = grids.dequantised(*grids.integers(weights(size), grids.GRIDS[name]))
  np.testing.assert_array_equal(llama_cpp(values, name), values)
  # And loses the one that LiteRT holds, so nobody may round again.
  int4 = grids.dequantised(*grids.integers(weights(), grids.GRIDS["g4"]))
  assert (llama_cpp(int4, "q4_0") != int4).mean() > 0.3


@pytest.mark.parametrize("grid", GRIDS, ids=NAMES)
def test_what_is_not_finite_is_seen(grid):
  given = weights()
  given[0, 0], given[1, 0] = np.nan, np.inf
  for integers in (grids.integers, jax.jit(grids.integers, static_argnums=1)):
    values = np.asarray(grids.dequantised(*integers(given, grid)))
    bad = ~np.isfinite(values).all(axis=1)
    assert np.flatnonzero(bad).tolist() == [0, 1]


def test_many_rows_are_the_same_as_few(monkeypatch):
  grid = grids.GRIDS["g4"]
  whole = grids.integers(weights(), grid)
  monkeypatch.setattr(grids, "_AT_ONCE", 200)
  for ours, theirs in zip(whole, grids.integers(weights(), grid)):
    np.testing.assert_array_equal(ours, theirs)


PLACES = {  # a path, its shape, and (out, in) of one block of it
  "encoder/embedding": ((8, 64), lambda w: w[5, 32:64]),
  "encoder/layer_0/attention/q": ((64, 2, 4), lambda w: w[32:, 1, 3]),
  "encoder/layer_0/attention/o": ((2, 32, 8), lambda w: w[1, :, 5]),
  "encoder/layer_0/mlp/down": ((64, 8), lambda w: w[32:, 5]),
  "up": ((64, 8), lambda w: w[32:, 5]),
}


@pytest.mark.parametrize("path", PLACES)
def test_blocks_run_along_the_input(path):
  shape, block_of = PLACES[path]
  given = np.random.default_rng(0).standard_normal(shape).astype(np.float32)
  seen = quantize.on_grid(path, given, "int4")
  steps, scale = by_hand(block_of(given), grids.GRIDS["g4"])
  np.testing.assert_array_equal(block_of(seen), steps * scale)
  part, _ = quantize.place(path, shape, "int4")
  rows = quantize.to_rows(given, part)
  np.testing.assert_array_equal(quantize.from_rows(rows, part, shape), given)
  packed = quantize.packed(path, given, "int4")
  assert packed.q.shape == (given.size // 64, 64)
  values = grids.dequantised(packed.q, packed.scale).reshape(rows.shape)
  np.testing.assert_array_equal(values, quantize.to_rows(seen, part))


@pytest.mark.parametrize("spec", quantize.SPECS)
def test_the_view_shows_what_exporters_pack(spec):
  params = tree()
  shown = jax.jit(quantize.view(spec))(params)
  again = jax.jit(quantize.view(spec))(shown)
  np.testing.assert_array_equal(
    shown["aux"]["projection"], params["aux"]["projection"]
  )
  given, seen, twice = map(leaves, (params, shown, again))
  for path, weight in given.items():
    np.testing.assert_array_equal(seen[path], twice[path])
    name = tuple(path.split("/"))
    np.testing.assert_array_equal(seen[path], quantize.seen(name, weight, spec))
    packed = quantize.packed(path, weight, spec)
    if path.endswith("norm/scale"):
      assert packed is None
      np.testing.assert_array_equal(seen[path], weight)
      continue
    part, _ = quantize.place(path, weight.shape, spec)
    rows = quantize.to_rows(seen[path], part).reshape(packed.q.shape)
    values = grids.dequantised(packed.q, packed.scale)
    np.testing.assert_array_equal(values, rows)
    assert (rows != quantize.to_rows(weight, part).reshape(rows.shape)).any()


def test_mixed_has_the_grids_of_the_paper():
  grid = lambda path: quantize.place(path, (64, 64), "mixed")[1].name
  assert grid("encoder/embedding") == "g4c"
  assert grid("encoder/layer_0/mlp/up") == grid("down") == "g4c"
  assert grid("encoder/layer_0/attention/q") == "g8"


@pytest.mark.parametrize("spec", quantize.SPECS)
def test_gradients_pass_straight_through(spec):
  """Those of values beyond the last step too."""
  given = np.full((64, 32), 0.1, np.float32)
  given[0], given[1] = -0.8, 0.8  # one of them is clipped by q4_0
  factors = np.random.default_rng(0).standard_normal(given.shape)
  view = quantize.view(spec)
  see = lambda w: view({"model": {"up": w}, "aux": {}})["model"]["up"]
  loss = lambda w: jnp.sum(jnp.sin(see(w)) * factors)
  gradient = jax.jit(jax.grad(loss))(given)
  want = np.cos(np.asarray(see(jnp.asarray(given)))) * factors
  np.testing.assert_allclose(gradient, want, rtol=1e-6)
  if spec == "q4_0":
    clipped = np.abs(np.asarray(see(jnp.asarray(given)))) < 0.75
    assert clipped[:2].any() and (np.asarray(gradient)[clipped] != 0).all()


@pytest.mark.parametrize("pooling", ["mean", "attention"])
def test_every_matrix_of_an_embedder_has_a_part(pooling):
  config = dataclasses.replace(TINY, pooling=pooling)
  for path, leaf in leaves(tree(config)).items():
    part = quantize.place(path, leaf.shape, "int8")
    vector = path.endswith("norm/scale") or path == "pooling/query"
    assert (part is None) == vector, path


@pytest.mark.parametrize(
  ("path", "shape", "message"),
  [
    ("encoder/adapter", (32, 32), r"no grid .*'encoder/adapter'.*\(32, 32\)"),
    ("up", (48, 32), r"'up' of shape \(48, 32\) has an input of 48.*blocks"),
    ("a/attention/o", (2, 24, 8), r"'a/attention/o'.* has an input of 48"),
  ],
)
def test_a_weight_that_has_no_grid_is_named(path, shape, message):
  with pytest.raises(BadInput, match=message):
    quantize.on_grid(path, np.zeros(shape, np.float32), "int4")


def test_an_unknown_precision_is_named():
  with pytest.raises(BadInput, match=r"'int44'.*did you mean 'int4'\?"):
    quantize.view("int44")
  with pytest.raises(BadInput, match="its view='int5' is unknown"):
    quantize.precision_of("quantize:int5")
  assert quantize.precision_of(quantize.view_named("mixed")) == "mixed"
  assert quantize.precision_of(quantize.view_named("float")) == "float"
  assert quantize.precision_of("lora") is None


def test_sizes_are_those_of_the_formats():
  """Of files that were made of the paper's model, in MB."""
  shapes = jax.eval_shape(
    embedder.init(PRESETS["embeddinggemma_300m"].model), jax.random.key(0)
  )["model"]
  flat = jax.tree_util.tree_leaves_with_path(shapes)
  named = {sharding.path_name(path): leaf.shape for path, leaf in flat}
  size = lambda precision: round(quantize.nbytes(named, precision) / 1e6)
  assert size("float") == 1230
  assert size("int4") == 173 and size("int8_block") == 327
  assert size("int8") == 309 and size("mixed") == 174


@pytest.mark.parametrize("spec", ["int4", "mixed"])
def test_a_mesh_sees_the_same_and_sends_nothing(spec):
  params = tree()
  view = quantize.view(spec)
  want = leaves(jax.jit(view)(params))
  mesh = sharding.make_mesh(4, 2)
  places = sharding.tree_shardings(params, mesh)
  spread = jax.device_put(params, places)
  seeing = jax.jit(view, out_shardings=places).lower(spread).compile()
  text = seeing.as_text()
  assert not any(word in text for word in ("all-gather", "all-reduce"))
  got = leaves(seeing(spread))
  for path, leaf in want.items():
    np.testing.assert_array_equal(got[path], leaf)
