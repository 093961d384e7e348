"""Golden texts, whose vectors show whether a runtime computes the model.

They have many languages, code with tabs and every prompt of the model; beside
them are rows of token ids at the lengths where errors show: the edges of the
attention window, and the longest text.
"""

import functools
from collections.abc import Iterable, Sequence
from typing import Any, NamedTuple

import jax
import ml_dtypes
import numpy as np
from jaxtyping import Float, Int

from embeddinggemma import checkpoint
from embeddinggemma.checkpoint import Name
from embeddinggemma.convert import tensors
from embeddinggemma.convert.write.exporting import BFLOAT16, FLOAT32, Job
from embeddinggemma.data import packing, prompts, samples
from embeddinggemma.data.tokenizer import Tokenizer
from embeddinggemma.model import arithmetic as arithmetics
from embeddinggemma.model import trace
from embeddinggemma.model.arithmetic import EXACT, Arithmetic
from embeddinggemma.model.config import ModelConfig

_CODE = (
  "def first(items):\n\tfor item in items:\n\t\tif item:\n\t\t\treturn item",
  "if (x)  {\n        y  =  x * 3.14159;\n}",
  "2026-11-24T09:05:07Z  192.168.0.1  1,234,567.89",
)
# Texts that go together, and up to what length: weights are read once for all.
# The longest go alone.
_TOGETHER = ((16, 32), (2, 512))
_POOLED = (8, 128)  # rows that are traced together, and their length


class Item(NamedTuple):
  """What a runtime is asked to embed: a text, or token ids."""

  text: str | None  # None: only ids
  ids: Int[np.ndarray, "_"]

  @property
  def name(self) -> str:
    """A short name for messages."""
    return "a row of ids" if self.text is None else repr(self.text[:60])


def items(job: Job) -> list[Item]:
  """Every golden text that fits, and rows of ids.

  White space around texts is part of them.
  """
  tokenizer = Tokenizer(job.files[checkpoint.TOKENIZER_FILE])
  longest = job.config.max_length
  first, _ = samples.sides()
  texts = [*samples.BRIEF, *samples.EXTREMES, *samples.WHITE_SPACE]
  texts += [*first, *_CODE]
  for number, prompt in enumerate(sorted(set(job.prompts.values()))):
    texts.append(prompts.with_prompt(prompt, first[number % len(first)]))
    texts.append(prompts.with_prompt(prompt, ""))
  texts.append(_filling(tokenizer, longest))
  found = [Item(x, tokenizer.encode(x)) for x in texts]
  found = [item for item in found if len(item.ids) <= longest]
  return found + [Item(None, row) for row in _rows(tokenizer, job)]


def _filling(tokenizer: Tokenizer, longest: int) -> str:
  """A text of as many words as fit in `longest` tokens."""
  low, high = 0, longest  # a word has a token at the least
  while low < high:
    middle = (low + high + 1) // 2
    if len(tokenizer.encode(samples.of_words(middle))) <= longest:
      low = middle
    else:
      high = middle - 1
  return samples.of_words(low)


