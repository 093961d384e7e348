"""Each loss against a transcription of its equation; degenerate inputs."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from jax.test_util import check_grads

from embeddinggemma.losses import contrastive, matryoshka, spread_out
from embeddinggemma.types import (
  BadInput,
  Embeddings,
  PairBatch,
  Teacher,
  Text,
)

TAU = 0.05


def info_nce(*args, **kwargs):
  """The term, as the values of the pairs alone."""
  term = contrastive.info_nce(*args, **kwargs)
  return lambda *given: matryoshka.values(term(*given)).total


def summed(term, dims):
  term = matryoshka.matryoshka(term, dims)
  return lambda *given: term(*given).total


def unit(x):
  return x / np.linalg.norm(x, axis=-1, keepdims=True)


def example(size=8, width=16, seed=0, duplicates=True, empty=()):
  """Random unit vectors; pairs 0 and 3 share a query, 1 and 2 a positive."""
  rng = np.random.default_rng(seed)
  q, p = (unit(rng.normal(size=(size, width))).astype(np.float32) for _ in "qp")
  keys = np.arange(2 * size, dtype=np.uint32).reshape(size, 2)
  if duplicates:
    keys[3, 0], keys[2, 1] = keys[0, 0], keys[1, 1]
  valid = np.ones((1, size), bool)
  valid[0, list(empty)] = False
  text = Text(
    np.zeros((1, 1, 1), np.int32), np.zeros((1, 1, 1), np.int32), valid
  )
  batch = PairBatch(text, text, None, None, keys, np.asarray(0, np.int32))
  return jax.tree.map(jnp.asarray, (Embeddings(q, p, None, p), batch))


def nce_numpy(e, batch, tau, keep_positive, margin=np.inf, judge=None):
  """Equations 2 and 3, written out; false negatives left out by a margin.

  `judge` holds the queries and positives whose cosines say which those are.
  """
  valid = np.asarray(batch.query.valid.reshape(-1))
  e, keys, out = jax.tree.map(np.asarray, e), np.asarray(batch.keys), []
  q, p = judge or (e.query, e.positive)
  for i in range(len(e.query)):
    total, own = 0.0, e.query[i] @ e.positive[i]
    for j in range(len(e.query)):
      same = (keys[i] == keys[j]).any()
      same |= q[i] @ p[j] > q[i] @ p[i] + margin
      if (j == i and keep_positive) or (j != i and not same and valid[j]):
        total += np.exp(np.float64(e.query[i] @ e.candidates[j]) / tau)
    log = np.log(total) if total else -np.inf
    out.append(log - np.float64(own) / tau)
  return np.array(out)


@pytest.mark.parametrize("keep_positive", [True, False])
@pytest.mark.parametrize("empty", [(), (5, 6)])
def test_info_nce_is_equation_2(keep_positive, empty):
  e, batch = example(empty=empty)
  got = info_nce(TAU, keep_positive)({}, e, batch)
  valid = np.asarray(batch.query.valid.reshape(-1))
  want = nce_numpy(e, batch, TAU, keep_positive)
  np.testing.assert_allclose(got[valid], want[valid], rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("keep_positive", [True, False])
@pytest.mark.parametrize("margin", [0.0, 0.1])
def test_what_scores_above_the_positive_is_no_negative(keep_positive, margin):
  e, batch = example(size=16, empty=(5,))
  got = info_nce(TAU, keep_positive, margin=margin)({}, e, batch)
  plain = info_nce(TAU, keep_positive)({}, e, batch)
  valid = np.asarray(batch.query.valid.reshape(-1))
  want = nce_numpy(e, batch, TAU, keep_positive, margin)
  some = valid & np.isfinite(want)  # a decoupled row may have nothing left
  np.testing.assert_allclose(got[some], want[some], rtol=1e-5, atol=1e-5)
  assert np.isfinite(got).all() and (got < plain - 1e-3).any()


def taught(e, batch, width=24, seed=2, scale=3.0):
  """The batch with a teacher's vectors, not of unit length, and these at it.

  Where there is no text they are NaN.
  """
  rng = np.random.default_rng(seed)
  vectors = rng.normal(size=(2, len(e.query), width)).astype(np.float32)
  valid = np.asarray(batch.query.valid).reshape(-1)
  given = np.where(valid[:, None], scale * vectors, np.nan)
  teacher = Teacher(*map(jnp.asarray, given), None)
  return batch._replace(teacher=teacher), tuple(unit(vectors))


@pytest.mark.parametrize("keep_positive", [True, False])
@pytest.mark.parametrize("margin", [0.0, 0.1])
def test_a_teacher_says_what_is_a_false_negative(keep_positive, margin):
  e, batch = example(size=16, empty=(5,))
  batch, judge = taught(e, batch)
  given = dict(margin=margin, judge="teacher")
  got = info_nce(TAU, keep_positive, **given)({}, e, batch)
  valid = np.asarray(batch.query.valid.reshape(-1))
  want = nce_numpy(e, batch, TAU, keep_positive, margin, judge)
  some = valid & np.isfinite(want)
  np.testing.assert_allclose(got[some], want[some], rtol=1e-5, atol=1e-5)
  own = info_nce(TAU, keep_positive, margin=margin)({}, e, batch)
  assert np.isfinite(got).all() and (np.abs(got - own) > 1e-3).any()
  # Without a margin nobody is asked.
  plain = info_nce(TAU, keep_positive, judge="teacher")({}, e, batch)
  want = info_nce(TAU, keep_positive)({}, e, batch)
  np.testing.assert_array_equal(plain, want)


def test_a_teacher_that_finds_all_false_leaves_nothing():
  e, batch = example(duplicates=False)
  batch, _ = taught(e, batch)
  term = contrastive.info_nce(TAU, True, margin=-2.5, judge="teacher")
  found = term({}, e, batch)
  assert not found.counted.any() and not found.total.any()
  loss = lambda q: term({}, e._replace(query=q), batch).total.sum()
  assert not jax.grad(loss)(e.query).any()


def test_a_judge_who_is_not_there_is_named():
  e, batch = example()
  term = info_nce(TAU, True, margin=0.1, judge="teacher")
  full, _ = taught(e, batch)
  half = batch._replace(teacher=full.teacher._replace(positive=None))
  for lacking in (batch, half):
    with pytest.raises(BadInput, match="false_negatives_by=teacher needs a"):
      term({}, e, lacking)


def test_of_what_is_left_out_there_is_no_gradient():
  e, batch = example(duplicates=False)
  term = info_nce(TAU, True, margin=0.0)

  def loss(positive):
    moved = e._replace(positive=positive, candidates=positive)
    return term({}, moved, batch)[0]

  gradient = np.asarray(jax.grad(loss)(e.positive))
  cosines = np.asarray(e.query @ e.candidates.T)[0]
  above = cosines > cosines[0]
  assert above.any() and not np.abs(gradient[above]).max(initial=0)
  assert np.abs(gradient[~above]).max(axis=1).min() > 0


def test_a_duplicate_is_no_negative():
  e, batch = example(duplicates=True)
  _, plain = example(duplicates=False)
  term = info_nce(1.0, True)
  masked, unmasked = term({}, e, batch), term({}, e, plain)
  lower = masked < unmasked - 1e-6
  np.testing.assert_array_equal(
    np.asarray(lower), [True, True, True, True, False, False, False, False]
  )


@pytest.mark.parametrize("keep_positive", [True, False])
def test_a_single_pair_has_loss_zero_and_finite_gradient(keep_positive):
  e, batch = example(size=1, duplicates=False)
  term = info_nce(TAU, keep_positive)
  loss = lambda q: term({}, e._replace(query=q), batch).sum()
  assert loss(e.query) == 0
  assert np.isfinite(jax.grad(loss)(e.query)).all()


@settings(max_examples=20, deadline=None)
@given(st.integers(0, 2**31 - 1))
def test_order_of_the_batch_does_not_matter(seed):
  e, batch = example(seed=seed)
  order = np.random.default_rng(seed).permutation(8)
  moved = jax.tree.map(lambda x: x[order], e)
  moved_batch = batch._replace(keys=batch.keys[order])
  for term in (info_nce(TAU, True), spread_out.spread_out):
    np.testing.assert_allclose(
      term({}, moved, moved_batch), term({}, e, batch)[order], atol=2e-5
    )


def test_info_nce_gradient_is_right():
  e, batch = example()
  term = info_nce(0.5, True)
  loss = lambda q, p: term({}, Embeddings(q, p, None, p), batch).mean()
  check_grads(
    loss, (e.query, e.positive), order=1, modes=["rev"], atol=1e-2, rtol=1e-2
  )


def with_negatives(e, batch, number=3, groups=2, there=None):
  """Random hard negatives, of which query i has those that i's bits choose."""
  size, width = e.query.shape
  rng = np.random.default_rng(1)
  negative = unit(rng.normal(size=(size, number, width))).astype(np.float32)
  if there is None:
    there = np.arange(size)[:, None] >> np.arange(number) & 1 > 0
  empty = jnp.zeros((groups, 1, 1), jnp.int32)
  # Place i * N + n of a group.
  shape = (groups, -1)
  text = lambda valid: Text(empty, empty, jnp.asarray(valid).reshape(shape))
  query = text(batch.query.valid)
  batch = batch._replace(query=query, positive=query, negative=text(there))
  return e._replace(negative=jnp.asarray(negative)), batch, there


