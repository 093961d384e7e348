"""Search in an index: by embedding, by words (BM25), or by both (hybrid)."""

from pathlib import Path
from typing import Literal, NamedTuple

import numpy as np
from jaxtyping import Float, Int

from embeddinggemma import encode as encode_lib
from embeddinggemma import lexical
from embeddinggemma.model.identity import Identity
from embeddinggemma.retrieval import chunks, codes
from embeddinggemma.retrieval.index import Index, differences, open_index
from embeddinggemma.types import BadInput, BadValue, TextEncoder

CANDIDATES = 100  # that hybrid search takes from each of its two sides
SNIPPET_CHARS = 240

Mode = Literal["hybrid", "dense", "lexical"]
_Ranked = tuple[Int[np.ndarray, "n"], Float[np.ndarray, "n"]]


class Hit(NamedTuple):
  """One answer: where it stands and how it begins."""

  score: float
  path: str
  line: int
  title: str
  snippet: str


def search(
  index: Index | Path,
  encode: TextEncoder | None,
  text: str,
  *,
  model: Identity | None = None,
  mode: Mode = "hybrid",
  k: int = 10,
) -> list[Hit]:
  """The k best chunks for a query, best first.

  Args:
    index: an opened index, or its folder.
    encode: the model that embeds the query; "lexical" needs none.
    text: the query.
    model: the identity of `encode`; "lexical" needs none.
    mode: "dense" (cosine), "lexical" (BM25), or "hybrid", which sums both
      standardised over the corpus.
    k: the number of results at most.

  Raises:
    BadInput: the query is empty, k is below 1, the index was made with a model
      that differs (the message says in what), or it holds a vector that is zero
      or not finite.
  """
  if isinstance(index, Path):
    index = open_index(index)
  if not text.strip():
    raise BadValue("the query is empty; give some words to search for")
  if k < 1:
    raise BadInput(f"k is {k}; ask for at least one result")
  if mode == "lexical":
    places, scores = _lexical(index, text, k)
  else:
    query = _query_vector(index, encode, text, model)
    find = _hybrid if mode == "hybrid" else _dense
    places, scores = find(index, query, text, k)
  return [
    _hit(index.chunk(int(place)), float(score))
    for place, score in zip(places[:k], scores[:k], strict=True)
  ]


def nearest(index: Index, query: Float[np.ndarray, "D"], count: int) -> _Ranked:
  """Places and cosines of the `count` nearest chunks, best first.

  Codes select more than that many, and the float16 vectors score these.
  """
  places = codes.nearest(
    index.codes,
    codes.of_query(query, index.about["vectors"], index.spread),
    index.about["vectors"],
    count,
    index.graph,
  )
  places, scores = _sorted(places, cosines(index, query, places))
  return places[:count], scores[:count]


def cosines(
  index: Index, query: Float[np.ndarray, "D"], places: Int[np.ndarray, "n"]
) -> Float[np.ndarray, "n"]:
  """Cosine similarities of a query with the chunks at some places."""
  # On one thread: a product as small as this waits for threads that are busy.
  rows = index.vectors[places].astype(np.float32)
  found = np.einsum("nd,d->n", rows, query)
  bad = np.flatnonzero(~np.isfinite(found) | ~rows.any(axis=1))
  if len(bad):
    raise BadInput(
      f"{index.folder.parent}: the vector of chunk {places[bad[0]]} is zero or"
      " not finite and would be ranked wrongly; `index --rebuild` makes it anew"
    )
  return found


def _query_vector(
  index: Index, encode: TextEncoder | None, text: str, model: Identity | None
) -> Float[np.ndarray, "D"]:
  if encode is None or model is None:
    raise BadInput("dense search needs a model; give --model or --lexical")
  if changed := differences(index.about, model):
    raise BadInput(
      f"{index.folder.parent} was made with another model: {'; '.join(changed)};"
      " search with that one, or `index --rebuild` with this one"
    )
  vector = encode([text], "query")
  return encode_lib.truncate(vector, index.about["dim"])[0]


def _lexical(index: Index, text: str, k: int) -> _Ranked:
  best, values = lexical.top_k(index.words([text]), k)
  found = values[0] > 0
  return best[0][found], values[0][found]


def _dense(
  index: Index, query: Float[np.ndarray, "D"], text: str, k: int
) -> _Ranked:
  del text
  return nearest(index, query, k)


def _hybrid(
  index: Index, query: Float[np.ndarray, "D"], text: str, k: int
) -> _Ranked:
  words, count = index.words([text]), max(k, CANDIDATES)
  best, _ = lexical.top_k(words, count)
  places = np.union1d(nearest(index, query, count)[0], best[0])
  mean, covariance, _ = index.spread
  deviation = np.sqrt(np.maximum(query @ covariance @ query, 0.0))
  dense = lexical.standardised(
    cosines(index, query, places), query @ mean, deviation
  )
  sparse = lexical.standardised(words[0][places], words.mean(), words.std())
  return _sorted(places, dense + sparse)


def _sorted(
  places: Int[np.ndarray, "n"], scores: Float[np.ndarray, "n"]
) -> _Ranked:
  order = np.lexsort((places, -scores))
  return places[order], scores[order]


def _hit(row: chunks.Chunk, score: float) -> Hit:
  snippet = row.text.strip()
  if len(snippet) > SNIPPET_CHARS:
    snippet = snippet[:SNIPPET_CHARS].rstrip() + " ..."
  return Hit(score, row.path, row.line, row.title, snippet)
