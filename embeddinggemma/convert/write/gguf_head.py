"""Decide whether llama.cpp can compute the head from integers.

It rounds the inputs of a packed matrix to 8 bits, in blocks of 32 as in Q8_0. A
pooled vector with one number far above its block's others loses these. (A table
of latent semantic vectors has such a dimension, in which it keeps the rarity of
words.) In that case the values of both Dense layers are stored instead of their
integers: the same numbers, exact in float32.
"""

import dataclasses

import numpy as np
from jaxtyping import Float

from embeddinggemma import checkpoint, quantize
from embeddinggemma.convert.certify import golden
from embeddinggemma.convert.write.exporting import Job
from embeddinggemma.grids import GRIDS, dequantised, integers

_DENSE = (("up",), ("down",))
# Least cosine to an exact head, which may lose half of what an export may.
_BOUND = 0.999


def settle(job: Job) -> Job:
  """The job, with both Dense unpacked where rounding would cost too much."""
  if not job.packs or least_cosine(job, golden.pooled(job)) >= _BOUND:
    return job
  return dataclasses.replace(job, unpacked=_DENSE)


def least_cosine(job: Job, pooled: Float[np.ndarray, "n D"]) -> float:
  """The least cosine, over pooled vectors, that rounding inputs costs.

  It is between the head's outputs of rounded and of exact inputs.
  """
  tensors = checkpoint.read_tensors(job.directory, _DENSE)
  up, down = (quantize.seen(n, tensors[n], job.precision) for n in _DENSE)
  exact = pooled @ up @ down
  rough = _rounded(_rounded(pooled) @ up) @ down
  dots = np.sum(exact * rough, axis=1)
  norms = np.linalg.norm(exact, axis=1) * np.linalg.norm(rough, axis=1)
  return float(np.min(dots / np.maximum(norms, np.finfo(np.float32).tiny)))


def _rounded(vectors: Float[np.ndarray, "n d"]) -> Float[np.ndarray, "n d"]:
  return dequantised(*integers(vectors, GRIDS["q8_0"]))
