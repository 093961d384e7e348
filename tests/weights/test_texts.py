"""Eighty texts have the vectors of sentence-transformers and of numpy.

Languages, code, white space within and around, and 1 to 2,048 tokens.
"""

import importlib.util

import numpy as np
import pytest
import reference
import tokenizers

from embeddinggemma.data import samples

DISTANCE = 1e-4  # of cosines
WHITE_SPACE = (
  "\thello",
  "hello\r\n",
  "hello\n\n\nworld",
  "two  spaces,   three",
  "\u00a0no break\u3000wide",
)
CODE = (
  "for item in items:\n\tprint(item)\n",
  "    return self._size\n",
  "if (x)  {\n        y  =  x * 3.14159;\n}\n",
  '{"name": "ferry", "seats": [120, 48], "open": true}',
  "<p class='note'>See <a href=\"#top\">above</a>.</p>",
  "$ tar -xzf notes-2.1.tar.gz && cd notes-2.1\n",
  "2026-11-24T09:05:07Z  192.168.0.1  1,234,567.89",
)
# Tokens: around half of the window and it, in the published model; the most.
LENGTHS = (100, 250, 270, 500, 530, 1024, 2048, 3000)
NUMPY_LENGTHS = 5  # of them, the shorter ones
MOST = 2048
PROMPTS = (None, "query", "document", "Clustering")
FEW = 3  # texts under every other prompt


def filled(tokenizer, length):
  """The words that come to at most so many tokens, and to about as many."""
  low, high = 0, length
  while low < high:
    middle = (low + high + 1) // 2
    if len(tokenizer.encode(samples.of_words(middle)).ids) <= length:
      low = middle
    else:
      high = middle - 1
  return samples.of_words(low)


@pytest.fixture(scope="module")
def tokenizer(folder):
  return tokenizers.Tokenizer.from_file(str(folder / "tokenizer.json"))


@pytest.fixture(scope="module")
def short():
  first, second = samples.sides()
  texts = [*first, *second, *samples.BRIEF, *samples.EXTREMES]
  return [*texts, *samples.WHITE_SPACE, *WHITE_SPACE, *CODE]


@pytest.fixture(scope="module")
def long(tokenizer):
  return [filled(tokenizer, length) for length in LENGTHS]


@pytest.fixture(scope="module")
def asks(short, long, prompts):
  """The short ones under some prompts, a few under all, the long under one."""
  others = sorted(set(prompts) - set(PROMPTS))
  return [
    *((name, short) for name in PROMPTS),
    *((name, short[:FEW]) for name in others),
    # Apart, since a batch is padded to its longest text.
    ("document", long[:NUMPY_LENGTHS]),
    ("document", long[NUMPY_LENGTHS:]),
  ]


@pytest.fixture(scope="module")
def ours(encode, folder, asks):
  return encode("ours", folder, asks)


def nearest(ours, theirs, asks):
  """The least cosine, and the text that has it."""
  texts = [(name, text[:60]) for name, some in asks for text in some]
  cosines = np.sum(ours * theirs, axis=1)
  worst = int(np.argmin(cosines))
  return cosines[worst], texts[worst]


def test_the_table_is_what_it_says(short, long, tokenizer):
  count = lambda text: len(tokenizer.encode(text).ids) - 2
  assert len(set(short)) + len(set(long)) == 80
  assert 1 in map(count, short) and max(map(count, short)) < 200
  assert all(0.9 * n < count(t) <= n for n, t in zip(LENGTHS, long))
  assert count(long[-1]) > MOST


def test_texts_are_told_apart(ours, short):
  """Else equal vectors would say nothing."""
  of_query = ours[len(short) : 2 * len(short)]
  same = np.triu(of_query @ of_query.T > 1 - DISTANCE, 1)
  assert not same.any(), [short[n] for n in np.argwhere(same)[0]]


def test_vectors_are_those_of_numpy(ours, folder, short, long, asks, figure):
  """The long ones but for those that would take long."""
  few = long[:NUMPY_LENGTHS]
  query = reference.encode(folder, short, "query")
  document = reference.encode(folder, few, "document")
  start = len(ours) - len(long)
  mine = [ours[len(short) : 2 * len(short)], ours[start : start + len(few)]]
  cosine, text = nearest(
    np.concatenate(mine),
    np.concatenate([query, document]),
    [("query", short), ("document", few)],
  )
  figure("least cosine to numpy", f"{cosine:.6f} on {text}")
  assert cosine > 1 - DISTANCE, text


@pytest.mark.skipif(
  not importlib.util.find_spec("sentence_transformers"),
  reason="sentence-transformers is not installed",
)
def test_vectors_are_those_of_sentence_transformers(
  ours, encode, folder, asks, figure
):
  """By its own tokenizer, under its own prompts, in padded batches."""
  theirs = encode("theirs", folder, asks)
  cosine, text = nearest(ours, theirs, asks)
  figure("least cosine to sentence-transformers", f"{cosine:.6f} on {text}")
  figure("  of texts under prompts", str(len(ours)))
  assert cosine > 1 - DISTANCE, text
