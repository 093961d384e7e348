"""Texts of pairs that a label denies: negatives of their queries, on disk."""

import array
import json
import tempfile

import numpy as np
from jaxtyping import UInt64

from embeddinggemma.data import beir
from embeddinggemma.types import Pair


class Denied:
  """Texts that a label calls no positive, by query, in an unnamed file."""

  def __init__(self) -> None:
    self._file = tempfile.TemporaryFile()
    self._queries, self._both = array.array("Q"), array.array("Q")
    self._places = array.array("Q")
    self._answered, self._positives = array.array("Q"), array.array("Q")
    self._sorted = np.zeros(0, np.uint64)
    self._at = np.zeros(0, np.uint64)
    self.used = self.alone = self.contrary = 0

  def add(self, pair: Pair) -> None:
    """Keep the texts of a pair that is none."""
    titles = pair.negative_titles or ("",) * len(pair.negatives)
    query = beir.text_number(pair.query)
    for text, title in (
      (pair.positive, pair.title),
      *zip(pair.negatives, titles),
    ):
      self._queries.append(query)
      self._both.append(_mixed(query, beir.text_number(text)))
      self._places.append(self._file.tell())
      self._file.write(json.dumps([text, title]).encode() + b"\n")

  def positive(self, pair: Pair) -> None:
    """Note a positive: its query can have negatives, but not this text."""
    query = beir.text_number(pair.query)
    self._answered.append(query)
    self._positives.append(_mixed(query, beir.text_number(pair.positive)))

  def close(self) -> None:
    """Sort what was kept: used, without a positive, or a positive as well."""
    queries, both = (
      np.array(x, np.uint64) for x in (self._queries, self._both)
    )
    places = np.array(self._places, np.uint64)
    answered = np.isin(queries, np.array(self._answered, np.uint64))
    contrary = np.isin(both, np.array(self._positives, np.uint64))
    kept = np.flatnonzero(answered & ~contrary)
    self.alone = int((~answered).sum())
    self.contrary = int((answered & contrary).sum())
    self.used = len(kept)
    kept = kept[np.unique(both[kept], return_index=True)[1]]
    kept = np.sort(kept)
    order = kept[np.argsort(queries[kept], kind="stable")]
    self._sorted, self._at = queries[order], places[order]
    for held in (
      self._queries,
      self._both,
      self._places,
      self._answered,
      self._positives,
    ):
      del held[:]

  def with_own(self, pair: Pair) -> Pair:
    """The pair with the negatives that labels gave its query, after its own."""
    if not len(self._sorted):
      return pair
    texts, titles = list(pair.negatives), list(pair.negative_titles)
    titles = titles or [""] * len(texts)
    for place in self._of(pair):
      self._file.seek(int(place))
      text, title = json.loads(self._file.readline())
      texts.append(text)
      titles.append(title)
    return pair._replace(
      negatives=tuple(texts),
      negative_titles=tuple(titles) if any(titles) else (),
    )

  def most(self) -> int:
    """The largest number of negatives that labels gave a query."""
    _, counts = np.unique(self._sorted, return_counts=True)
    return int(counts.max(initial=0))

  def _of(self, pair: Pair) -> UInt64[np.ndarray, "_"]:
    query = np.uint64(beir.text_number(pair.query))
    first = np.searchsorted(self._sorted, query)
    last = np.searchsorted(self._sorted, query, side="right")
    return self._at[first:last]


def _mixed(first: int, second: int) -> int:
  """One number of 64 bits for two, by which pairs of texts are compared."""
  return (first * 0x9E3779B97F4A7C15 + second) % 2**64
