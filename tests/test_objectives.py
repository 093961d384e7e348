"""Whatever the batch: one loss and gradient, however it is divided.

The model is a bag of words, so that many batches and meshes cost little; what
whole models do on meshes is in test_mesh.py.
"""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import test_mesh
from hypothesis import given, settings
from hypothesis import strategies as st

from embeddinggemma import sharding
from embeddinggemma.data import loader, mixture
from embeddinggemma.losses import contrastive, denoise, objectives
from embeddinggemma.model.embedder import unit_or_constant
from embeddinggemma.training.stages import pairs
from embeddinggemma.types import Embeddings, PairBatch, Teacher, Text

# Data, fsdp, groups a device, table of rules.
DIVIDED = (
  (1, 1, 4, "fsdp"),
  (2, 1, 2, "fsdp"),
  (8, 1, 2, "zero1"),
  (4, 2, 1, "fsdp"),
  (4, 2, 4, "zero1"),
)
KINDS = ("pairs", "texts", "pretrain", "adapt")
WIDTH = 16


def params(seed: int) -> dict:
  """A table, and a projection to the teacher."""
  rng = np.random.default_rng(seed)
  normal = lambda *shape: rng.standard_normal(shape).astype(np.float32)
  return {
    "model": {"embedding": normal(1024, WIDTH)},
    "aux": {"projection": normal(WIDTH, test_mesh.TAUGHT)},
  }


def bag_of_words(params, ids, segment_ids, valid):
  """The mean of a text's rows of the table, at unit norm."""
  words = params["model"]["embedding"][ids]
  member = segment_ids[..., None] == jnp.arange(valid.shape[0])[None, None]
  summed = jnp.einsum("rlb,rld->bd", member.astype(words.dtype), words)
  return unit_or_constant(summed, valid)


def next_word(params, *texts):
  """Next tokens of the last text, given the same text's words of the first."""
  table = params["model"]["embedding"]
  ids, segment_ids, valid = texts[-1]
  same = segment_ids[:, :, None] == texts[0][1][:, None, :]
  share = same / jnp.maximum(jnp.sum(same, axis=2, keepdims=True), 1)
  seen = jnp.einsum("rls,rsd->rld", share, table[texts[0][0]])
  hidden = 0.3 * (table[ids] + seen)
  return denoise.next_token(hidden, table, ids, segment_ids, valid, 0.0, 256)


def objective_of(kind: str, mesh, rules: str):
  """All losses on, over a model that compiles in no time."""
  if kind in ("pairs", "texts"):
    encode = sharding.data_parallel(bag_of_words, mesh, rules)
    config = test_mesh.config("separate")
    if kind == "texts":
      loss = dataclasses.replace(config.loss, contrastive=0.0)
      config = dataclasses.replace(config, loss=loss)
    terms = pairs.terms(config, mesh)
    return objectives.pair_objective(objectives.separate(encode), terms, mesh)
  one = lambda params, *text: next_word(params, text)
  f = next_word if kind == "adapt" else one
  losses = sharding.data_parallel(f, mesh, rules)
  return objectives.language_objective(losses)


@functools.cache
def program(kind: str, data: int, fsdp: int, rules: str):
  """Loss, metrics and gradients on a mesh, of parameters as they are split."""
  mesh = sharding.make_mesh(data, fsdp, jax.devices()[: data * fsdp])
  objective = objective_of(kind, mesh, rules)
  run = jax.jit(jax.value_and_grad(objective, has_aux=True))

  def call(params, batch):
    # A parameter's place is that of its path in a state.
    placed = sharding.tree_shardings({"params": params}, mesh, rules)
    params = jax.device_put(params, placed["params"])
    return jax.device_get(run(params, sharding.to_devices(batch, mesh)))

  return call


