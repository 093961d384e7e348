"""Which of the pairs a student is taught: a fair, seeded part of them.

A teacher's vectors are what costs most, so a budget decides how many pairs are
taught. One pass through more of them is better than several through fewer.

Distillation reads their texts one by one: a vector is matched whatever the rest
of the batch is, so a batch may hold texts of all tasks. Where it held one task,
each step carried the head towards that task, and a student forgot more than it
learned (docs/measured.md).
"""

import itertools
import pathlib
import sys
from collections.abc import Iterator, Mapping, Sequence
from types import MappingProxyType
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Int

from embeddinggemma.checkpoint import TOKENIZER_FILE
from embeddinggemma.data import corpus, prompts, single_texts, sources
from embeddinggemma.data.mixture import text_key
from embeddinggemma.data.tables.pairs import Pairs
from embeddinggemma.data.tokenizer import Tokenizer
from embeddinggemma.mining import teacher
from embeddinggemma.retrieval import measure as measures
from embeddinggemma.types import Pair, SingleText

SINGLE = "texts"  # the folder of the same texts without their partners
_SOURCE = "drawn from own data"
_AT_ONCE = 1024  # pairs whose lengths are counted together
# Of a text that is to be cut so many characters are looked at: more than a token
# has on average, in a text of any kind.
_CHARS_A_TOKEN, _LOOKED_AT = 16, 60_000


class Drawn(NamedTuple):
  """The pairs that are taught."""

  pairs: int
  texts: int  # of both sides and negatives, distinct ones
  cut: int  # of both sides and negatives, those cut to what a student reads
  data_hash: str  # of the pairs
  texts_hash: str


def quotas(sizes: Mapping[str, int], count: int) -> dict[str, int]:
  """How many pairs each task gives of `count` in all.

  Small tasks give all that they have; the others give equally many.
  """
  left, given = count, {}
  for place, task in enumerate(sorted(sizes, key=lambda t: (sizes[t], t))):
    given[task] = min(sizes[task], left // (len(sizes) - place))
    left -= given[task]
  return given


def rows(
  sizes: Mapping[str, int], count: int, seed: int, ordered: bool
) -> dict[str, Int[np.ndarray, "_"]]:
  """The places, in each task, of the pairs that are drawn, ascending.

  Args:
    sizes: of the tasks.
    count: of pairs in all.
    seed: of the draw.
    ordered: take the first ones, since their order is fair already.
  """
  found = {}
  for task, quota in quotas(sizes, count).items():
    order = np.arange(sizes[task])
    if not ordered:
      rng = np.random.default_rng([seed, text_key(task)])
      order = rng.permutation(sizes[task])
    found[task] = np.sort(order[:quota])
  return found


def drawn(pairs: Pairs, count: int, seed: int, ordered: bool) -> Iterator[Pair]:
  """The pairs that `rows` draws, task by task."""
  by_task = pairs.by_task()
  sizes = {task: len(members) for task, members in by_task.items()}
  for task, places in rows(sizes, count, seed, ordered).items():
    chosen = np.zeros(sizes[task], bool)
    chosen[places] = True
    # In one pass, since each look-up of a pair would open its file.
    yield from itertools.compress(by_task[task], chosen.tolist())


def write(
  chosen: Sequence[Pair] | Iterator[Pair],
  tokenizer: Tokenizer,
  max_length: int | None,
  negatives: int,
  directory: pathlib.Path,
  told: Mapping[str, Any] = MappingProxyType({}),
) -> Drawn:
  """Write pairs as inputs of a training, each text cut to what it reads.

  So the teacher reads no more of a text than the student; with a max_length of
  None texts stay whole. Of hard negatives, `negatives` at most are kept. The
  folder SINGLE gets the distinct texts alone, as inputs too. `told` is what the
  corpus says of its sources (`corpus.sources_told`).
  """
  cutter = _Cutter(tokenizer, max_length)
  items: dict[str, teacher.Item] = {}  # by what a model reads, in order
  pairs = 0

  def counted() -> Iterator[Pair]:
    nonlocal pairs
    for pair in cutter.cut(chosen, negatives):
      pairs += 1
      for item in teacher.items_of([pair]):
        items.setdefault(prompts.prompted(*item), item)
      yield pair

  sources.write_pairs(directory / "corpus" / "train", counted())
  single = directory / SINGLE / "corpus" / "train" / single_texts.FILE
  single.parent.mkdir(parents=True)
  with single.open("w", encoding="utf-8", newline="\n") as file:
    for prompt, text, title in items.values():
      single_texts.write_row(file, SingleText(text, prompt, title, ""))
  hashes = []
  for place in (directory, directory / SINGLE):
    about: dict[str, Any] = corpus.describe(place / "corpus", _SOURCE, [], told)
    hashes.append(about["hash"])
    (place / TOKENIZER_FILE).write_bytes(tokenizer.model)
  return Drawn(pairs, len(items), cutter.count, *hashes)


class _Cutter:
  """Cuts texts after the last sentence or word that a student reads."""

  def __init__(self, tokenizer: Tokenizer, max_length: int | None) -> None:
    self.count = 0  # texts that were cut
    self._tokenizer, self._most = tokenizer, max_length or sys.maxsize
    self._measures: dict[str, measures.Measure] = {}

  def cut(self, pairs: Any, negatives: int) -> Iterator[Pair]:
    """The pairs with shorter texts."""
    some: list[Pair] = []
    for pair in pairs:
      some.append(fewer_negatives(pair, negatives))
      if len(some) == _AT_ONCE:
        yield from self._cut(some)
        some = []
    yield from self._cut(some)

  def _cut(self, pairs: Sequence[Pair]) -> Iterator[Pair]:
    read = [prompts.prompted(*side) for side in teacher.items_of(pairs)]
    counts = iter(self._tokenizer.counts(read))
    for pair in pairs:
      query, positive, *others = [
        side.text if next(counts) <= self._most else self._shorter(side)
        for side in teacher.items_of([pair])
      ]
      yield pair._replace(
        query=query, positive=positive, negatives=tuple(others)
      )

  def _shorter(self, side: teacher.Item) -> str:
    measure = self._measures.get(side.prompt)
    if measure is None:
      words = prompts.prompt_named(side.prompt)
      measure = measures.of_tokenizer(self._tokenizer, words, self._most)
      measure = measure._replace(most=_LOOKED_AT)
      self._measures[side.prompt] = measure
    self.count += 1
    near = side.text[: min(_CHARS_A_TOKEN * self._most, _LOOKED_AT)]
    return measures.pieces(near, side.title, measure)[0]


def fewer_negatives(pair: Pair, most: int) -> Pair:
  """The pair with so many hard negatives at most."""
  return pair._replace(
    negatives=pair.negatives[:most],
    negative_titles=pair.negative_titles[:most],
  )