@pytest.mark.parametrize("keep_positive", [True, False])
@pytest.mark.parametrize("alpha", [0.0, 5.0])
def test_hard_negatives_are_equation_2(keep_positive, alpha):
  e, batch, there = with_negatives(*example(empty=(6,)))
  got = info_nce(TAU, keep_positive, alpha)({}, e, batch)
  valid = np.asarray(batch.query.valid.reshape(-1))
  for i in np.flatnonzero(valid):
    s = np.float64(e.query[i] @ e.positive[i])
    total = np.exp(nce_numpy(e, batch, TAU, keep_positive)[i] + s / TAU)
    for n in np.flatnonzero(there[i]):
      hard = np.float64(e.query[i] @ e.negative[i, n])
      total += np.exp(alpha * hard) * np.exp(hard / TAU)
    np.testing.assert_allclose(got[i], np.log(total) - s / TAU, rtol=1e-5)


@pytest.mark.parametrize("keep_positive", [True, False])
def test_an_absent_negative_changes_no_bit(keep_positive):
  e, batch = example(empty=(5,))
  hard, padded, there = with_negatives(e, batch)
  junk = jnp.where(there[:, :, None], hard.negative, jnp.nan)
  got = info_nce(TAU, keep_positive, 5.0)({}, e._replace(negative=junk), padded)
  want = info_nce(TAU, keep_positive)({}, e, batch)
  none = ~there.any(axis=1)
  np.testing.assert_array_equal(got[none], want[none])
  assert np.isfinite(got).all()