def single_texts(seed: int, groups: int, size: int) -> PairBatch:
  """Random texts without a partner, some of them equal, and their teacher's."""
  rng = np.random.default_rng(seed)
  text = lambda: rng.integers(4, 500, rng.integers(3, 33), dtype=np.int32)
  keys = rng.integers(0, 40, (size, 1)).repeat(2, axis=1).astype(np.uint32)
  taught = rng.permutation(size)[:, None]
  vectors = rng.standard_normal((size, test_mesh.TAUGHT), np.float32)
  texts = [text() for _ in range(size)]
  rows = mixture.Rows("texts", texts, None, keys, [""] * size, (), taught)
  whole = test_mesh.BATCH
  packer = loader.Packer({"texts": rows}, whole, groups, 0, vectors)
  # All batches in one shape: one program for all of them.
  packer._shapes = {"texts": (loader.Side(whole // groups, 64),)}
  return packer(mixture.Draw("texts", np.arange(size))).batch


def batch_of(kind: str, seed: int, groups: int, size: int):
  if kind == "texts":
    return single_texts(seed, groups, size)
  if kind == "pairs":
    return test_mesh.batch(seed, groups, size)
  return test_mesh.language_batch(kind, seed, groups, size)


@pytest.mark.parametrize("kind", KINDS)
@settings(max_examples=4, deadline=None, derandomize=True)
@given(st.integers(1, 2**31), st.integers(1, test_mesh.BATCH))
def test_no_division_changes_anything(kind, seed, size) -> None:
  held = params(seed)
  whole = batch_of(kind, seed, 1, size)
  (loss, metrics), gradients = program(kind, 1, 1, "fsdp")(held, whole)
  assert np.isfinite(loss)
  for data, fsdp, groups, rules in DIVIDED:
    batch = batch_of(kind, seed, data * fsdp * groups, size)
    got = program(kind, data, fsdp, rules)(held, batch)
    np.testing.assert_allclose(got[0][0], loss, rtol=1e-5)
    for name, value in metrics.items():
      np.testing.assert_allclose(got[0][1][name], value, rtol=2e-5, atol=1e-5)
    for a, b in zip(
      jax.tree.leaves(got[1]), jax.tree.leaves(gradients), strict=True
    ):
      np.testing.assert_allclose(a, b, rtol=1e-4, atol=2e-5 * np.abs(b).max())


def test_of_single_texts_one_side_is_encoded() -> None:
  batch = single_texts(3, 1, 21)
  assert batch.positive is None and batch.negative is None
  (loss, metrics), _ = program("texts", 1, 1, "fsdp")(params(1), batch)
  assert "accuracy" not in metrics and "contrastive" not in metrics
  whole = sum(metrics[n] for n in ("distill", "score_matching", "spread_out"))
  np.testing.assert_allclose(loss, whole, rtol=1e-6)


def test_other_empty_places_are_no_answer() -> None:
  """The test above can fail: a pair more is another loss."""
  run = program("pairs", 1, 1, "fsdp")
  few, more = (
    run(params(1), test_mesh.batch(3, 1, size))[0][0] for size in (20, 21)
  )
  assert abs(few - more) > 1e-3


def compiled(size: int, group: int):
  """The loss and gradients of a batch of pairs in groups of `group`; not run."""
  mesh = sharding.make_mesh(4, 2)
  shape = jax.ShapeDtypeStruct
  groups = size // group

  def text() -> Text:
    ids = shape((groups, group, 16), jnp.int32)
    return Text(ids, ids, shape((groups, group), jnp.bool_))

  taught = shape((size, test_mesh.TAUGHT), jnp.float32)
  keys, task = shape((size, 2), jnp.uint32), shape((), jnp.int32)
  teacher = Teacher(taught, taught, None)
  batch = PairBatch(text(), text(), None, teacher, keys, task)
  place = lambda x, s: shape(x.shape, x.dtype, sharding=s)
  placed = sharding.tree_shardings({"params": params(0)}, mesh, "zero1")
  args = (
    jax.tree.map(place, params(0), placed["params"]),
    jax.tree.map(
      lambda x: place(x, sharding.batch_sharding(mesh, x.shape)), batch
    ),
  )
  run = jax.value_and_grad(objective_of("pairs", mesh, "zero1"), has_aux=True)
  return jax.jit(run).lower(*args).compile()


def test_memory_grows_by_candidates_and_rows_of_logits() -> None:
  """At a fixed group, on eight devices."""
  small, large = 512, 2048
  columns = WIDTH + test_mesh.TAUGHT
  held = lambda size: 4 * size * columns + 4 * size * size // 8
  before, after = (
    compiled(size, 8).memory_analysis().temp_size_in_bytes
    for size in (small, large)
  )
  assert after - before <= 1.1 * (held(large) - held(small))


def test_no_device_holds_all_pairs_of_pairs() -> None:
  text = compiled(512, 8).as_text()
  assert "f32[16,512]" in text, "the rows that are computed at once"
  assert "512,512]" not in text


@pytest.mark.parametrize("at_once", [1, 3, 7])
def test_rows_at_once_change_nothing(at_once: int) -> None:
  """Of six a device, all are computed at once where seven may be."""
  mesh = sharding.make_mesh(2, 2, jax.devices()[:4])
  rng = np.random.default_rng(0)
  vectors = rng.standard_normal((2, 24, 8)).astype(np.float32)
  vectors /= np.linalg.norm(vectors, axis=-1, keepdims=True)
  keys = rng.integers(0, 30, (24, 2)).astype(np.uint32)
  valid = np.arange(24) < 21
  term = lambda over_rows: contrastive.info_nce(0.05, True, 5.0, over_rows)
  empty = np.zeros((1, 1, 1), np.int32)
  text = Text(empty, empty, valid[None])
  batch = PairBatch(text, text, None, None, keys, np.asarray(0, np.int32))

  def loss(vectors, over_rows=contrastive.at_once):
    query, positive = vectors
    embeddings = Embeddings(query, positive, None, positive)
    losses = term(over_rows)({}, embeddings, batch).total
    return jnp.sum(jnp.where(valid, losses, 0.0)), losses

  divided = lambda f: sharding.over_rows(f, mesh, at_once)
  whole = jax.value_and_grad(loss, has_aux=True)
  (_, want), want_gradient = jax.jit(whole)(vectors)
  got = jax.jit(lambda vectors: whole(vectors, divided))(vectors)
  np.testing.assert_allclose(got[0][1], want, rtol=2e-5, atol=1e-5)
  np.testing.assert_allclose(got[1], want_gradient, rtol=2e-5, atol=1e-5)


@functools.cache
def compared(data: int, fsdp: int, rules: str, margin: float | None):
  """Loss, metrics and gradients of a batch without hard negatives or teacher."""
  mesh = sharding.make_mesh(data, fsdp, jax.devices()[: data * fsdp])
  encode = sharding.data_parallel(bag_of_words, mesh, rules)
  config = test_mesh.config("separate")
  loss = dataclasses.replace(
    config.loss.without_teacher(), false_negative_margin=margin
  )
  terms = pairs.terms(dataclasses.replace(config, loss=loss), mesh)
  objective = objectives.pair_objective(
    objectives.separate(encode), terms, mesh
  )
  run = jax.jit(jax.value_and_grad(objective, has_aux=True))
  return lambda params, batch: jax.device_get(
    run(params, sharding.to_devices(batch, mesh))
  )


def shared_by(batch: PairBatch, count: int) -> PairBatch:
  """The batch without negatives, in which `count` pairs share a positive.

  Which, depends on their texts alone, so that it is the same in any grouping.
  """
  order = np.argsort(batch.keys[:, 0], kind="stable")
  valid = batch.query.valid.reshape(-1)
  keys = np.arange(2 * len(order), dtype=np.uint32).reshape(-1, 2)
  keys[:, 1][[i for i in order if valid[i]][:count]] = 1000
  return batch._replace(keys=keys, negative=None, teacher=None)


@pytest.mark.parametrize("margin", [None, 0.1])
@pytest.mark.parametrize("division", DIVIDED[2:])
def test_pairs_without_a_negative_in_any_division(division, margin) -> None:
  """Twenty pairs share a positive: alone with each other, not with one more."""
  data, fsdp, groups, rules = division
  size = data * fsdp * groups
  for filled, share in ((20, 1.0), (21, 0.0)):
    whole_batch, batch = (
      shared_by(test_mesh.batch(3, n, filled), 20) for n in (1, size)
    )
    (loss, whole), _ = compared(1, 1, "fsdp", margin)(params(1), whole_batch)
    got = compared(data, fsdp, rules, margin)(params(1), batch)
    (divided, metrics), gradients = got
    np.testing.assert_allclose(divided, loss, rtol=1e-5)
    assert set(metrics) == set(whole)
    for name, value in whole.items():
      np.testing.assert_allclose(metrics[name], value, rtol=2e-5, atol=1e-5)
    assert all(np.isfinite(x).all() for x in jax.tree.leaves(gradients))
    if margin is None:
      assert metrics["without_negatives"] == share
    assert metrics["idle"] == (share == 1)
    assert np.isnan(metrics["accuracy"]) == (share == 1)
    assert np.isnan(metrics["contrastive/8"]) == (share == 1)


def test_a_teacher_still_teaches_pairs_without_a_negative() -> None:
  mesh = sharding.make_mesh(1, 1, jax.devices()[:1])
  batch = test_mesh.batch(3, 1)
  alone = batch._replace(keys=np.zeros_like(batch.keys), negative=None)
  alone = alone._replace(teacher=alone.teacher._replace(negative=None))
  objective = objective_of("pairs", mesh, "fsdp")
  loss, metrics = jax.jit(objective)(params(1), alone)
  assert metrics["without_negatives"] == 1 and not metrics["idle"]
  assert not metrics["score_matching"] > 0, "of one candidate there is none"
  np.testing.assert_allclose(
    loss, metrics["distill"] + metrics["spread_out"], rtol=1e-6
  )
