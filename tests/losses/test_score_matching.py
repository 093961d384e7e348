"""Score matching against its equation; duplicates, empty places, one pair."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.test_util import check_grads
from test_distill import SIZE, WIDTH, example, unit

from embeddinggemma.losses import matryoshka
from embeddinggemma.losses.score_matching import score_matching
from embeddinggemma.types import BadInput, Embeddings, PairBatch, Teacher

TAU = 0.1


def with_duplicates(batch):
  """Pairs 0 and 3 share a query, 1 and 2 a positive."""
  keys = batch.keys.at[3, 0].set(batch.keys[0, 0])
  return batch._replace(keys=keys.at[2, 1].set(batch.keys[1, 1]))


def log_share(tree, i, columns, there):
  """log softmax of a query's cosines with these positives and its negatives."""
  texts = np.float64(tree.positive)[columns]
  if tree.negative is not None:
    texts = np.concatenate([texts, np.float64(tree.negative[i])[there[i]]])
  logits = unit(texts) @ unit(np.float64(tree.query[i])) / TAU
  return logits - np.log(np.exp(logits).sum())


def scores_numpy(e, batch, valid, there):
  """KL(teacher || student) of each query's candidates, written out."""
  keys, out = np.asarray(batch.keys), np.zeros(len(batch.keys))
  for i in np.flatnonzero(valid):
    alike = (keys == keys[i]).any(axis=1)
    columns = [j for j in np.flatnonzero(valid) if j == i or not alike[j]]
    p = log_share(batch.teacher, i, columns, there)
    q = log_share(e, i, columns, there)
    out[i] = (np.exp(p) * (p - q)).sum()
  return out


@pytest.mark.parametrize("target", [WIDTH, 24])
@pytest.mark.parametrize("hard", [True, False])
def test_it_is_the_equation(target, hard):
  (e, batch), valid, there = example(target)
  batch = with_duplicates(batch)
  if not hard:
    e = e._replace(negative=None)
    teacher = batch.teacher._replace(negative=None)
    batch = batch._replace(negative=None, teacher=teacher)
  found = score_matching(TAU)({}, e, batch)
  want = scores_numpy(e, batch, valid, there)
  np.testing.assert_allclose(found.total[valid], want[valid], rtol=1e-4)
  assert found.counted[valid].all() and (want[valid] > 0.1).all()


def test_negatives_that_the_teacher_does_not_know_are_left_out():
  (e, batch), _, _ = example()
  fewer = batch._replace(teacher=batch.teacher._replace(negative=None))
  got = score_matching(TAU)({}, e, fewer)
  none = e._replace(negative=None), fewer._replace(negative=None)
  want = score_matching(TAU)({}, *none)
  np.testing.assert_array_equal(got.total, want.total)


def test_the_length_of_the_teachers_vectors_does_not_matter():
  (e, batch), _, _ = example(24)
  longer = jax.tree.map(lambda x: 3 * x, batch.teacher)
  got = score_matching(TAU)({}, e, batch._replace(teacher=longer))
  want = score_matching(TAU)({}, e, batch)
  np.testing.assert_allclose(got.total, want.total, rtol=1e-4, atol=1e-6)


def test_every_dimension_is_compared_with_the_whole_teacher():
  (e, batch), valid, there = example(24)
  term = matryoshka.matryoshka(score_matching(TAU), (16, 4))
  cut = Embeddings(*(unit(np.asarray(x)[..., :4]) for x in e))
  want = scores_numpy(e, batch, valid, there)
  want += scores_numpy(cut, batch, valid, there)
  found = term({}, e, batch)
  np.testing.assert_allclose(found.total[valid], want[valid], rtol=1e-4)
  assert list(found.parts) == ["16", "4"]


def test_at_the_teacher_it_is_zero_without_a_gradient():
  (e, batch), valid, _ = example()
  batch = batch._replace(
    teacher=batch.teacher._replace(
      query=e.query, positive=e.positive, negative=e.negative
    )
  )
  term = score_matching(TAU)
  found = term({}, e, batch).total
  np.testing.assert_allclose(found[valid], 0, atol=1e-5)
  loss = lambda e: jnp.sum(jnp.where(valid, term({}, e, batch).total, 0))
  for leaf in jax.tree.leaves(jax.grad(loss)(e)):
    np.testing.assert_allclose(leaf, 0, atol=1e-4)


def test_what_is_not_there_leaks_nothing():
  (e, batch), valid, there = example(24)
  junk = lambda x, m: jnp.where(m[..., None], x, jnp.nan)
  teacher = batch.teacher
  broken = teacher._replace(
    query=junk(teacher.query, valid),
    positive=junk(teacher.positive, valid),
    negative=junk(teacher.negative, there),
  )
  term = score_matching(TAU)
  holed = e._replace(negative=junk(e.negative, there))
  got = term({}, holed, batch._replace(teacher=broken))
  np.testing.assert_array_equal(got.total, term({}, e, batch).total)
  loss = lambda e: term({}, e, batch._replace(teacher=broken)).total.sum()
  for leaf in jax.tree.leaves(jax.grad(loss)(holed)):
    assert np.isfinite(leaf).all()


