"""Weights on the simplex: the tree of Beta quantiles, both ways."""

import math

import hypothesis
import numpy as np
import pytest
from hypothesis import strategies as st
from scipy import stats

from embeddinggemma.mixture import space
from embeddinggemma.types import BadInput

UNTIMED = hypothesis.settings(deadline=None, max_examples=50)
SIZES = (2, 3, 6, 7)
ALPHAS = st.floats(0.05, 100.0)


@st.composite
def cubes(draw, least: float, most: float):
  """A point of the cube and an alpha."""
  n = draw(st.integers(2, 12))
  point = draw(st.lists(st.floats(least, most), min_size=n - 1, max_size=n - 1))
  alpha = draw(st.lists(ALPHAS, min_size=n, max_size=n))
  return np.array(point), np.array(alpha)


@UNTIMED
@hypothesis.given(cubes(0.0, 1.0))
@hypothesis.example((np.array([1e-300, 1.0]), np.array([2.0, 3.0, 1.0])))
@hypothesis.example((np.zeros(3), np.full(4, 50.0)))
@hypothesis.example((np.ones(3), np.full(4, 0.05)))
def test_any_point_is_a_mixture_and_comes_back(case):
  point, alpha = case
  weights = space.to_weights(point, alpha)
  assert (weights >= 0).all()
  assert abs(weights.sum() - 1) < 1e-12
  back = space.to_point(weights, alpha)
  assert ((back >= 0) & (back <= 1)).all()
  again = space.to_weights(back, alpha)
  np.testing.assert_allclose(again, weights, atol=1e-6)


@UNTIMED
@hypothesis.given(cubes(0.02, 0.98))
def test_inside_the_cube_coordinates_come_back(case):
  point, alpha = case
  alpha = np.maximum(alpha, 0.5)
  back = space.to_point(space.to_weights(point, alpha), alpha)
  np.testing.assert_allclose(back, point, atol=1e-8)


@pytest.mark.parametrize("n", SIZES)
def test_a_batch_is_its_rows(n):
  points = np.random.default_rng(n).uniform(size=(5, n - 1))
  alpha = np.linspace(0.5, 2.0, n)
  weights = space.to_weights(points, alpha)
  rows = [space.to_weights(point, alpha) for point in points]
  np.testing.assert_array_equal(weights, rows)
  back = [space.to_point(row, alpha) for row in weights]
  np.testing.assert_array_equal(space.to_point(weights, alpha), back)


@pytest.mark.parametrize("alpha", [[1.0] * 6, [0.3, 1, 2, 5, 0.5, 1.2, 4]])
def test_a_uniform_cube_is_the_dirichlet(alpha):
  alpha = np.array(alpha)
  n, rng = len(alpha), np.random.default_rng(0)
  weights = space.to_weights(rng.uniform(size=(20_000, n - 1)), alpha)
  rest = alpha.sum() - alpha
  for i in range(n):
    found = stats.kstest(weights[:, i], stats.beta(alpha[i], rest[i]).cdf)
    assert found.pvalue > 1e-3, f"weight {i}"
  # Marginals alone do not make a Dirichlet: its covariances, too.
  mean = alpha / alpha.sum()
  expected = (np.diag(mean) - np.outer(mean, mean)) / (alpha.sum() + 1)
  np.testing.assert_allclose(np.cov(weights.T), expected, atol=2e-3)


@pytest.mark.parametrize("n", SIZES)
def test_a_coordinate_moves_mass_one_way(n):
  """Up, its left half gains and its right half loses; others keep theirs."""
  alpha = np.full(n, 1.3)
  for k, (first, middle, last) in enumerate(space._nodes(0, n)):
    points = np.full((9, n - 1), 0.4)
    points[:, k] = np.linspace(0, 1, 9)
    steps = np.diff(space.to_weights(points, alpha), axis=0)
    assert (steps[:, first:middle] > 0).all()
    assert (steps[:, middle:last] < 0).all()
    np.testing.assert_allclose(steps[:, :first], 0, atol=1e-15)
    np.testing.assert_allclose(steps[:, last:], 0, atol=1e-15)


def test_corners_are_reached_and_have_coordinates():
  alpha = np.full(5, 2.0)
  for corner in np.eye(5):
    point = space.to_point(corner, alpha)
    np.testing.assert_array_equal(space.to_weights(point, alpha), corner)
  # A split of no mass: any value would do.
  assert space.to_point(np.array([1.0, 0, 0]), np.ones(3))[1] == 0.5


def test_one_task_is_a_point():
  assert space.to_weights(np.zeros(0), np.ones(1)).tolist() == [1.0]
  assert space.to_point(np.ones(1), np.ones(1)).shape == (0,)


def test_dirichlet_samples():
  samples = space.dirichlet(4, 500, 0.5, seed=3)
  assert samples.shape == (500, 4)
  np.testing.assert_allclose(samples.sum(axis=1), 1)
  assert stats.kstest(samples[:, 2], stats.beta(0.5, 1.5).cdf).pvalue > 1e-3
  np.testing.assert_array_equal(space.dirichlet(4, 7, 0.5, 3), samples[:7])
  assert not np.allclose(space.dirichlet(4, 7, 0.5, 4), samples[:7])
  assert space.dirichlet(4, 0, 0.5, 3).shape == (0, 4)


@UNTIMED
@hypothesis.given(
  st.lists(st.floats(0, 1e6), min_size=2, max_size=30).filter(
    lambda values: sum(values) > 1e-3
  )
)
def test_named_weights_are_short_and_sum_to_one(values):
  tasks = [f"t{i}" for i in range(len(values))]
  array = np.array(values)
  weights = space.named(array, tasks)
  assert sum(round(w * 10_000) for w in weights.values()) == 10_000
  assert all(w == round(w, 4) and w >= 0 for w in weights.values())
  found = space.vector(weights, tasks)
  np.testing.assert_allclose(found, array / array.sum(), atol=1.001e-4)
  assert space.named(found, tasks) == weights


def test_hellinger():
  a, b = np.array([0.5, 0.5, 0.0]), np.array([0.0, 0.0, 1.0])
  assert space.hellinger(a, a) == 0
  assert space.hellinger(a, b) == 1
  c = np.array([0.1, 0.2, 0.7])
  expected = math.sqrt(0.5 * ((np.sqrt(a) - np.sqrt(c)) ** 2).sum())
  assert space.hellinger(a, c) == pytest.approx(expected)


def test_good_weights_are_completed():
  tasks = ("code", "qa", "sts")
  found = space.check_weights({"sts": 0.25, "code": 0.75}, tasks)
  assert list(found.items()) == [("code", 0.75), ("qa", 0.0), ("sts", 0.25)]
  thirds = dict.fromkeys(tasks, 0.3333)
  assert sum(space.check_weights(thirds, tasks).values()) == pytest.approx(1)


@pytest.mark.parametrize(
  ("weights", "message"),
  [
    ({"cod": 1.0}, "unknown task 'cod'; did you mean 'code'"),
    ({"x": 1.0}, "known: code, qa"),
    ({"code": 1.5, "qa": -0.5}, "qa=-0.5: weights are >= 0"),
    ({"code": math.nan, "qa": 1.0}, "code=nan"),
    ({"code": math.inf}, "code=inf"),
    ({"code": 0.5, "qa": 0.2}, "code=0.5, qa=0.2 sum to 0.7;"),
    ({}, "sum to 0"),
  ],
)
def test_bad_weights(weights, message):
  with pytest.raises(BadInput, match=message):
    space.check_weights(weights, ["code", "qa"])
