"""Tokens, BM25 against the formula, and rankings that refuse NaN."""

import math
import subprocess
import sys

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from embeddinggemma import lexical
from embeddinggemma.types import BadInput, Stopped


@pytest.mark.parametrize(
  ("text", "expected"),
  [
    ("parseHTTPResponse_v2", ["parse", "http", "response", "v", "2"]),
    ("snake_case, CamelCase!", ["snake", "case", "camel", "case"]),
    ("Größe cafe\u0301", ["grösse", "cafe\u0301"]),
    ("हिन्दी में", ["हिन्दी", "में"]),
    ("日本語 hello", ["日本", "本語", "hello"]),
    ("猫", ["猫"]),
    ("", []),
  ],
)
def test_tokens(text, expected):
  assert lexical.tokens(text) == expected


@given(st.text())
def test_any_text_has_tokens_or_none(text):
  assert all(lexical.tokens(text))
  assert len(lexical.stems(text)) <= len(lexical.tokens(text))


def test_stop_words_are_those_of_bm25s():
  from bm25s import stopwords

  assert set(stopwords.STOPWORDS_EN) == lexical._STOP_WORDS


def test_import_leaves_the_backend_alone():
  """jax.distributed must start before any backend, and bm25s starts one."""
  code = "import embeddinggemma.lexical, sys; sys.exit('bm25s' in sys.modules)"
  subprocess.run([sys.executable, "-c", code], check=True)


def test_stems_drop_stop_words():
  assert lexical.stems("the parsing of dates") == ["pars", "date"]


def test_bm25_is_the_formula():
  """Lucene's: idf log(1 + (N - n + .5) / (n + .5)), tf / (tf + k1 norm)."""
  texts = ["a b b", "b c", "c d e f"]
  mean = np.mean([3, 2, 4])

  def term(count, length, having):
    idf = math.log(1 + (3 - having + 0.5) / (having + 0.5))
    return idf * count / (count + 1.5 * (0.25 + 0.75 * length / mean))

  scores = lexical.bm25(texts, "plain")(["b", "b d", "unknown", ""])
  expected = [
    [term(2, 3, 2), term(1, 2, 2), 0],
    [term(2, 3, 2), term(1, 2, 2), term(1, 4, 1)],
    [0, 0, 0],
    [0, 0, 0],
  ]
  np.testing.assert_allclose(scores, expected, rtol=1e-5)


@pytest.mark.parametrize("texts", [["a b", "", "c"], ["", " !"]])
def test_bm25_survives_the_disk_without_pickle(tmp_path, texts):
  index = lexical.bm25(texts, "stemmed")
  lexical.save_bm25(index, tmp_path / "x")
  loaded = lexical.load_bm25(tmp_path / "x")
  queries = ["a b", "c", ""]
  np.testing.assert_array_equal(loaded(queries), index(queries))
  assert index(queries).shape == (3, len(texts))
  assert {p.suffix for p in (tmp_path / "x").iterdir()} <= {".npy", ".json"}


def test_a_missing_index_is_bad_input(tmp_path):
  with pytest.raises(BadInput, match="not a BM25 index"):
    lexical.load_bm25(tmp_path)


def test_char_tfidf_finds_misspellings():
  scores = lexical.char_tfidf(["semantic search", "garden tools"])
  assert scores(["semantik serch"])[0].argmax() == 0
  assert lexical.char_tfidf(["", ""])(["x"]).tolist() == [[0, 0]]


@given(st.lists(st.integers(-3, 3), min_size=1, max_size=30), st.integers(1, 9))
def test_top_k_is_a_stable_sort(values, k):
  scores = np.array([values], np.float32)
  best, found = lexical.top_k(scores, k)
  expected = sorted(values, reverse=True)[:k]
  assert found[0].tolist() == expected
  assert len(set(best[0])) == len(expected)
  pairs = list(zip((-found[0]).tolist(), best[0].tolist(), strict=True))
  assert pairs == sorted(pairs)


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_top_k_refuses_what_would_rank_first(value):
  with pytest.raises(Stopped, match="not finite"):
    lexical.top_k(np.array([[1.0, value]]), 1)


def test_chunks_bound_memory_and_cover_all():
  chunks = list(lexical.query_chunks(1000, 10**6))
  assert [c.start for c in chunks[1:]] == [c.stop for c in chunks[:-1]]
  assert chunks[-1].stop == 1000
  assert (chunks[0].stop - chunks[0].start) * 4e6 <= lexical.CHUNK_BYTES


def test_fusion_weighs_both_sides_alike():
  dense = np.array([[0.9, 0.5, 0.1], [0.3, 0.2, 0.1]], np.float32)
  words = np.array([[0.0, 9.0, 0.0], [0.0, 0.0, 0.0]], np.float32)
  fused = lexical.fuse(dense, words)
  assert fused[0].argmax() == 1
  assert fused[1].tolist() == lexical.fuse(dense, words * 7)[1].tolist()
  assert fused[1].argmax() == 0  # no word in common: dense decides
