"""A corpus is searched in blocks: the same rankings, and only a block held."""

import tracemalloc

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from embeddinggemma import lexical
from embeddinggemma.evaluation import metrics, remembered, suite
from embeddinggemma.evaluation.kinds.task import EvalTask
from embeddinggemma.evaluation.scoring import nearest
from embeddinggemma.evaluation.scoring.scored import Scored

WIDTH = 8


def _exact(seed, count):
  """Vectors whose products are exact and often equal."""
  rng = np.random.default_rng(seed)
  chosen = rng.integers(-1, 2, size=(count, WIDTH)).astype(np.float32)
  chosen[:, 0] = 1
  return chosen


def _rankings(queries, documents, same, depth, block):
  found = []

  def judge(rankings):
    found.extend(rankings)
    return Scored({})

  search = nearest.Nearest(queries, same, depth, judge)
  for start in range(0, len(documents), block):
    search.add(start, documents[start : start + block])
  search.scored()
  return found


@settings(deadline=None)
@given(
  seed=st.integers(0, 999),
  count=st.integers(1, 60),
  block=st.integers(1, 70),
  depth=st.integers(1, 30),
)
def test_any_size_of_blocks_gives_the_same_rankings(seed, count, block, depth):
  queries, documents = _exact(seed, 5), _exact(seed + 1, count)
  same = [-1, 0, -1, count - 1, -1]
  found = _rankings(queries, documents, same, depth, block)
  for query, ranking, itself in zip(queries, found, same, strict=True):
    order = np.argsort(-(documents @ query), kind="stable").tolist()
    assert ranking == [place for place in order if place != itself][:depth]


@given(seed=st.integers(0, 999), k=st.integers(1, 25), count=st.integers(1, 20))
def test_the_first_of_equal_scores_are_taken(seed, k, count):
  rng = np.random.default_rng(seed)
  scores = rng.integers(0, 3, size=(4, count)).astype(np.float32)
  best, values = lexical.top_k(scores, k)
  wanted = np.argsort(-scores, axis=1, kind="stable")[:, :k]
  assert best.tolist() == wanted.tolist()
  assert values.tolist() == np.take_along_axis(scores, best, 1).tolist()


def _task(documents, queries=4, **fields):
  return EvalTask(
    "many",
    fields.pop("kind", "retrieval"),
    "retrieval",
    tuple(f"q{n}" for n in range(queries)),
    tuple(f"d{n}" for n in range(documents)),
    ("",) * documents,
    tuple({n: 1, documents - n - 1: 2} for n in range(queries)),
    (-1,) * queries,
    **fields,
  )


def _encode(texts, prompt_name, titles=()):
  """A vector that a text's number decides."""
  numbers = np.array([int(text[1:]) for text in texts])
  found = np.cos(numbers[:, None] * np.arange(1, 65) / 7.0, dtype=np.float32)
  return found / np.linalg.norm(found, axis=1, keepdims=True)


@pytest.mark.parametrize("block", [1, 7, 64, 300])
def test_scores_do_not_depend_on_blocks(monkeypatch, block):
  fields = {"candidates": tuple(tuple(range(n, 300, 3)) for n in range(4))}
  tasks = [_task(300), _task(300, kind="reranking", **fields)]
  for task in tasks:
    whole = suite.evaluate(_encode, [task], [64, 16])
    with monkeypatch.context() as patch:
      patch.setattr(nearest, "BLOCK", block)
      assert suite.evaluate(_encode, [task], [64, 16]) == whole
      assert suite.encoded(_encode, task)[1].shape == (300, 64)


@pytest.mark.parametrize("block", [7, 300])
def test_hybrid_search_reads_blocks_again(monkeypatch, block):
  task = _task(300)
  cosines = metrics.dense_scores(*suite.encoded(_encode, task))
  words = suite._word_scores(task, lambda texts: lexical.bm25(texts, "stemmed"))
  wanted = suite._score_hybrid(task, cosines, words).values
  monkeypatch.setattr(nearest, "BLOCK", block)
  monkeypatch.setattr(lexical, "CHUNK_BYTES", 4 * 300)  # a query at a time
  monkeypatch.setattr(remembered, "IN_MEMORY", 1000)  # the others on disk
  calls = []

  def counted(texts, prompt_name, titles=()):
    calls.extend(texts)
    return _encode(texts, prompt_name, titles)

  encode = suite.remember(counted)
  found = suite.values(suite.fused(encode, [task], 64))
  assert found == {"many": {"64": wanted}}
  assert len(calls) == len(set(calls)) == 304


def test_vectors_on_disk_are_those_that_were_computed(monkeypatch):
  monkeypatch.setattr(remembered, "IN_MEMORY", 4 * 64 * 3)
  encode = suite.remember(_encode)
  asked = [[f"d{n + m}" for m in range(n + 1)] for n in range(6)]
  first = [encode(texts, "qa") for texts in asked]
  for texts, vectors in [*zip(asked, first), *zip(asked[::-1], first[::-1])]:
    again = encode(texts, "qa")
    assert again.dtype == np.float32
    assert (again == vectors).all() and (again == _encode(texts, "")).all()


def test_only_a_block_of_a_corpus_is_held(monkeypatch):
  """Many blocks of documents take the memory of a few."""
  block, task = 400, _task(10_000)
  held, whole = 4 * 64 * block, 4 * 64 * 10_000
  monkeypatch.setattr(nearest, "BLOCK", block)
  monkeypatch.setattr(remembered, "IN_MEMORY", held)
  suite.evaluate(_encode, [_task(50)], [64])  # what is imported on the way
  encode = suite.remember(_encode)
  tracemalloc.start()
  try:
    suite.evaluate(encode, [task], [64, 32])
    _, peak = tracemalloc.get_traced_memory()
  finally:
    tracemalloc.stop()
  assert peak < whole / 2, f"{peak} bytes, with blocks of {held}"