def test_absent_negatives_change_no_bit_of_the_gradient():
  e, batch = example(empty=(5,))
  _, padded, _ = with_negatives(e, batch, there=np.zeros((8, 3), bool))
  nan = jnp.full((8, 3, 16), jnp.nan)

  def gradients(e, batch):
    term = info_nce(TAU, True, 5.0)
    loss = lambda q, p: term(
      {}, e._replace(query=q, positive=p, candidates=p), batch
    ).sum()
    return jax.grad(loss, (0, 1))(e.query, e.positive)

  for got, want in zip(
    gradients(e._replace(negative=nan), padded), gradients(e, batch)
  ):
    np.testing.assert_array_equal(got, want)


def test_a_single_pair_with_a_negative_has_a_loss():
  there = np.ones((1, 1), bool)
  e, batch, _ = with_negatives(*example(1, duplicates=False), 1, 1, there)
  got = info_nce(TAU, False, 0.0)({}, e, batch)
  want = (e.query[0] @ e.negative[0, 0] - e.query[0] @ e.positive[0]) / TAU
  np.testing.assert_allclose(got, [want], rtol=1e-5)


def test_the_weight_of_hardness_has_no_gradient():
  """d log(rest + w exp(s/tau)) / ds = p / tau, with p's share by w."""
  e, batch, there = with_negatives(*example(duplicates=False), 1)
  alpha, tau = 5.0, 0.5
  term = info_nce(tau, True, alpha)
  scores = lambda n: term({}, e._replace(negative=n), batch).sum()
  got = jax.grad(scores)(e.negative)
  for i in range(8):
    s = np.float64(e.query[i] @ e.negative[i, 0])
    rest = np.exp(np.asarray(e.query[i] @ e.candidates.T) / tau).sum()
    hard = np.exp(alpha * s + s / tau) * there[i, 0]
    want = hard / (hard + rest) / tau * e.query[i]
    np.testing.assert_allclose(got[i, 0], want, rtol=1e-4, atol=1e-6)


def test_negatives_are_in_group_order():
  _, batch, there = with_negatives(*example(), number=3, groups=4)
  assert batch.negative.valid.shape == (4, 6)
  np.testing.assert_array_equal(contrastive.negatives_valid(batch), there)


def test_matryoshka_cuts_negatives_too():
  e, batch, _ = with_negatives(*example())
  term = info_nce(TAU, True, 5.0)
  got = summed(term, (16, 4))({}, e, batch)
  cut = Embeddings(*(jnp.asarray(unit(x[..., :4])) for x in e))
  want = term({}, e, batch) + term({}, cut, batch)
  np.testing.assert_allclose(got, want, rtol=1e-5)


