"""TF-IDF with truncated SVD: a teacher that needs no download.

It is latent semantic analysis (Deerwester et al. 1990) of stemmed words and
character n-grams, fitted on the very texts that it encodes.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float

from embeddinggemma import cache, lexical
from embeddinggemma.mining.teacher import Encode, Item, TeacherModel
from embeddinggemma.mining.teachers.kind import Kind
from embeddinggemma.types import BadInput

NAME = "tfidf"
FEATURES = 2**16  # hashed words, and as many hashed n-grams
NGRAMS = (4, 4)
MAX_CHARS = 1000  # of a text, that it reads: more than a student does
FIT_TEXTS = 10_000  # spread over all, that the decomposition sees
WEAKEST = 1e-3  # singular value to keep, as a part of the largest
SPARE = 1e-3  # what every vector has in its last column


def tfidf(width: int, seed: int) -> TeacherModel:
  """A TF-IDF teacher with vectors of `width` dimensions.

  Equal texts and seeds give equal vectors. Raises BadInput for a width below 2,
  since the last dimension is kept for texts without any known feature.
  """
  if width < 2:
    raise BadInput(f"a tfidf teacher of width {width}; give it at least 2")
  about = {
    "teacher": NAME,
    "seed": seed,
    "features": FEATURES,
    "ngrams": list(NGRAMS),
    "max_chars": MAX_CHARS,
    "fit_texts": FIT_TEXTS,
  }

  def start(items: Sequence[Item], own: Path) -> Encode:
    if not own.is_file():
      step = -(-len(items) // FIT_TEXTS)
      fitted = _fit(_counts(items[::step]), width, seed)
      cache.write_array(own, fitted)
    *components, weights = np.load(own)
    components = np.stack(components, axis=1)
    return lambda items: _transform(_counts(items), weights, components)

  origin = {"kind": NAME, "name": "TF-IDF of the texts, by truncated SVD"}
  return TeacherModel(about, width, start, origin=lambda: origin)


def _counts(items: Sequence[Item]) -> Any:
  """Counts of hashed features (texts x features), a sparse matrix.

  Words are in the first half, character n-grams in the second. Hashing needs no
  vocabulary, which would not fit in memory for n-grams.
  """
  from scipy import sparse
  from sklearn.feature_extraction import text as features

  texts = [f"{item.title} {item.text}"[:MAX_CHARS] for item in items]
  options: Any = dict(
    n_features=FEATURES, alternate_sign=False, norm=None, dtype=np.float32
  )
  words = features.HashingVectorizer(analyzer=lexical.stems, **options)
  ngrams = features.HashingVectorizer(
    analyzer="char_wb", ngram_range=NGRAMS, **options
  )
  parts = [v.transform(texts) for v in (words, ngrams)]
  return sparse.csr_matrix(sparse.hstack(parts))


def _fit(counts: Any, width: int, seed: int) -> Float[np.ndarray, "T F"]:
  """The fitted map (T, F): right singular vectors, and the IDF weights last.

  Singular vectors are divided by the square roots of their values. Otherwise a
  few directions that all texts share would dominate every cosine.
  """
  from sklearn.utils import extmath

  weights = _weights(counts)
  known = np.flatnonzero(weights)
  matrix = _tfidf(counts, weights)[:, known]
  rank = min(width - 1, *matrix.shape)
  fitted = np.zeros((width, counts.shape[1]), np.float32)
  fitted[-1] = weights
  if rank:
    _, values, vectors = extmath.randomized_svd(
      matrix,
      rank,
      n_iter=2,
      power_iteration_normalizer="QR",
      random_state=seed,
    )
    kept = np.flatnonzero(values > WEAKEST * values[0])
    vectors = vectors[kept] / np.sqrt(values[kept, None])
    fitted[np.ix_(kept, known)] = vectors
  return fitted


def _transform(
  counts: Any,
  weights: Float[np.ndarray, "F"],
  components: Float[np.ndarray, "F k"],
) -> Float[np.ndarray, "n T"]:
  """Vectors of texts: their TF-IDF, projected on the components.

  A last column of a tiny constant is all that a text of unknown features has,
  so that no vector is zero.
  """
  vectors = _tfidf(counts, weights) @ components
  return np.pad(vectors, ((0, 0), (0, 1)), constant_values=SPARE)


def _weights(counts: Any) -> Float[np.ndarray, "F"]:
  """Inverse document frequencies.

  They are 0 for features that only one text has, or all of them.
  """
  frequency = np.bincount(counts.indices, minlength=counts.shape[1])
  weights = np.log((1 + counts.shape[0]) / (1 + frequency))
  return np.where(frequency > 1, weights, 0.0).astype(np.float32)


def _tfidf(counts: Any, weights: Float[np.ndarray, "F"]) -> Any:
  """TF-IDF of counts, with rows of length 1 in each half of the features."""
  from scipy import sparse
  from sklearn import preprocessing

  counts = counts.copy()
  counts.data = (1 + np.log(counts.data)) * weights[counts.indices]
  halves = [counts[:, :FEATURES], counts[:, FEATURES:]]
  return sparse.csr_matrix(
    sparse.hstack([preprocessing.normalize(half) for half in halves])
  )


KIND = Kind(
  lambda config: config.teacher == NAME,
  lambda config: tfidf(config.width, config.seed),
)
