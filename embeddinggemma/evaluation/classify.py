"""Label texts by a few labelled examples.

A logistic regression is fitted on frozen vectors. On banking77 (77 labels) it
is as accurate as the nearest mean of a label's vectors with one example per
label (.33 and .32), and more accurate with more (.62 and .54 with five, .84 and
.69 with fifty; one-layer laptop model, untrained), so there is only this one.
"""

import pathlib
import warnings
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from jaxtyping import Float

from embeddinggemma.data import arguments, truncation
from embeddinggemma.evaluation.kinds import labelled
from embeddinggemma.types import BadInput, TextEncoder

# Scikit-learn's C, for vectors centred on their mean with unit mean square. A
# lower one is no more accurate, and its probabilities are too low:
# at 10, by .3.
STRENGTH = 300.0
PROMPT = "classification"  # the name of the texts' prompt
_ALIKE = 1e-5  # deviation of unit vectors that differ only by rounding


class Guess(NamedTuple):
  """A text's labels, the likeliest first, with their probabilities."""

  text: str
  labels: list[tuple[str, float]]


class Examples(NamedTuple):
  """Labelled texts."""

  texts: Sequence[str]
  labels: Sequence[str]


def read(path: pathlib.Path) -> Examples:
  """Read labelled texts from JSONL rows of {"text", "label"}.

  Raises BadInput for a bad line, or if all texts have the same label.
  """
  try:
    return Examples(*labelled.read(path))
  except OSError as error:
    raise BadInput(f"cannot read {path}: {error.strerror}") from None


def classify(
  encode: TextEncoder, examples: Examples, texts: Sequence[str]
) -> list[Guess]:
  """Label texts by a logistic regression that is fitted to the examples."""
  with truncation.counted() as counts:
    known = encode(examples.texts, PROMPT)
    asked = encode(texts, PROMPT)
  truncation.report(counts)
  names, shares = probabilities(known, examples.labels, asked)
  order = np.argsort(-shares, axis=1, kind="stable")
  return [
    Guess(text, [(names[n], float(share[n])) for n in best])
    for text, share, best in zip(texts, shares, order, strict=True)
  ]


def probabilities(
  known: Float[np.ndarray, "n M"],
  labels: Sequence[str],
  asked: Float[np.ndarray, "q M"],
) -> tuple[list[str], Float[np.ndarray, "q L"]]:
  """The labels in order, and the probability of each for each asked vector.

  If all known vectors are equal, these are the labels' frequencies.

  Args:
    known: vectors of the labelled texts.
    labels: their labels, of which L differ.
    asked: vectors to label.

  Raises BadInput for a vector that is zero or not finite.
  """
  from sklearn import exceptions, linear_model

  for name, vectors in ("known", known), ("asked", asked):
    arguments.unit(name, vectors)  # only for its checks: the length stays
  names = sorted(set(labels))
  # Labels go by number: NumPy's strings lose trailing null characters.
  numbers = {name: number for number, name in enumerate(names)}
  mean = known.mean(axis=0)
  size = np.sqrt(np.square(known - mean).sum(axis=1).mean())
  size = size if size > _ALIKE else 1.0
  probe = linear_model.LogisticRegression(C=STRENGTH, max_iter=300)
  with warnings.catch_warnings():
    warnings.simplefilter("ignore", exceptions.ConvergenceWarning)
    probe.fit((known - mean) / size, [numbers[label] for label in labels])
  return names, probe.predict_proba((asked - mean) / size)
