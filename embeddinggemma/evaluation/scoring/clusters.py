"""V-measure of k-means on samples of texts, as mteb computes it.

mteb has two protocols, and both are here to the bit (AbsTaskClustering and
AbsTaskClusteringLegacy, version 2.26): the present one clusters samples of a set
of texts, for each level of their labels, the older one clusters several sets, each
as it is. The score is the mean.
"""

import random
import warnings
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from jaxtyping import Float

from embeddinggemma.evaluation import metrics
from embeddinggemma.evaluation.scoring.scored import Scored

LEGACY_BATCH = 500  # of mini-batch k-means, in the older protocol
Label = str | int


def embedded(count: int, settings: Mapping[str, Any]) -> list[int] | None:
  """Which of so many texts are embedded, in their order; None: all of them."""
  most = settings.get("max_document_to_embed")
  if share := settings.get("max_fraction_of_documents_to_embed"):
    most = int(share * count)
  if most is None:
    return None
  rng = random.Random(settings["seed"])
  return rng.sample(range(count), k=min(count, most))


def sampled(
  vectors: Float[np.ndarray, "n M"],
  labels: Sequence[Sequence[Label]],
  settings: Mapping[str, Any],
  drawn_of: int | None,
) -> Scored:
  """The mean V-measure over samples with replacement, and over levels.

  Args:
    vectors: of the texts.
    labels: of each text, the coarsest first; of a label that a text has not, -1
      takes the place.
    settings: "n_clusters" samples of "max_documents_per_cluster" texts, the
      "k_mean_batch_size", the "seed", and "max_depth" of the levels, or none.
    drawn_of: of how many texts these were drawn by `embedded`, which takes its
      numbers from the same generator; None: they are all.
  """
  metrics.require_directions(vectors)
  rng = random.Random(settings["seed"])
  if drawn_of is not None:
    rng.sample(range(drawn_of), k=len(vectors))
  deepest = max(map(len, labels))
  found: list[float] = []
  for level in range(min(deepest, settings.get("max_depth", deepest))):
    named = [own[level] if len(own) > level else -1 for own in labels]
    # Beside labels that are texts, NumPy makes a text of the -1, which then is a
    # label like others: so it does in mteb.
    given = np.array(named)
    there = np.array([label != -1 for label in given])
    found += _level(vectors[there], given[there], settings, rng)
  return Scored(metrics.finite({"v_measure": np.mean(found)}))


def _level(
  vectors: Float[np.ndarray, "n M"],
  labels: np.ndarray,
  settings: Mapping[str, Any],
  rng: random.Random,
) -> list[float]:
  """V-measure of each sample, with as many clusters as there are labels."""
  from sklearn import cluster
  from sklearn import metrics as sklearn

  k_means = cluster.MiniBatchKMeans(
    n_clusters=np.unique(labels).size,
    batch_size=settings["k_mean_batch_size"],
    init="k-means++",
    n_init=1,
    random_state=settings["seed"],
  )
  found = []
  for _ in range(settings["n_clusters"]):
    size = settings["max_documents_per_cluster"]
    rows = rng.choices(range(len(vectors)), k=size)
    groups = _fitted(k_means, vectors[rows]).tolist()
    found.append(float(sklearn.v_measure_score(labels[rows], groups)))
  return found


def sets(
  vectors: Float[np.ndarray, "n M"],
  labels: Sequence[Sequence[Label]],
  seed: int,
) -> Scored:
  """The mean V-measure over sets of texts; 1 for a set of one label.

  Args:
    vectors: of the texts, set after set.
    labels: the labels of each set.
    seed: of k-means.
  """
  from sklearn import cluster
  from sklearn import metrics as sklearn

  metrics.require_directions(vectors)
  found, start = [], 0
  for own in labels:
    rows = vectors[start : start + len(own)]
    start += len(own)
    if len(set(own)) == 1:
      found.append(1.0)
      continue
    k_means = cluster.MiniBatchKMeans(
      n_clusters=len(set(own)),
      batch_size=LEGACY_BATCH,
      n_init="auto",
      compute_labels=True,
      random_state=seed,
    )
    groups = _fitted(k_means, rows).tolist()
    found.append(float(sklearn.v_measure_score(list(own), groups)))
  return Scored(metrics.finite({"v_measure": np.mean(found)}))


def _fitted(k_means: Any, vectors: Float[np.ndarray, "n M"]) -> np.ndarray:
  """The cluster of each vector; fewer distinct vectors than clusters are no news."""
  from sklearn import exceptions

  with warnings.catch_warnings():
    warnings.simplefilter("ignore", exceptions.ConvergenceWarning)
    return k_means.fit(vectors).labels_