def _rows(tokenizer: Tokenizer, job: Job) -> Iterable[Int[np.ndarray, "_"]]:
  """Rows of ids from BOS to EOS, at lengths that matter.

  These are the shortest, those at both edges of the window, and the longest.
  """
  longest, window = job.config.max_length, job.config.window
  edges = (m + n for m in (window // 2, window) for n in (-1, 0, 1))
  lengths = {2, 3, *edges, longest - 1, longest}
  ids = tokenizer.encode(samples.of_words(longest))
  for length in sorted(n for n in lengths if 2 <= n <= longest):
    yield np.array([*ids[: length - 1], ids[-1]], np.int32)


class References(NamedTuple):
  """Our unit vectors of rows of ids, with which a runtime's are compared."""

  # With the written weights, in the arithmetic of the runtime.
  written: Float[np.ndarray, "n M"]
  # With the written weights, exact; None if the runtime rounds nothing.
  exact: Float[np.ndarray, "n M"] | None = None
  # With the exported model, as `load` gives it; None if that is the same.
  model: Float[np.ndarray, "n M"] | None = None


def references(
  job: Job,
  rows: Sequence[Int[np.ndarray, "_"]],
  arithmetic: Arithmetic = EXACT,
) -> References:
  """The vectors with which an export's are compared."""
  exact = of_written(job, rows)
  with jax.default_matmul_precision("highest"):  # else TPUs round to bfloat16
    moved = job.rounded or job.dtype == BFLOAT16
    model = _vectors(job, rows, job.trained) if moved else exact
    if arithmetic == EXACT:
      return References(exact, None, model if moved else None)
    written = _vectors(job, rows, job.precision, arithmetic, job.dtype)
    return References(written, exact, model)


def of_written(
  job: Job, rows: Sequence[Int[np.ndarray, "_"]]
) -> Float[np.ndarray, "n M"]:
  """Our exact vectors with the written weights."""
  with jax.default_matmul_precision("highest"):
    return _vectors(job, rows, job.precision, EXACT, job.dtype)


def _vectors(
  job: Job,
  rows: Sequence[Int[np.ndarray, "_"]],
  precision: str,
  arithmetic: Arithmetic = EXACT,
  dtype: str = FLOAT32,
) -> Float[np.ndarray, "n M"]:
  """Our vectors of rows of ids in a precision, arithmetic and dtype.

  One precision's parameters are freed before the next one's are read.
  """
  program = _program(job.config.portable, arithmetic)
  stream = checkpoint.stream(job.directory)
  if dtype == BFLOAT16:
    stream = map(_halved, stream)
  params = tensors.placed(stream, precision)
  found = np.zeros((len(rows), job.config.embed_dim), np.float32)
  for places, shape in _groups(rows, packing.rung(job.config.max_length)):
    few = [rows[place] for place in places]
    vectors = np.asarray(program(params, *_padded(few, shape)))
    found[places] = vectors[: len(places)]
  return found


def _halved(named: tuple[Name, np.ndarray]) -> tuple[Name, np.ndarray]:
  """A matrix with its values rounded to bfloat16; other tensors as they are."""
  name, tensor = named
  if tensor.ndim < 2:
    return named
  return name, tensor.astype(ml_dtypes.bfloat16).astype(np.float32)


@functools.cache
def _program(config: ModelConfig, arithmetic: Arithmetic) -> Any:
  """The compiled encoder, shared by all exports of a process."""
  return jax.jit(arithmetics.encode_group(config, arithmetic))


def pooled(job: Job) -> Float[np.ndarray, "n D"]:
  """The pooled vectors, inputs of the head, of the shorter golden texts."""
  count, length = _POOLED
  rows = [item.ids for item in items(job) if len(item.ids) <= length]
  run = trace.tracer(job.config.portable)
  params = tensors.placed(checkpoint.stream(job.directory), job.precision)
  found = []
  for start in range(0, len(rows), count):
    ids, lengths = np.zeros(_POOLED, np.int32), np.ones(count, np.int32)
    few = rows[start : start + count]
    for n, row in enumerate(few):
      ids[n, : len(row)], lengths[n] = row, len(row)
    tokens = np.asarray(run(params, ids, lengths).tokens)
    found += [tokens[n, : len(row)].mean(axis=0) for n, row in enumerate(few)]
  return np.stack(found)


def _groups(
  rows: Sequence[Int[np.ndarray, "_"]], longest: int
) -> Iterable[tuple[list[int], tuple[int, int]]]:
  """(indices of rows that go together, the shape they are padded to)."""
  places = sorted(range(len(rows)), key=lambda place: len(rows[place]))
  for count, length in (*_TOGETHER, (1, longest)):
    some = [place for place in places if len(rows[place]) <= length]
    places = places[len(some) :]
    yield from (
      (some[n : n + count], (count, length)) for n in range(0, len(some), count)
    )


def _padded(
  rows: Sequence[Int[np.ndarray, "_"]], shape: tuple[int, int]
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
  """Ids and segment ids (R, L), and valid (R,): one text per row.

  Positions of padding have segment R, which is no text.
  """
  count, _ = shape
  ids, segment_ids = np.zeros(shape, np.int32), np.full(shape, count, np.int32)
  for n, row in enumerate(rows):
    ids[n, : len(row)], segment_ids[n, : len(row)] = row, n
  return ids, segment_ids, np.arange(count) < len(rows)
