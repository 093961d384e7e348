"""The types that every other module speaks; they import nothing of ours.

Letters in annotations: G groups, R rows, L positions, b texts in a group,
B = G * b texts in a global batch, N negatives, T teacher width, M width of an
embedding.
"""

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple, Protocol, runtime_checkable

import jax
import numpy as np
import optax
from jaxtyping import Bool, Float, Int, UInt32

# Batches are NumPy arrays on the host, JAX arrays on devices. jaxtyping checks
# this type in tests; to a static checker a union would only be noise.
if TYPE_CHECKING:
  Array = Any
else:
  Array = jax.Array | np.ndarray
Params = Mapping[str, Any]  # {"model": ..., "aux": ...}: plain nested dicts
Aux = Mapping[str, Any]
# Scalars by name; of a step also what it shows to a probe (objectives.SEEN).
Metrics = dict[str, Any]
Key = jax.Array
Weights = Mapping[str, float]  # task name -> share of the batches
IDENTITY = "identity"  # key of a model's identity in JSON (model/identity.py)


class BadInput(Exception):
  """The user's input is wrong: one line with the thing and the fix, exit 2."""

  has_lines = False  # whether a line end in it is ours, not of a file's name


class BadType(BadInput, TypeError):
  """An argument of another type, as Python's own functions raise it."""


class BadValue(BadInput, ValueError):
  """An argument of the right type with a value that cannot be used.

  BadInput itself is no ValueError: readers of files catch that, where they add
  the file's name.
  """


class Notice(UserWarning):
  """A warning of this program; the command line prints its one line plainly."""


class Truncated(Notice):
  """Texts were longer than the model reads, and were cut.

  Each call that cuts warns. Filter it as any other:
  `warnings.simplefilter("error", Truncated)` turns it into an error.
  """


class Stopped(Exception):
  """A negative verdict, such as a loss that turned NaN: one line, exit 1."""


class BadBatch(Stopped):
  """The guard rejected a step; `index` is the position of its batch."""

  def __init__(self, words: str, step: int, index: int):
    super().__init__(words)
    self.step, self.index = step, index


class Interrupted(Exception):
  """Told to stop, and saved: one line, exit 42; the same command continues."""


class Text(NamedTuple):
  """G groups of texts; a group is R rows of L positions that hold b texts.

  The underscores in the shapes: texts of one batch may differ in R, L and b.
  """

  ids: Int[Array, "G _R _L"]
  segment_ids: Int[
    Array, "G _R _L"
  ]  # segment ids: which of the b texts; b: none
  valid: Bool[Array, "G _b"]  # False: an empty place (in a short last batch)


class Teacher(NamedTuple):
  """A teacher's embeddings of the texts of a batch."""

  query: Float[Array, "B T"] | None
  positive: Float[Array, "B T"] | None
  negative: Float[Array, "B N T"] | None


class PairBatch(NamedTuple):
  """Pairs of one task; `keys` are hashes for the duplicate mask.

  Without positives it is a batch of single texts, which are the queries; both
  columns of `keys` are then the same.
  """

  query: Text
  positive: Text | None
  negative: Text | None
  teacher: Teacher | None
  keys: UInt32[Array, "B 2"]
  task: Int[Array, ""]


class DenoiseBatch(NamedTuple):
  """Denoising examples: the text of a segment id in `targets` answers `inputs`.

  The two sides of an example have the same row and segment id, so that
  cross-attention stays within a row.
  """

  inputs: Text
  targets: Text


class Embeddings(NamedTuple):
  """The embeddings that the losses see: unit vectors, in group order."""

  query: Float[Array, "B M"]
  positive: Float[Array, "B M"] | None  # None: of single texts
  negative: Float[Array, "B N M"] | None
  # The positives of the whole global batch; of single texts, these themselves.
  candidates: Float[Array, "B M"]


class Seen(NamedTuple):
  """What a step shows to a probe: vectors, and what the loss reads of `aux`."""

  aux: Aux
  query: Float[Array, "B M"]
  positive: Float[Array, "B M"] | None
  negative: Float[Array, "B N M"] | None


class Values(NamedTuple):
  """What a term of the loss is for each pair of a batch.

  `counted` says for which pairs it is a loss at all: one that has nothing to be
  compared with has none. None: for every valid pair. `parts` are the summands
  of `total` by name, such as a Matryoshka dimension, which become metrics.
  """

  total: Float[Array, "B"]
  counted: Bool[Array, "B"] | None = None
  parts: Mapping[str, "Values"] = {}


class TrainState(NamedTuple):
  """All that training carries from step to step."""

  step: Int[Array, ""]
  params: Params
  opt_state: Any


class Pair(NamedTuple):
  """One line of a pairs.jsonl: `origin` is its FILE:LINE, for messages."""

  query: str
  positive: str
  negatives: tuple[str, ...]
  title: str
  task: str
  lang: str
  origin: str
  negative_titles: tuple[str, ...] = ()  # one for each negative, or () for none

  def keep_negatives(self, keep: Callable[[str], bool]) -> "Pair":
    """The pair with only those negatives whose text passes `keep`."""
    kept = [n for n, text in enumerate(self.negatives) if keep(text)]
    pick = lambda values: tuple(values[n] for n in kept) if values else ()
    return self._replace(
      negatives=pick(self.negatives),
      negative_titles=pick(self.negative_titles),
    )


class SingleText(NamedTuple):
  """One line of a texts.jsonl, which has no partner."""

  text: str
  prompt: str  # the name of one
  title: str  # "" for none; only with a document's prompt
  origin: str  # FILE:LINE, for messages


Encode = Callable[[Params, Text], Array]  # -> (B, M), unit norm, float32
# -> a value for each pair, (B,), or those with more to say.
LossTerm = Callable[[Aux, Embeddings, PairBatch], Array | Values]
Objective = Callable[[Params, Any], tuple[Array, Metrics]]  # (params, batch)
Probe = Callable[[Seen, Any], Metrics]  # (what a step shows, its batch)


@runtime_checkable
class TextEncoder(Protocol):
  """A function from texts to unit vectors, for evaluation and retrieval."""

  def __call__(
    self, texts: Sequence[str], prompt_name: str, titles: Sequence[str] = ()
  ) -> Float[np.ndarray, "n M"]: ...


def identity(params: Params) -> Params:
  """The view of an ordinary stage: the parameters as they are."""
  return params


def everything(path: str) -> bool:
  """The `trainable` of an ordinary stage: every parameter."""
  del path
  return True


@dataclasses.dataclass(frozen=True)
class Stage:
  """A stage of training: what is initialised, minimised and updated."""

  name: str
  init: Callable[[Key], Params]
  objective: Objective
  optimizer: optax.GradientTransformation
  view: Callable[[Params], Params] = identity
  trainable: Callable[[str], bool] = everything
  rules: str = "fsdp"  # key of sharding.RULES, by which the state is sharded
  probe: Probe | None = None  # of what the objective shows, now and then
