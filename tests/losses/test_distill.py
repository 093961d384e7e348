"""Embedding matching against its equation; what has no text or no teacher."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import NamedSharding
from jax.sharding import PartitionSpec as P
from jax.test_util import check_grads

from embeddinggemma import sharding
from embeddinggemma.losses import contrastive, distill, matryoshka
from embeddinggemma.types import BadInput, Embeddings, PairBatch, Teacher, Text

SIZE, NUMBER, WIDTH = 8, 3, 16


def unit(x):
  return x / np.linalg.norm(x, axis=-1, keepdims=True)


def text(valid):
  shape = (len(valid), 1, 1)
  return Text(np.zeros(shape, np.int32), np.zeros(shape, np.int32), valid)


def example(target=WIDTH, seed=0, groups=2):
  """Unit vectors of student and teacher; pair 6 and some negatives are not."""
  rng = np.random.default_rng(seed)
  draw = lambda *shape: unit(rng.normal(size=shape)).astype(np.float32)
  q, p = draw(SIZE, WIDTH), draw(SIZE, WIDTH)
  e = Embeddings(q, p, draw(SIZE, NUMBER, WIDTH), p)
  teacher = Teacher(
    draw(SIZE, target), draw(SIZE, target), draw(SIZE, NUMBER, target)
  )
  valid = np.arange(SIZE) != 6
  there = np.arange(SIZE)[:, None] >> np.arange(NUMBER) & 1 > 0
  there &= valid[:, None]
  sides = [text(x.reshape(groups, -1)) for x in (valid, valid, there)]
  keys = np.arange(2 * SIZE, dtype=np.uint32).reshape(SIZE, 2)
  batch = PairBatch(*sides, teacher, keys, np.asarray(0, np.int32))
  return jax.tree.map(jnp.asarray, (e, batch)), valid, there


def matching_numpy(e, teacher, there, valid, distance, projection):
  """L_Q + L_P + L_N, written out."""

  def apart(x, y):
    x, y = np.float64(x) @ projection, np.float64(y)
    if distance == "l2":
      return np.linalg.norm(x - y)
    return 1 - x @ y / np.linalg.norm(x) / np.linalg.norm(y)

  out = np.zeros(SIZE)
  for i in np.flatnonzero(valid):
    out[i] = apart(e.query[i], teacher.query[i])
    out[i] += apart(e.positive[i], teacher.positive[i])
    hard = np.flatnonzero(there[i])
    of_each = [apart(e.negative[i, n], teacher.negative[i, n]) for n in hard]
    out[i] += np.mean(of_each) if of_each else 0.0
  return out


@pytest.mark.parametrize("distance", ["l2", "cosine"])
@pytest.mark.parametrize("target", [WIDTH, 24])
def test_it_is_the_equation(distance, target):
  (e, batch), valid, there = example(target)
  aux, projection = {}, np.eye(WIDTH)
  if target != WIDTH:
    aux["projection"] = distill.init_projection(jax.random.key(0), 16, target)
    projection = np.float64(aux["projection"])
  got = distill.embedding_matching(distance)(aux, e, batch)
  want = matching_numpy(e, batch.teacher, there, valid, distance, projection)
  np.testing.assert_allclose(got, want, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("distance", ["l2", "cosine"])
@pytest.mark.parametrize("dims", [(8, 4), (16, 8, 4)])
def test_prefixes_are_matched_too(distance, dims):
  """The whole width once, whether it is among the dimensions or not."""
  (e, batch), valid, there = example()
  found = distill.embedding_matching(distance, dims)({}, e, batch)
  given = lambda tree, d: [
    None if x is None else unit(np.asarray(x)[..., :d]) for x in tree
  ]
  assert list(found.parts) == ["16", "8", "4"] and found.counted is None
  total = 0.0
  for dim in (16, 8, 4):
    cut = Embeddings(*given(e, dim)), Teacher(*given(batch.teacher, dim))
    want = matching_numpy(*cut, there, valid, distance, np.eye(dim))
    got = found.parts[str(dim)].total
    np.testing.assert_allclose(got, want, rtol=1e-5, atol=1e-6)
    total = total + want
  np.testing.assert_allclose(found.total, total, rtol=1e-5, atol=1e-6)
  whole = distill.embedding_matching(distance)({}, e, batch)
  np.testing.assert_array_equal(found.parts["16"].total, whole)


@pytest.mark.parametrize("distance", ["l2", "cosine"])
@pytest.mark.parametrize("dims", [(), (8,)])
def test_what_is_not_there_leaks_nothing(distance, dims):
  target = WIDTH if dims else 24
  (e, batch), valid, there = example(target)
  fresh = distill.init_projection(jax.random.key(0), 16, 24)
  aux = {} if dims else {"projection": fresh}
  matching = distill.embedding_matching(distance, dims)
  term = lambda *given: matryoshka.values(matching(*given)).total

  def junk(tree):
    one = lambda x, m: jnp.where(m[..., None], x, jnp.nan)
    return tree._replace(
      query=one(tree.query, valid),
      positive=one(tree.positive, valid),
      negative=one(tree.negative, there),
    )

  broken = junk(e), batch._replace(teacher=junk(batch.teacher))
  np.testing.assert_array_equal(term(aux, *broken), term(aux, e, batch))
  loss = lambda aux, e, batch: term(aux, e, batch).sum()
  grads = jax.grad(loss, (0, 1))(aux, *broken)
  for leaf in jax.tree.leaves(grads):
    assert np.isfinite(leaf).all()
  for leaf, want in zip(
    jax.tree.leaves(grads[0]), jax.tree.leaves(jax.grad(loss)(aux, e, batch))
  ):
    np.testing.assert_array_equal(leaf, want)
  np.testing.assert_array_equal(grads[1].negative[~there], 0)


@pytest.mark.parametrize("distance", ["l2", "cosine"])
def test_a_part_without_teacher_is_skipped(distance):
  (e, batch), _, _ = example()
  term = distill.embedding_matching(distance)
  parts = []
  for name in Teacher._fields:
    only = Teacher(None, None, None)._replace(
      **{name: getattr(batch.teacher, name)}
    )
    parts.append(term({}, e, batch._replace(teacher=only)))
  np.testing.assert_allclose(sum(parts), term({}, e, batch), rtol=1e-6)
  fewer = batch._replace(
    negative=None, teacher=batch.teacher._replace(negative=None)
  )
  got = term({}, e._replace(negative=None), fewer)
  np.testing.assert_array_equal(got, parts[0] + parts[1])


@pytest.mark.parametrize("distance", ["l2", "cosine"])
def test_at_the_teacher_it_is_zero_with_a_finite_gradient(distance):
  (e, batch), _, _ = example()
  teacher = Teacher(e.query, e.positive, e.negative)
  batch = batch._replace(teacher=teacher)
  term = distill.embedding_matching(distance)
  np.testing.assert_allclose(term({}, e, batch), 0, atol=1e-6)
  loss = lambda e: term({}, e, batch).sum()
  for leaf in jax.tree.leaves(jax.grad(loss)(e)):
    assert np.isfinite(leaf).all()


def test_a_vector_of_zeros_has_cosine_zero():
  (e, batch), valid, _ = example()
  e = jax.tree.map(jnp.zeros_like, e)
  batch = batch._replace(teacher=batch.teacher._replace(negative=None))
  term = distill.embedding_matching("cosine")
  np.testing.assert_array_equal(term({}, e, batch), 2.0 * valid)
  loss = lambda e: term({}, e, batch).sum()
  assert np.isfinite(jax.grad(loss)(e).query).all()


@pytest.mark.parametrize("distance", ["l2", "cosine"])
def test_the_gradient_is_right(distance):
  (e, batch), _, _ = example(24)
  projection = distill.init_projection(jax.random.key(0), 16, 24)
  term = distill.embedding_matching(distance)
  loss = lambda projection, query: term(
    {"projection": jnp.asarray(projection)},
    e._replace(query=jnp.asarray(query)),
    batch,
  ).mean()
  check_grads(
    loss, (projection, e.query), 1, modes=["rev"], atol=1e-2, rtol=1e-2
  )


def test_the_gradient_at_prefixes_is_right():
  (e, batch), _, _ = example()
  term = distill.embedding_matching("l2", (8,))
  loss = lambda query: term(
    {}, e._replace(query=jnp.asarray(query)), batch
  ).total.mean()
  check_grads(loss, (e.query,), 1, modes=["rev"], atol=1e-2, rtol=1e-2)


def test_a_fresh_projection_keeps_lengths_and_angles_about():
  projection = distill.init_projection(jax.random.key(1), 64, 512)
  x = unit(np.random.default_rng(0).normal(size=(50, 64)))
  y = np.asarray(x @ projection)
  np.testing.assert_allclose(np.linalg.norm(y, axis=1), 1, atol=0.15)
  np.testing.assert_allclose(unit(y) @ unit(y).T, x @ x.T, atol=0.2)


@pytest.mark.parametrize(
  ("aux", "message"),
  [
    ({}, "teacher's vectors have width 24, the student's 16, and no proj"),
    ({"projection": jnp.zeros((16, 32))}, r"shape \(16, 32\), .* 16 .* 24"),
    ({"projection": jnp.zeros((8, 24))}, r"shape \(8, 24\), .* 16 .* 24"),
  ],
)
def test_widths_that_differ_are_named(aux, message):
  (e, batch), _, _ = example(24)
  with pytest.raises(BadInput, match=message):
    distill.embedding_matching("l2")(aux, e, batch)


def test_without_a_teacher_or_a_known_distance_it_does_not_run():
  (e, batch), _, _ = example()
  with pytest.raises(BadInput, match="no teacher's vectors"):
    distill.embedding_matching("l2")({}, e, batch._replace(teacher=None))
  with pytest.raises(BadInput, match="unknown distance 'mse'; use l2 or cos"):
    distill.embedding_matching("mse")


@pytest.mark.parametrize("shape", [(8, 1), (4, 2)])
def test_devices_change_nothing(shape):
  """Matching and hard negatives, split over a mesh as the stages do."""
  (e, batch), _, _ = example(24, groups=8)
  aux = {"projection": distill.init_projection(jax.random.key(0), 16, 24)}
  terms = [
    distill.embedding_matching("l2"),
    contrastive.info_nce(0.05, True, 5.0),
  ]
  of = lambda term, e, batch: matryoshka.values(term(aux, e, batch)).total
  total = lambda e, batch: sum(of(term, e, batch) for term in terms)
  mesh = sharding.make_mesh(*shape)
  split = sharding.to_devices((e, batch), mesh)
  everywhere = NamedSharding(mesh, P())
  candidates = jax.device_put(e.candidates, everywhere)
  split = (split[0]._replace(candidates=candidates), split[1])
  loss = lambda e, batch: total(e, batch).sum()
  values = jax.jit(total)(*split)
  np.testing.assert_allclose(values, jax.jit(total)(e, batch), rtol=2e-6)
  for one, other in zip(
    jax.tree.leaves(jax.jit(jax.grad(loss))(*split)),
    jax.tree.leaves(jax.jit(jax.grad(loss))(e, batch)),
    strict=True,
  ):
    np.testing.assert_allclose(one, other, rtol=1e-5, atol=1e-6)
