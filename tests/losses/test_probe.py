"""The gradient of each term by the vectors, against closed forms in numpy."""

import jax
import numpy as np
import pytest

from embeddinggemma import sharding
from embeddinggemma.losses import (
  contrastive,
  distill,
  matryoshka,
  probe,
  spread_out,
)
from embeddinggemma.types import PairBatch, Seen, Teacher, Text

SIZE, FILLED, WIDTH, TAU = 8, 6, 16, 0.1


def unit(x):
  return (x / np.linalg.norm(x, axis=-1, keepdims=True)).astype(np.float32)


@pytest.fixture
def example():
  rng = np.random.default_rng(3)
  query, positive, taught = unit(rng.standard_normal((3, SIZE, WIDTH)))
  valid = np.arange(SIZE)[None] < FILLED
  text = Text(*np.zeros((2, 1, 1, 1), np.int32), valid)
  keys = np.arange(2 * SIZE, dtype=np.uint32).reshape(SIZE, 2)
  teacher = Teacher(taught, None, None)
  batch = PairBatch(text, text, None, teacher, keys, np.asarray(0, np.int32))
  return Seen({}, query, positive, None), batch


def probed(terms, seen, batch) -> dict[str, float]:
  mesh = sharding.make_mesh(1, 1, jax.devices()[:1])
  run = jax.jit(probe.pair_probe(terms, mesh))
  found = jax.device_get(run(seen, batch))
  return {k: float(x) for k, x in found.items() if k.startswith("gradient/")}


def by_prefix(gradient, x, dim):
  """A gradient by unit prefixes, as one by whole vectors of unit norm."""
  prefix = x[:, :dim].astype(np.float64)
  norm = np.linalg.norm(prefix, axis=1, keepdims=True)
  along = prefix / norm
  tangential = gradient - np.sum(gradient * along, 1, keepdims=True) * along
  whole = np.zeros(x.shape)
  whole[:, :dim] = tangential / norm
  return whole


def info_nce(query, positive, dim):
  """The gradient of the mean InfoNCE at a dimension, by queries and positives."""
  x, y = (unit(z[:FILLED, :dim]).astype(np.float64) for z in (query, positive))
  logits = x @ y.T / TAU
  share = np.exp(logits - logits.max(axis=1, keepdims=True))
  share /= share.sum(axis=1, keepdims=True)
  pull = (share - np.eye(FILLED)) / (TAU * FILLED)
  return np.stack(
    [
      by_prefix(pull @ y, query[:FILLED], dim),
      by_prefix(pull.T @ x, positive[:FILLED], dim),
    ]
  )


def test_info_nce_at_each_dimension_and_their_sum(example) -> None:
  seen, batch = example
  term = matryoshka.matryoshka(contrastive.info_nce(TAU, True), (WIDTH, 4))
  got = probed({"contrastive": (2.0, term)}, seen, batch)
  parts = [info_nce(seen.query, seen.positive, dim) for dim in (WIDTH, 4)]
  want = {
    "gradient/contrastive": 2 * np.linalg.norm(sum(parts)),
    f"gradient/contrastive/{WIDTH}": 2 * np.linalg.norm(parts[0]),
    "gradient/contrastive/4": 2 * np.linalg.norm(parts[1]),
  }
  assert got == pytest.approx(want, rel=1e-4)


def test_spread_out_and_distillation(example) -> None:
  seen, batch = example
  terms = {
    "spread_out": (1.0, spread_out.spread_out),
    "distill": (0.5, distill.embedding_matching("l2")),
    "score_matching": (0.0, lambda *_: pytest.fail("a term of weight 0")),
  }
  got = probed(terms, seen, batch)
  sides = []
  for x in (seen.query, seen.positive):
    x = x[:FILLED].astype(np.float64)
    gradient = 4 * (x @ (x.T @ x) - x) / (FILLED * (FILLED - 1))
    sides.append(by_prefix(gradient, x, WIDTH))
  apart = (seen.query - batch.teacher.query)[:FILLED].astype(np.float64)
  apart /= np.linalg.norm(apart, axis=1, keepdims=True) * FILLED
  matching = by_prefix(apart, seen.query[:FILLED], WIDTH)
  assert got == pytest.approx(
    {
      "gradient/spread_out": np.linalg.norm(sides),
      "gradient/distill": 0.5 * np.linalg.norm(matching),
    },
    rel=1e-4,
  )


def test_what_no_pair_has_is_none(example) -> None:
  seen, batch = example
  alone = batch._replace(keys=np.zeros_like(batch.keys))
  term = matryoshka.matryoshka(contrastive.info_nce(TAU, True), (WIDTH, 4))
  got = probed({"contrastive": (1.0, term)}, seen, alone)
  assert len(got) == 3 and np.isnan(list(got.values())).all()
