"""Texts whose vectors say whether a runtime computes the model; ours of them.

Many languages, code with tabs, every prompt of the model, and rows of ids as
long as what usually goes wrong: the window's edges, and the longest text.
"""

import functools
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, NamedTuple

import jax
import numpy as np
from jaxtyping import Float, Int

from embeddinggemma import checkpoint, quantize
from embeddinggemma.convert import folder as folders
from embeddinggemma.convert import tensors
from embeddinggemma.convert.exporting import Job
from embeddinggemma.data import packing, prompts, samples
from embeddinggemma.data.tokenizer import Tokenizer
from embeddinggemma.model import embedder, trace
from embeddinggemma.model.config import ModelConfig

_CODE = (
  "def first(items):\n\tfor item in items:\n\t\tif item:\n\t\t\treturn item",
  "if (x)  {\n        y  =  x * 3.14159;\n}",
  "2026-11-24T09:05:07Z  192.168.0.1  1,234,567.89",
)
# Rows that programs are compiled for, and the longest text's.
_LENGTHS = (128, 512)
_POOLED = (8, 128)  # rows that are traced together, and their length


class Item(NamedTuple):
  """What a runtime is asked for."""

  text: str | None  # None: ids alone
  ids: Int[np.ndarray, "_"]

  @property
  def name(self) -> str:
    """For messages."""
    return "a row of ids" if self.text is None else repr(self.text[:60])


def items(job: Job) -> list[Item]:
  """Every text that fits, and rows of ids; of texts, outer white space too."""
  tokenizer = Tokenizer(job.files[folders.TOKENIZER_FILE])
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
  """The words that come to at most so many tokens."""
  low, high = 0, longest  # a word has a token at the least
  while low < high:
    middle = (low + high + 1) // 2
    if len(tokenizer.encode(samples.of_words(middle))) <= longest:
      low = middle
    else:
      high = middle - 1
  return samples.of_words(low)


def _rows(tokenizer: Tokenizer, job: Job) -> Iterable[Int[np.ndarray, "_"]]:
  """BOS, ids of a text, EOS: the shortest, both edges of the window, longest."""
  longest, window = job.config.max_length, job.config.window
  edges = (m + n for m in (window // 2, window) for n in (-1, 0, 1))
  lengths = {2, 3, *edges, longest - 1, longest}
  ids = tokenizer.encode(samples.of_words(longest))
  for length in sorted(n for n in lengths if 2 <= n <= longest):
    yield np.array([*ids[: length - 1], ids[-1]], np.int32)


def references(
  job: Job, rows: Sequence[Int[np.ndarray, "_"]]
) -> Mapping[str, Float[np.ndarray, "n M"]]:
  """Our vectors of rows of ids, by precision.

  Of the written one and, where it is not what was trained, of float.
  """
  precisions = (
    {job.precision, quantize.FLOAT} if job.rounded else {job.precision}
  )
  with jax.default_matmul_precision("highest"):  # else TPUs round to bfloat16
    return {name: _vectors(job, rows, name) for name in precisions}


def _vectors(
  job: Job, rows: Sequence[Int[np.ndarray, "_"]], precision: str
) -> Float[np.ndarray, "n M"]:
  """The parameters of one precision are gone before the next one's come."""
  program = _program(job.config.portable)
  params = tensors.placed(checkpoint.stream(job.directory), precision)
  vectors = [program(params, *_padded(row, job)) for row in rows]
  return np.concatenate([np.asarray(v) for v in vectors])


@functools.cache
def _program(config: ModelConfig) -> Any:
  """Compiled once for each length, however many exports a recipe makes."""
  return jax.jit(embedder.encode_group(config))


def pooled(job: Job) -> Float[np.ndarray, "n D"]:
  """What goes into the head, of the shorter golden texts."""
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


def _padded(
  row: Int[np.ndarray, "_"], job: Job
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
  """ids and slot (1, L), valid (1,): one text, and positions of none."""
  longest = packing.rung(job.config.max_length)
  length = next(n for n in (*_LENGTHS, longest) if n >= len(row))
  ids, slot = np.zeros((1, length), np.int32), np.ones((1, length), np.int32)
  ids[0, : len(row)], slot[0, : len(row)] = row, 0
  return ids, slot, np.ones(1, bool)
