"""A page of code, and a model's stand-in that reads nothing but words."""

import zlib

import numpy as np

from embeddinggemma import lexical
from embeddinggemma.model.identity import Identity
from embeddinggemma.retrieval import update

MODEL = Identity(
  weights="m" * 64,
  precision="float",
  tokenizer="t" * 64,
  prompts={"query": "query: ", "document": "title: none | text: "},
  max_length=64,
  model={"pooling": "mean"},
)
CODE = '''"""Dates and colours."""

import datetime

LIMIT = 3


def parse_date(text):
  """Read a day, month and year."""
  return datetime.date.fromisoformat(text)


@register
class Color:
  """A colour."""

  red = 1

  def mix(self, other):
    return blend(self, other)
'''


def bag_of_words(texts, prompt_name, titles=()):
  """Counts of hashed words, at unit length."""
  assert prompt_name in ("query", "document")
  titles = titles or [""] * len(texts)
  vectors = np.full((len(texts), 256), 1e-3, np.float32)
  for row, title, text in zip(vectors, titles, texts, strict=True):
    for word in lexical.tokens(f"{title} {text}"):
      row[zlib.crc32(word.encode()) % 128] += 1
  return vectors / np.linalg.norm(vectors, axis=1, keepdims=True)


def making(**options):
  """What an index of it is made with, unless the options say otherwise."""
  options = {"dim": 128, "vectors": "int8"} | options
  return update.Making(MODEL, **options)
