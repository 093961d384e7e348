"""Fit the head of a cut model to a teacher, in closed form.

What the first layers of a model have made of a text holds much of what its last
layers say of it, but not where the head looks for it. The head is linear and
without bias (paper section 2.1), so the best one for given layers is a ridge
regression of the teacher's vectors on the pooled states, exact after one pass
through the texts. Training starts there instead of from noise.

A few coordinates of a Gemma model's states are hundreds of times as large as
the rest and nearly constant. The gain of the last norm is set so that all are
of size 1: else one penalty would not fit them all, and a step of Adam, which is
as large for each weight, would ruin the fit.
"""

import dataclasses
from collections.abc import Iterable, Sequence
from typing import NamedTuple

import numpy as np
from jaxtyping import Float

from embeddinggemma.model import pooling
from embeddinggemma.model.config import ModelConfig
from embeddinggemma.types import Array, Params

# Penalties of the ridge, as shares of the mean square of a state's coordinate,
# of which those texts decide that the fit has not seen.
PENALTIES = (1e-4, 1e-3, 1e-2, 3e-2, 1e-1, 3e-1, 1.0)
# Norm of what the head makes, before it is brought to 1. Nothing depends on it
# but training: weights are so large that a step of 1e-4 is small beside them.
_NORM = 48.0
_HELD = 10  # one text in so many decides on the penalty
_CHUNK = 4096  # a teacher's vectors that are in memory at once

States = Float[np.ndarray, "_n _D"]
Vectors = Float[np.ndarray, "_n _M"]


Basis = Float[np.ndarray, "_M _T"]


class Fitted(NamedTuple):
  """How well a fitted head follows the teacher."""

  texts: int
  penalty: float
  cosine: float  # mean, to the teacher's vectors of texts that were held out


def unfit(config: ModelConfig, texts: int) -> str:
  """Why no head can be fitted, as words; "" if one can."""
  if pooling.POOLINGS[config.pooling].plain is None:
    return (
      f"pooling={config.pooling!r} has weights of its own; a head can be fitted"
      " to poolings without any, such as 'mean'"
    )
  return f"{texts} texts are too few to fit a head to" if texts < 2 else ""


def basis(vectors: Float[np.ndarray, "n T"], width: int) -> Basis | None:
  """Orthonormal rows in which unit vectors of a teacher are best said.

  Of a wider teacher they are its vectors' main directions, the first ones
  first (an SVD without centering); a narrower one's coordinates are kept and
  followed by zeros. So a student's vector times the basis follows the teacher.

  Args:
    vectors: of the teacher, perhaps on disk.
    width: M, of the student's vectors.

  Returns:
    None for a teacher as wide as the student.
  """
  own = vectors.shape[1]
  if own == width:
    return None
  if own < width:
    return np.eye(width, own, dtype=np.float32)
  gram = np.zeros((own, own))
  for start in range(0, len(vectors), _CHUNK):
    some = np.asarray(vectors[start : start + _CHUNK], np.float32)
    gram += some.T @ some
  _, directions = np.linalg.eigh(gram)  # ascending
  return np.asarray(directions[:, ::-1][:, :width].T, np.float32)


def bare(config: ModelConfig, params: Params) -> tuple[ModelConfig, Params]:
  """The model whose vectors are its pooled states, at unit length.

  Its last norm has no gain and its head is the identity. Its pooling has no
  weights, which a gain would change (`unfit`).
  """
  width = config.width
  eye, gain = np.eye(width, dtype=np.float32), np.ones(width, np.float32)
  model = _with(params["model"], eye, eye, gain)
  sizes = dataclasses.replace(config, up_width=width, embed_dim=width)
  return sizes, {"model": model, "aux": {}}


def fit(
  params: Params, batches: Iterable[tuple[States, Vectors]]
) -> tuple[Params, Fitted]:
  """Parameters with the head that follows a teacher best.

  Args:
    params: of the model. Its up-projection stays, since the down-projection
      can make every product of the two if U >= D.
    batches: pooled states at unit length, from a model that `bare` made, and
      the teacher's vectors of the same texts, two at least and as wide as the
      model's own, if need be in a `basis`.
  """
  model = params["model"]
  sums, held = _Sums(), _Sums()
  kept: list[tuple[States, Vectors]] = []
  for states, vectors in batches:
    away = np.arange(len(states)) % _HELD == 0
    kept.append((states[away], vectors[away]))
    sums.add(states[~away], vectors[~away])
    held.add(*kept[-1])
  whole = sums.joined(held)
  scores = [_cosine(sums.solve(penalty), kept) for penalty in PENALTIES]
  best = int(np.argmax(scores))
  rms, weights = whole.solve(PENALTIES[best])
  up = np.asarray(model["up"], np.float64)
  down = np.linalg.lstsq(up, _NORM * weights, rcond=None)[0]
  # The states had a root mean square of 1 / sqrt(D) all in all.
  gain = 1.0 / (np.sqrt(len(rms)) * rms)
  found = _with(model, model["up"], down, gain)
  fitted = Fitted(whole.count, PENALTIES[best], round(scores[best], 4))
  return {**params, "model": found}, fitted


def _with(model: Params, up: Array, down: Array, gain: Array) -> Params:
  """A model's parameters with another head, and gain of the last norm."""
  norm = {"scale": np.asarray(gain - 1.0, np.float32)}
  encoder = {**model["encoder"], "final_norm": norm}
  down = np.asarray(down, np.float32)
  return {**model, "encoder": encoder, "up": up, "down": down}


def _cosine(
  solved: tuple[np.ndarray, np.ndarray],
  texts: Sequence[tuple[States, Vectors]],
) -> float:
  """The mean cosine of what is predicted for texts to their vectors."""
  rms, weights = solved
  cosines = []
  for states, vectors in texts:
    found = (states / rms) @ weights
    norms = np.linalg.norm(found, axis=1) * np.linalg.norm(vectors, axis=1)
    cosines.append(np.sum(found * vectors, axis=1) / np.maximum(norms, 1e-12))
  return float(np.mean(np.concatenate(cosines)))


class _Sums:
  """Sums over texts from which a ridge regression follows."""

  def __init__(self) -> None:
    self.count = 0
    self.gram: np.ndarray = np.zeros(())
    self.cross: np.ndarray = np.zeros(())

  def add(self, states: States, vectors: Vectors) -> None:
    """Count some texts in."""
    wide, target = (np.asarray(x, np.float64) for x in (states, vectors))
    self.gram = self.gram + wide.T @ wide
    self.cross = self.cross + wide.T @ target
    self.count += len(states)

  def joined(self, other: "_Sums") -> "_Sums":
    """The sums over the texts of both."""
    both = _Sums()
    both.gram, both.cross = self.gram + other.gram, self.cross + other.cross
    both.count = self.count + other.count
    return both

  def solve(
    self, penalty: float
  ) -> tuple[Float[np.ndarray, "D"], Float[np.ndarray, "D M"]]:
    """Each coordinate's root mean square, and weights for states over it."""
    rms = np.sqrt(np.maximum(np.diag(self.gram) / self.count, 1e-20))
    gram = self.gram / np.outer(rms, rms) / self.count
    cross = self.cross / rms[:, None] / self.count
    return rms, np.linalg.solve(gram + penalty * np.eye(len(rms)), cross)
