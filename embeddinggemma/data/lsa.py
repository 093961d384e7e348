"""An embedding table from co-occurrence counts, for when nothing is pretrained.

Without a pretrained language model, the table from which training starts
decides the quality of a small embedder. Latent semantic analysis (Deerwester et
al. 1990) gives similar rows to pieces that occur in the same texts; character
n-grams (as in Bojanowski et al. 2017) give similar rows to pieces that are
spelled alike.
"""

import re
from collections.abc import Collection, Iterator, Sequence
from typing import Any

import numpy as np
from jaxtyping import Float, Int
from scipy import sparse

Sparse = Any  # a scipy.sparse array; its type stubs lack shape and copy
MAX_TEXTS = 25_000  # texts that the decomposition uses, evenly spaced
TOPIC_SHARE = 0.35  # share of the columns for topics; spelling has the rest
SPELLING_LENGTH = 2.0  # norm of a row's spelling part; the topic part has 1
NOISE = 0.1  # norm of a row's random part, so that no two rows are equal
NGRAMS = range(2, 6)
SEED = 0
_CONTROL = re.compile(r"<(?:pad|eos|bos|unk|s|/s|mask|(?:start|end)_of_turn)>")
_SPARE = re.compile(r"<unused\d+>")


def lsa_table(
  token_ids: Sequence[Int[np.ndarray, "_"]],
  pieces: Sequence[str],
  vocab_size: int,
  width: int,
  silent_ids: Collection[int] = (),
) -> Float[np.ndarray, "V D"]:
  """Initial unit rows for the pieces of a vocabulary, from tokenised texts.

  A text is best a whole pair, query and positive together, so that the words of
  questions meet those of answers. The encoder's final norm erases a row's
  length, so inverse document frequency is stored as an angle: the row of a
  frequent piece leans towards the last column, which the projections drop.

  Control pieces, rows beyond the pieces and `silent_ids` (the pieces of the
  prompts, which every text has) lie in that last column entirely. Spare
  `<unusedN>` pieces, which no text has, get random rows outside of it: they
  become UL2's sentinels and must be distinguishable.
  """
  rng = np.random.default_rng(SEED)
  counts = _counts(token_ids, vocab_size)
  idf = _inverse_document_frequency(counts)
  topics = _topics(counts, idf, int(TOPIC_SHARE * (width - 1)))
  rest = width - 1 - topics.shape[1]
  spelling = SPELLING_LENGTH * _spelling(pieces, vocab_size, rest)
  content = _mixed(topics, spelling, width - 1)
  noise = rng.standard_normal(content.shape, np.float32)
  content = _unit(_unit(content) + NOISE * _unit(noise))
  weight = idf / idf.max(initial=1e-9)
  weight[len(pieces) :] = 0.0
  weight[[n for n, piece in enumerate(pieces) if _CONTROL.fullmatch(piece)]] = 0
  weight[[n for n, piece in enumerate(pieces) if _SPARE.fullmatch(piece)]] = 1
  weight[list(silent_ids)] = 0.0
  spare = np.sqrt(1.0 - weight**2)
  return np.column_stack([content * weight[:, None], spare]).astype(np.float32)


def _counts(
  token_ids: Sequence[Int[np.ndarray, "_"]], vocab_size: int
) -> Sparse:
  """Sparse counts of the pieces (columns) in each text (rows)."""
  lengths = [len(ids) for ids in token_ids]
  columns = np.concatenate([np.zeros(0, np.int32), *token_ids])
  ends = np.concatenate([[0], np.cumsum(lengths)]).astype(np.int64)
  ones = np.ones(len(columns), np.float32)
  shape = (len(token_ids), vocab_size)
  counts = sparse.csr_array((ones, columns, ends), shape=shape)
  counts.sum_duplicates()
  return counts


def _inverse_document_frequency(
  counts: Sparse,
) -> Float[np.ndarray, "V"]:
  """log((1 + n) / (1 + df)): 0 for a piece that every text holds."""
  frequency = np.bincount(counts.indices, minlength=counts.shape[1])
  return np.log((1.0 + counts.shape[0]) / (1.0 + frequency))


