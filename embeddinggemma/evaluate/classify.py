"""Labels for texts, learned from a few labelled ones.

A logistic regression on the frozen vectors. On banking77 it is right as often
as the nearest mean of a label's vectors from one example a label (.33 and .32
of 77 labels), and oftener from more (.62 and .54 from five, .84 and .69 from
fifty; one-layer model of the laptop, untrained), so there is only this one.
"""

import pathlib
import warnings
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from jaxtyping import Float

from embeddinggemma.evaluate import tasks
from embeddinggemma.types import BadInput, TextEncoder

# Of scikit-learn's C, on vectors around their mean at unit mean square. Less
# is no righter, and its probabilities are too low: at 10, by .3.
STRENGTH = 300.0
_ALIKE = 1e-5  # the deviation of unit vectors that differ by rounding alone


class Guess(NamedTuple):
  """The labels of a text, the likeliest first, with their probabilities."""

  text: str
  labels: list[tuple[str, float]]


class Examples(NamedTuple):
  """Labelled texts."""

  texts: Sequence[str]
  labels: Sequence[str]


def read(path: pathlib.Path) -> Examples:
  """A JSONL of {"text", "label"}; BadInput names a bad line, or one label."""
  try:
    return Examples(*tasks.read_labels(path))
  except OSError as error:
    raise BadInput(f"cannot read {path}: {error.strerror}") from None


def classify(
  encode: TextEncoder, examples: Examples, texts: Sequence[str]
) -> list[Guess]:
  """What each text is labelled by a probe that is fitted to the examples."""
  known = encode(examples.texts, "classification")
  names, shares = probabilities(
    known, examples.labels, encode(texts, "classification")
  )
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
  """The L labels in order, and how likely each is for each asked vector.

  Where all known vectors are one, that is how often each label is known.
  """
  from sklearn import exceptions, linear_model

  names = sorted(set(labels))
  # By number: numpy's strings drop what ends them.
  numbers = {name: number for number, name in enumerate(names)}
  mean = known.mean(axis=0)
  size = np.sqrt(np.square(known - mean).sum(axis=1).mean())
  size = size if size > _ALIKE else 1.0
  probe = linear_model.LogisticRegression(C=STRENGTH, max_iter=300)
  with warnings.catch_warnings():
    warnings.simplefilter("ignore", exceptions.ConvergenceWarning)
    probe.fit((known - mean) / size, [numbers[label] for label in labels])
  return names, probe.predict_proba((asked - mean) / size)