@pytest.mark.parametrize("temperature", [0.001, 100.0])
def test_all_duplicates_are_not_counted(temperature):
  """Masked scores may be far above all others."""
  (e, batch), _, there = example(24)
  alike = batch._replace(keys=jnp.zeros_like(batch.keys))
  found = score_matching(temperature)({}, e, alike)
  hard = there.any(axis=1)
  np.testing.assert_array_equal(found.counted, hard)
  assert not found.total[~hard].any() and np.isfinite(found.total).all()
  none = e._replace(negative=None)
  teacher = batch.teacher._replace(negative=None)
  alike = alike._replace(negative=None, teacher=teacher)
  term = score_matching(temperature)
  found = term({}, none, alike)
  assert not found.counted.any() and not found.total.any()
  loss = lambda e: term({}, e, alike).total.sum()
  for leaf in jax.tree.leaves(jax.grad(loss)(none)):
    assert not leaf.any()


@pytest.mark.parametrize("temperature", [0.001, 100.0])
def test_any_temperature_has_a_finite_gradient(temperature):
  (e, batch), _, _ = example(24)
  batch = with_duplicates(batch)
  term = score_matching(temperature)
  loss = lambda e: term({}, e, batch).total.sum()
  for leaf in jax.tree.leaves(jax.grad(loss)(e)):
    assert np.isfinite(leaf).all()


def test_a_single_pair_is_not_counted():
  (e, batch), _, _ = example(24, groups=1)
  one = lambda tree: jax.tree.map(lambda x: x[:1], tree)
  text = batch.query._replace(valid=batch.query.valid[:, :1])
  teacher = one(batch.teacher)._replace(negative=None)
  alone = batch._replace(
    query=text,
    positive=text,
    negative=None,
    teacher=teacher,
    keys=batch.keys[:1],
  )
  found = score_matching(TAU)({}, one(e)._replace(negative=None), alone)
  assert found.counted.tolist() == [False] and found.total.tolist() == [0]


def test_the_gradient_is_right():
  (e, batch), valid, _ = example(24)
  term = score_matching(0.5)

  def loss(query, positive, negative):
    moved = Embeddings(*map(jnp.asarray, (query, positive, negative, positive)))
    return jnp.where(valid, term({}, moved, batch).total, 0).mean()

  sides = e.query, e.positive, e.negative
  check_grads(loss, sides, 1, modes=["rev"], atol=1e-2, rtol=1e-2)


def test_without_a_teacher_it_does_not_run():
  (e, batch), _, _ = example()
  bare = batch._replace(teacher=None)
  half = batch._replace(teacher=batch.teacher._replace(query=None))
  for lacking in (bare, half):
    with pytest.raises(BadInput, match=r"loss\.score_matching needs a teacher"):
      score_matching(TAU)({}, e, lacking)


def test_the_order_of_the_batch_does_not_matter():
  (e, batch), _, _ = example(24, groups=1)
  order = np.random.default_rng(0).permutation(SIZE)
  moved = lambda tree: jax.tree.map(lambda x: x[order], tree)
  text = batch.query._replace(valid=batch.query.valid[:, order])
  apart = batch.negative.valid.reshape(SIZE, -1)[order].reshape(1, -1)
  other = batch._replace(
    query=text,
    positive=text,
    negative=batch.negative._replace(valid=apart),
    teacher=moved(batch.teacher),
    keys=batch.keys[order],
  )
  got = score_matching(TAU)({}, moved(e), other).total
  want = score_matching(TAU)({}, e, batch).total[order]
  np.testing.assert_allclose(got, want, rtol=1e-4, atol=1e-5)


def single(e, batch, count=SIZE):
  """The first queries as texts without a partner, of which 0 and 3 are one."""
  keys = jnp.stack([jnp.arange(SIZE, dtype=jnp.uint32)] * 2, axis=1)
  query = e.query[:count]
  text = batch.query._replace(valid=batch.query.valid.reshape(1, -1)[:, :count])
  teacher = Teacher(batch.teacher.query[:count], None, None)
  return Embeddings(query, None, None, query), PairBatch(
    text, None, None, teacher, keys.at[3].set(keys[0])[:count], batch.task
  )


def test_single_texts_are_compared_with_each_other():
  (e, batch), valid, _ = example(24)
  e, batch = single(e, batch)
  found = score_matching(TAU)({}, e, batch)
  keys = np.asarray(batch.keys)[:, 0]

  def log_share(x, i):
    x = unit(np.float64(x))
    others = [j for j in np.flatnonzero(valid) if keys[j] != keys[i]]
    logits = x[others] @ x[i] / TAU
    return logits - np.log(np.exp(logits).sum())

  for i in np.flatnonzero(valid):
    p, q = log_share(batch.teacher.query, i), log_share(e.query, i)
    want = (np.exp(p) * (p - q)).sum()
    np.testing.assert_allclose(found.total[i], want, rtol=1e-4)
  assert found.counted[valid].all()


@pytest.mark.parametrize("count", [1, 2])
def test_too_few_single_texts_are_not_counted(count):
  """Of a single other text, both models say that it is the nearest."""
  (e, batch), _, _ = example(24)
  found = score_matching(TAU)({}, *single(e, batch, count))
  assert not found.counted.any() and not found.total.any()
