"""An opened model; values that several checks need are computed once."""

import dataclasses
import functools
from collections.abc import Sequence
from typing import NamedTuple

import jax
import numpy as np
from jaxtyping import Float, Int

from embeddinggemma.data import packing, samples, truncation
from embeddinggemma.loading import Model
from embeddinggemma.model import trace

PASS, NOTE, FAIL, NOT_RUN = "pass", "note", "fail", "not run"


class Finding(NamedTuple):
  """The result of a check; `fix` is empty unless it failed or is a note.

  A finding that passed and has a fix is a note: nothing is wrong with the
  model, but its users should know.
  """

  check: str
  passed: bool | None  # None: not run because of another fault
  reason: str
  fix: str = ""

  @property
  def verdict(self) -> str:
    """PASS, NOTE, FAIL or NOT_RUN."""
    if self.passed is None:
      return NOT_RUN
    if not self.passed:
      return FAIL
    return NOTE if self.fix else PASS


class States(NamedTuple):
  """Texts, one a row: ids, lengths, and intermediate values of the model."""

  ids: Int[np.ndarray, "R L"]
  lengths: Int[np.ndarray, "R"]
  trace: trace.Trace  # as numpy arrays

  def tokens(self, row: int) -> Float[np.ndarray, "_ D"]:
    """The final hidden states of one text."""
    return np.asarray(self.trace.tokens)[row, : self.lengths[row]]


@dataclasses.dataclass(frozen=True)
class Opened:
  """A loaded model and the texts to try it on.

  The texts begin with `samples.BRIEF`; the sides of `samples.PAIRS` follow, or
  nothing.
  """

  model: Model
  texts: tuple[str, ...]

  def encode(
    self, texts: Sequence[str], dtype: str = "float32"
  ) -> Float[np.ndarray, "n M"]:
    """Embed texts as users do, without the warning of texts that were cut.

    Raises Stopped if an embedding is not finite.
    """
    with truncation.counted():
      return self._model(dtype).encode(list(texts))

  @functools.cached_property
  def vectors(self) -> Float[np.ndarray, "n M"]:
    """Embeddings of `texts`, in float32."""
    return self.encode(self.texts)

  @functools.cached_property
  def brief(self) -> States:
    """Intermediate values for `samples.BRIEF`."""
    return self.states(self.ids(samples.BRIEF))

  def ids(self, texts: Sequence[str]) -> list[Int[np.ndarray, "_"]]:
    """Token ids as `encode` makes them."""
    length = self.model.config.max_length
    return self.model.tokenizer.encode_batch(list(texts), length)[0]

  def states(self, rows: Sequence[Int[np.ndarray, "_"]]) -> States:
    """Run the model on ids and keep its intermediate values, in float32."""
    lengths = np.array([len(row) for row in rows])
    ids = np.zeros((len(rows), packing.rung(int(lengths.max()))), np.int32)
    for place, row in zip(ids, rows):
      place[: len(row)] = row
    run = trace.tracer(self._model("float32").config)
    made = run(self._params, ids, lengths)
    return States(ids, lengths, jax.tree.map(np.asarray, made))

  @functools.cached_property
  def _params(self) -> dict:
    return jax.device_put({"model": self.model.params["model"]})

  def _model(self, dtype: str) -> Model:
    return self._exact if dtype == "float32" else _in(self.model, dtype)

  @functools.cached_property
  def _exact(self) -> Model:
    return _in(self.model, "float32")


def _in(model: Model, dtype: str) -> Model:
  config = dataclasses.replace(model.config, dtype=dtype)
  return dataclasses.replace(model, config=config)
