"""Vectors of fewer numbers and bits: what they take, and what they still find."""

import numpy as np
import pytest

from embeddinggemma.evaluation import suite, vectors
from embeddinggemma.report import vectors as vectors_lib

COUNT, WIDTH = 60, 128


@pytest.fixture(scope="module")
def rows() -> list:
  """Queries near their documents, under a direction that all share."""
  rng = np.random.default_rng(0)
  texts = rng.standard_normal((COUNT, WIDTH)).astype(np.float32)
  moved = texts + 1.6 * rng.standard_normal((COUNT, WIDTH)).astype(np.float32)
  known = {f"d{n}": x + 3 for n, x in enumerate(texts)}
  known |= {f"q{n}": x + 3 for n, x in enumerate(moved)}

  def encode(texts, prompt_name, titles=()):
    del prompt_name, titles
    found = np.stack([known[text] for text in texts])
    return found / np.linalg.norm(found, axis=1, keepdims=True)

  task = suite.EvalTask(
    "made",
    "retrieval",
    "retrieval",
    tuple(f"q{n}" for n in range(COUNT)),
    tuple(f"d{n}" for n in range(COUNT)),
    ("",) * COUNT,
    tuple({n: 1} for n in range(COUNT)),
    (-1,) * COUNT,
  )
  return vectors.compare(encode, [task], (WIDTH, 32))


def test_bytes_and_quality_fall_with_bits_and_dimensions(rows) -> None:
  by = {(row["vectors"], row["dim"]): row for row in rows}
  sizes = [by[form, WIDTH]["bytes"] for form in vectors.FORMS]
  assert sizes == [4 * WIDTH, WIDTH, WIDTH // 8]
  scores = [by[form, WIDTH]["score"] for form in vectors.FORMS]
  assert scores[0] > 0.95 and abs(scores[1] - scores[0]) < 0.02
  assert 0.5 < scores[2] <= scores[0]
  for form in vectors.FORMS:
    assert by[form, 32]["score"] < by[form, WIDTH]["score"]
  assert all(row["ms"] > 0 for row in rows)


def test_codes_say_what_was_stored() -> None:
  rng = np.random.default_rng(1)
  given = rng.standard_normal((9, 20)).astype(np.float32)
  given /= np.linalg.norm(given, axis=1, keepdims=True)
  assert vectors.stored(given, "float32") is given
  step = np.quantile(np.abs(given).max(axis=1), 0.99) / 127
  seen = vectors.stored(given, "int8")
  inside = np.abs(given) < 127 * step
  assert np.abs(seen - given)[inside].max() <= step / 2 + 1e-6
  bits = vectors.stored(given, "binary")
  np.testing.assert_array_equal(bits, np.where(given > given.mean(0), 1, -1))


def test_the_page_has_a_cell_for_each_form_and_dimension(rows) -> None:
  html = "".join(vectors_lib.section({"test": rows}))
  assert html.count(" ms</small>") == len(rows) == 6
  assert "<svg" in html and not "".join(vectors_lib.section({"test": []}))
  assert vectors.compare(lambda *_: None, [], (WIDTH,)) == []
