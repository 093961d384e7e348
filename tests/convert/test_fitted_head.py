"""A head fitted in closed form: what it finds, keeps and refuses."""

import dataclasses

import numpy as np
import pytest

import embeddinggemma as eg
from embeddinggemma.students import head

TEXTS = [
  f"the {n} quiet gardens of {n % 7} rivers, number {n}" for n in range(200)
]


@pytest.fixture(scope="module")
def base(model):
  return eg.load(model)


@pytest.fixture(scope="module")
def states(base):
  config, params = head.bare(base.config, base.params)
  bare = dataclasses.replace(base, config=config, params=params)
  return bare.encode(TEXTS)


def cosines(left, right):
  norms = np.linalg.norm(left, axis=1) * np.linalg.norm(right, axis=1)
  return np.sum(left * right, axis=1) / norms


def in_batches(states, vectors, size=64):
  for start in range(0, len(states), size):
    yield states[start : start + size], vectors[start : start + size]


def test_states_are_the_pooled_ones(base, states):
  head_of = base.params["model"]["up"] @ base.params["model"]["down"]
  norm = base.params["model"]["encoder"]["final_norm"]["scale"]
  made = (states * (1 + np.asarray(norm))) @ np.asarray(head_of)
  assert cosines(made, base.encode(TEXTS)).min() > 0.9999


def test_it_finds_a_linear_map_of_the_states(base, states):
  width = base.config.embed_dim
  hidden = np.random.default_rng(0).normal(size=(states.shape[1], width))
  vectors = (states @ hidden).astype(np.float32)
  vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
  params, fitted = head.fit(base.params, in_batches(states, vectors))
  model = dataclasses.replace(base, params=params)
  assert cosines(model.encode(TEXTS), vectors).min() > 0.98
  assert fitted.texts == len(TEXTS)
  assert fitted.cosine > 0.98
  untouched = base.params["model"]["encoder"]
  for name, tensors in params["model"]["encoder"].items():
    if name != "final_norm":
      assert tensors is untouched[name]


def test_the_ridge_is_that_of_the_normal_equations(base, states):
  width = base.config.embed_dim
  vectors = np.random.default_rng(1).normal(size=(len(TEXTS), width))
  vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
  params, fitted = head.fit(base.params, in_batches(states, vectors))
  scaled = states / np.sqrt(np.mean(states.astype(np.float64) ** 2, axis=0))
  gram = scaled.T @ scaled / len(scaled)
  weights = np.linalg.solve(
    gram + fitted.penalty * np.eye(len(gram)), scaled.T @ vectors / len(scaled)
  )
  model = dataclasses.replace(base, params=params)
  assert cosines(model.encode(TEXTS), scaled @ weights).min() > 0.9999


def test_a_coordinate_that_is_huge_and_constant_does_no_harm(base, states):
  width, rng = base.config.embed_dim, np.random.default_rng(2)
  hidden = rng.normal(size=(states.shape[1], width))
  vectors = states @ hidden
  vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
  huge = states.copy()
  huge[:, 0] = 400.0 + 1e-3 * rng.normal(size=len(huge))
  huge /= np.linalg.norm(huge, axis=1, keepdims=True)
  _, plain = head.fit(base.params, in_batches(states, vectors))
  _, found = head.fit(base.params, in_batches(huge, vectors))
  assert found.cosine > plain.cosine - 0.1


@pytest.mark.parametrize("own", [12, 48])
def test_a_teacher_of_another_width_is_followed_through_a_basis(
  base, states, own
):
  """Its map, times the student's vectors, gives the teacher's directions."""
  width, rng = base.config.embed_dim, np.random.default_rng(3)
  # A wider teacher has few directions that matter, as real ones do.
  hidden = rng.normal(size=(states.shape[1], 8)) @ rng.normal(size=(8, own))
  vectors = (states @ hidden).astype(np.float32)
  vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
  basis = head.basis(vectors, width)
  assert basis.shape == (width, own)
  told = vectors @ basis.T
  np.testing.assert_allclose(told @ basis, vectors, atol=1e-5)
  if own > width:
    np.testing.assert_allclose(basis @ basis.T, np.eye(width), atol=1e-5)
    power = np.mean(told**2, axis=0)
    assert np.all(np.diff(power) < 1e-6)  # the main directions come first
  params, fitted = head.fit(base.params, in_batches(states, told))
  made = dataclasses.replace(base, params=params).encode(TEXTS)
  assert fitted.cosine > 0.98
  assert cosines(made @ basis, vectors).min() > 0.95


def test_a_teacher_as_wide_needs_no_basis(base, states):
  width = base.config.embed_dim
  assert head.basis(np.ones((4, width), np.float32), width) is None


def test_where_no_head_can_be_fitted_is_told(base):
  assert head.unfit(base.config, 2) == ""
  assert "1 texts are too few" in head.unfit(base.config, 1)
  config = dataclasses.replace(base.config, pooling="attention")
  assert "weights of its own" in head.unfit(config, 100)