@pytest.mark.parametrize("empty", [(), (2, 7)])
def test_spread_out_is_equation_4(empty):
  e, batch = example(empty=empty)
  valid = np.asarray(batch.query.valid.reshape(-1))
  want = 0.0
  for x in (np.asarray(e.query)[valid], np.asarray(e.positive)[valid]):
    dots = (x @ x.T) ** 2
    want += (dots.sum() - np.trace(dots)) / (len(x) * (len(x) - 1))
  got = spread_out.spread_out({}, e, batch)[valid].mean()
  np.testing.assert_allclose(got, want, rtol=1e-5)


def test_spread_out_of_one_pair_is_zero():
  e, batch = example(size=1, duplicates=False)
  np.testing.assert_allclose(spread_out.spread_out({}, e, batch), 0, atol=1e-6)


def test_matryoshka_sums_over_renormalised_prefixes():
  e, batch = example()
  term = info_nce(TAU, True)
  got = summed(term, (16, 8, 4))({}, e, batch)
  want = 0.0
  for dim in (16, 8, 4):
    q, p = unit(e.query[:, :dim]), unit(e.positive[:, :dim])
    want = want + nce_numpy(Embeddings(q, p, None, p), batch, TAU, True)
  np.testing.assert_allclose(got, want, rtol=1e-4)


def test_matryoshka_of_the_full_width_is_the_term():
  e, batch = example()
  for term in (info_nce(TAU, True), spread_out.spread_out):
    np.testing.assert_array_equal(
      summed(term, (16,))({}, e, batch), term({}, e, batch)
    )


def test_a_zero_prefix_has_a_finite_gradient():
  x = jnp.zeros((1, 8)).at[0, 7].set(1.0)
  gradient = jax.grad(lambda x: matryoshka.truncate(x, 4).sum())(x)
  assert np.isfinite(gradient).all()


@pytest.mark.parametrize(
  "width, dims",
  [
    (768, (768, 512, 256, 128)),
    (384, (384, 256, 128)),
    (32, (32,)),
    (128, (128,)),
  ],
)
def test_a_preset_uses_dimensions_up_to_its_own(width, dims):
  assert matryoshka.dims_of(width) == dims


def alike(e, batch):
  """The pairs with one positive: none has a negative."""
  return e, batch._replace(keys=batch.keys.at[:, 1].set(7))


@pytest.mark.parametrize("keep_positive", [True, False])
@pytest.mark.parametrize("margin", [None, -2.5])
def test_a_pair_without_a_negative_is_not_counted(keep_positive, margin):
  """All others share its positive, or score too high to be a negative."""
  given = example(duplicates=False, empty=(5,))
  e, batch = given if margin else alike(*given)
  term = contrastive.info_nce(TAU, keep_positive, margin=margin)
  found = term({}, e, batch)
  assert not found.counted.any() and not found.total.any()
  loss = lambda q, p: term(
    {}, e._replace(query=q, positive=p, candidates=p), batch
  ).total.sum()
  for gradient in jax.grad(loss, (0, 1))(e.query, e.positive):
    assert not gradient.any()


def test_a_hard_negative_is_one():
  e, batch, there = with_negatives(*alike(*example(duplicates=False)))
  found = contrastive.info_nce(TAU, True)({}, e, batch)
  np.testing.assert_array_equal(found.counted, there.any(axis=1))
  np.testing.assert_array_equal(found.total != 0, there.any(axis=1))


def test_of_duplicates_only_those_with_others_are_counted():
  """Pair 0 shares a text with each of the others, which have each other."""
  e, batch = example(size=4, duplicates=False)
  keys = batch.keys.at[1:3, 0].set(batch.keys[0, 0])
  keys = keys.at[3, 1].set(batch.keys[0, 1])
  found = contrastive.info_nce(TAU, True)({}, e, batch._replace(keys=keys))
  assert found.counted.tolist() == [False, True, True, True]


def test_the_parts_of_a_sum_are_its_dimensions():
  e, batch = example()
  term = contrastive.info_nce(TAU, True)
  found = matryoshka.matryoshka(term, (16, 8, 4))({}, e, batch)
  assert list(found.parts) == ["16", "8", "4"]
  total = sum(part.total for part in found.parts.values())
  np.testing.assert_array_equal(found.total, total)
  assert found.counted.all()
  assert not matryoshka.matryoshka(term, (16,))({}, e, batch).parts