def _topics(
  counts: Sparse, idf: Float[np.ndarray, "V"], width: int
) -> Float[np.ndarray, "V k"]:
  """Right singular vectors of TF-IDF: at most `width` columns, unit rows."""
  tfidf = counts[:: 1 + counts.shape[0] // MAX_TEXTS].copy()
  tfidf.data = (1.0 + np.log(tfidf.data)) * idf[tfidf.indices]
  return _unit(_singular_vectors(_scaled(tfidf).T, width))


def _spelling(
  pieces: Sequence[str], vocab_size: int, width: int
) -> Float[np.ndarray, "V k"]:
  """Left singular vectors of pieces by their character n-grams, unit rows."""
  known: dict[str, int] = {}
  rows, columns = [], []
  for row, piece in enumerate(pieces):
    for ngram in _ngrams(piece):
      rows.append(row)
      columns.append(known.setdefault(ngram, len(known)))
  shape = (vocab_size, max(len(known), 1))
  counts = sparse.csr_array(
    (np.ones(len(rows), np.float32), (rows, columns)), shape=shape
  )
  counts.sum_duplicates()
  counts.data *= _inverse_document_frequency(counts)[counts.indices]
  return _unit(_singular_vectors(_scaled(counts), width))


def _ngrams(piece: str) -> Iterator[str]:
  """Character n-grams of a piece's word, with marks at its ends, lower case."""
  word = piece.replace("\u2581", "").lower()
  if not word or _CONTROL.fullmatch(piece) or _SPARE.fullmatch(piece):
    return
  word = f"^{word}$"
  for length in NGRAMS:
    for start in range(len(word) - length + 1):
      yield word[start : start + length]
  yield word


def _singular_vectors(matrix: Sparse, width: int) -> Float[np.ndarray, "n k"]:
  """At most `width` left singular vectors, for the largest singular values."""
  from sklearn.utils import extmath

  width = min(width, *matrix.shape)
  if not width or not matrix.nnz:
    return np.zeros((matrix.shape[0], width), np.float32)
  left, _, _ = extmath.randomized_svd(
    sparse.csr_matrix(matrix, dtype=np.float32),
    width,
    n_iter=2,
    power_iteration_normalizer="QR",
    random_state=SEED,
  )
  return left


def _mixed(
  topics: Float[np.ndarray, "V t"],
  spelling: Float[np.ndarray, "V s"],
  width: int,
) -> Float[np.ndarray, "V k"]:
  """Both parts in `width` columns, interleaved so that every prefix has both.

  Matryoshka embeddings are prefixes, and singular vectors come in order of
  importance.
  """
  places = np.concatenate([_places(topics), _places(spelling)])
  joined = np.concatenate([topics, spelling], axis=1)
  joined = joined[:, np.argsort(places, kind="stable")]
  return np.pad(joined, [(0, 0), (0, width - joined.shape[1])])


def _places(part: np.ndarray) -> Float[np.ndarray, "k"]:
  return (np.arange(part.shape[1]) + 0.5) / max(part.shape[1], 1)


def _scaled(matrix: Sparse) -> Sparse:
  """The matrix with rows of norm 1; rows of zeros stay zero."""
  lengths = np.sqrt(matrix.multiply(matrix).sum(axis=1))
  per_entry = np.repeat(lengths, np.diff(matrix.indptr))
  data = matrix.data / np.maximum(per_entry, 1e-12)
  return sparse.csr_array((data, matrix.indices, matrix.indptr), matrix.shape)


def _unit(rows: Float[np.ndarray, "n k"]) -> Float[np.ndarray, "n k"]:
  """Rows of norm 1; rows of zeros stay zero."""
  lengths = np.linalg.norm(rows, axis=1, keepdims=True)
  return rows / np.maximum(lengths, 1e-12)
