"""Search by words: BM25 and character TF-IDF, without a model.

They are the baselines that a trained model is judged against, and BM25 is the
other half of hybrid search. BM25 (Robertson and Zaragoza 2009) is Lucene's
variant as bm25s computes it. Always say which BM25: plain, or stemmed.
"""

import dataclasses
import errno
import json
import logging
import os
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import Stemmer  # pyrefly: ignore[missing-import]  (no stubs)
from jaxtyping import Float, Int

from embeddinggemma.types import BadInput, Stopped

K1, B = 1.5, 0.75
CHUNK_BYTES = 64 * 2**20  # of scores that are held at a time

Scores = Callable[[Sequence[str]], Float[np.ndarray, "Q C"]]

# Combining marks that \w excludes: accents, Hebrew, Arabic, Indic to Khmer.
_MARKS = (
  "\u0300-\u036f\u0591-\u05c7\u0610-\u061a\u064b-\u065f"
  "\u0900-\u0963\u0966-\u109f\u1780-\u17d3"
)
_WORD = re.compile(rf"(?:[^\W_]|[{_MARKS}])+")
_PART = re.compile(r"[A-Z]+(?![a-z])|[A-Z]?[a-z]+|[0-9]+")
# Scripts written without spaces: Thai, Lao, Burmese, Khmer, kana, Han.
_UNSPACED = re.compile(
  "[\u0e00-\u0eff\u1000-\u109f\u1780-\u17ff\u3040-\u30ff\u3400-\u9fff"
  "\uf900-\ufaff\U00020000-\U0003ffff]+"
)
# Lucene's English stop words, as in bm25s. That package is imported only where
# it is used: its import starts JAX's backend, which is too early on a TPU pod.
_STOP_WORDS = {
  *("a", "an", "and", "are", "as", "at", "be", "but", "by", "for", "if", "in"),
  *("into", "is", "it", "no", "not", "of", "on", "or", "such", "that", "the"),
  *("their", "then", "there", "these", "they", "this", "to", "was", "will"),
  "with",
}


def tokens(text: str) -> list[str]:
  """Code-aware words, lower case: parseHTTP_v2 is parse, http, v, 2.

  Scripts without spaces give overlapping pairs of characters, as in Lucene.
  """
  if text.isascii():
    return [part.lower() for part in _PART.findall(text)]
  found: list[str] = []
  for word in _WORD.findall(text):
    if word.isascii():
      found += [part.lower() for part in _PART.findall(word)]
    elif _UNSPACED.search(word):
      found += _pairs(word.casefold())
    else:
      found.append(word.casefold())
  return found


def stems(text: str) -> list[str]:
  """The tokens without English stop words, by Snowball's English stemmer."""
  words = [word for word in tokens(text) if word not in _STOP_WORDS]
  return Stemmer.Stemmer("english").stemWords(words)


ANALYSERS: Mapping[str, Callable[[str], list[str]]] = {
  "plain": tokens,
  "stemmed": stems,
}


@dataclasses.dataclass(frozen=True)
class BM25:
  """A BM25 index of a corpus; called with queries it scores every document."""

  analyser: str  # key of ANALYSERS
  size: int  # number of documents
  index: Any  # bm25s.BM25; None: no document has a word

  def __call__(self, queries: Sequence[str]) -> Float[np.ndarray, "Q C"]:
    scores = np.zeros((len(queries), self.size), np.float32)
    for row, query in enumerate(queries):
      words = ANALYSERS[self.analyser](query)
      if words and self.index is not None:
        scores[row] = self.index.get_scores(words)
    return scores


def bm25(texts: Sequence[str], analyser: str) -> BM25:
  """Index the texts with k1 1.5 and b 0.75; analyser: "plain" or "stemmed"."""
  corpus = [ANALYSERS[analyser](text) for text in texts]
  if not any(corpus):
    return BM25(analyser, len(texts), None)
  index = _bm25s().BM25(k1=K1, b=B, backend="numpy")
  index.index(corpus, show_progress=False)
  return BM25(analyser, len(texts), index)


def _bm25s() -> Any:
  import bm25s

  # It sets its own logger to DEBUG at import.
  logging.getLogger("bm25s").setLevel(logging.WARNING)
  return bm25s


def save_bm25(scores: BM25, directory: Path) -> None:
  """Write the index as plain arrays and JSON; nothing is pickled.

  Raises OSError also for a full disk that np.save did not notice.
  """
  directory.mkdir(parents=True, exist_ok=True)
  about = {
    "analyser": scores.analyser,
    "size": scores.size,
    "empty": scores.index is None,
  }
  (directory / "lexical.json").write_text(json.dumps(about) + "\n")
  if scores.index is not None:
    scores.index.save(directory, allow_pickle=False, show_progress=False)
    for path in directory.glob("*.npy"):
      try:
        np.load(path, mmap_mode="r")
      except (ValueError, EOFError):
        reason = os.strerror(errno.ENOSPC)
        raise OSError(errno.ENOSPC, reason, str(path)) from None


def load_bm25(directory: Path) -> BM25:
  """Read what save_bm25 wrote; BadInput if it is missing or incomplete."""
  try:
    about = json.loads((directory / "lexical.json").read_text())
    index = None
    if not about["empty"]:
      index = _bm25s().BM25.load(directory, allow_pickle=False)
    return BM25(about["analyser"], about["size"], index)
  except (OSError, EOFError, ValueError, KeyError) as error:
    raise BadInput(f"{directory}: not a BM25 index ({error})") from None


def char_tfidf(texts: Sequence[str]) -> Scores:
  """A scorer: cosine over TF-IDF of character 3- to 5-grams within words."""
  from scipy import sparse
  from sklearn.feature_extraction import text as features

  if not any(text.strip() for text in texts):
    return lambda queries: np.zeros((len(queries), len(texts)), np.float32)
  vectorizer = features.TfidfVectorizer(
    analyzer="char_wb", ngram_range=(3, 5), sublinear_tf=True, dtype=np.float32
  )
  corpus = sparse.csr_array(vectorizer.fit_transform(texts)).T.tocsr()

  def scores(queries: Sequence[str]) -> Float[np.ndarray, "Q C"]:
    return (vectorizer.transform(queries) @ corpus).toarray()

  return scores


def top_k(
  scores: Float[np.ndarray, "Q C"], k: int
) -> tuple[Int[np.ndarray, "Q k"], Float[np.ndarray, "Q k"]]:
  """Indices and values of the k best in each row, best first, ties by index.

  Raises Stopped if a score is not finite: NaN would rank first and look like a
  success.
  """
  if not np.isfinite(scores).all():
    raise Stopped("scores are not finite; look at the embeddings they use")
  k = min(k, scores.shape[1])
  if k < scores.shape[1]:
    best = np.argpartition(-scores, k - 1, axis=1)[:, :k]
    _first_of_equals(scores, best)
    best.sort(axis=1)
  else:
    best = np.broadcast_to(np.arange(k), (len(scores), k))
  values = np.take_along_axis(scores, best, axis=1)
  order = np.argsort(-values, axis=1, kind="stable")
  return (
    np.take_along_axis(best, order, axis=1),
    np.take_along_axis(values, order, axis=1),
  )


def _first_of_equals(
  scores: Float[np.ndarray, "Q C"], best: Int[np.ndarray, "Q k"]
) -> None:
  """Of equal scores, of which only some are among the best, take the first.

  Which ones a partition takes is left to chance. `best` is changed.
  """
  k = best.shape[1]
  least = np.take_along_axis(scores, best, axis=1).min(axis=1)
  chance = np.count_nonzero(scores >= least[:, None], axis=1) > k
  for row in np.flatnonzero(chance):
    above = np.flatnonzero(scores[row] > least[row])
    equal = np.flatnonzero(scores[row] == least[row])
    best[row] = np.concatenate([above, equal[: k - len(above)]])


def query_chunks(num_queries: int, num_documents: int) -> Iterator[slice]:
  """Slices of queries whose score matrix stays below CHUNK_BYTES."""
  size = max(1, CHUNK_BYTES // (4 * max(1, num_documents)))
  for start in range(0, num_queries, size):
    yield slice(start, min(start + size, num_queries))


def fuse(
  dense: Float[np.ndarray, "Q C"], lexical: Float[np.ndarray, "Q C"]
) -> Float[np.ndarray, "Q C"]:
  """Hybrid scores: the sum of both sides, standardised over the corpus."""
  total = np.zeros(dense.shape, np.float32)
  for scores in dense, lexical:
    mean = scores.mean(axis=1, keepdims=True)
    std = scores.std(axis=1, keepdims=True)
    total += standardised(scores, mean, std)
  return total


def standardised(
  scores: Float[np.ndarray, "..."],
  mean: Float[np.ndarray, "..."] | np.floating,
  std: Float[np.ndarray, "..."] | np.floating,
) -> Float[np.ndarray, "..."]:
  """Scores minus their mean over their deviation; 0 if all are equal."""
  flat = std <= 1e-6
  return np.where(flat, 0.0, (scores - mean) / np.where(flat, 1.0, std))


def _pairs(word: str) -> list[str]:
  if len(word) == 1:
    return [word]
  return [word[i : i + 2] for i in range(len(word) - 1)]
