"""The stream of batches: tasks mixed by weights.

A batch of pairs comes from one task, since its texts are each other's
negatives; running text of several tasks is mixed within a batch. Which task,
and which of its rows, is a pure function of (seed, step), so a stream can be
continued at any step, on any mesh, with the same rows.
"""

import array
import dataclasses
import functools
import hashlib
import itertools
from collections.abc import Mapping, Sequence
from typing import NamedTuple

import grain
import numpy as np
from jaxtyping import Int, UInt32

from embeddinggemma.config import TEXTS
from embeddinggemma.data import prompts, ragged, sources
from embeddinggemma.data.ragged import Grouped, Ragged
from embeddinggemma.data.single_texts import Texts
from embeddinggemma.types import BadInput, Pair, Weights

# Batches that form a window, whose rows are distributed to balance lengths.
_WINDOW = 64
# Rows of running text drawn from one task at a time; divides a window.
_HAND = 16
_AT_ONCE = 4096  # pairs that are tokenised together


@dataclasses.dataclass(frozen=True)
class Rows:
  """The tokenised pairs of one task, or single texts, which are the queries."""

  task: str
  query: Sequence[Int[np.ndarray, "_"]]
  positive: Sequence[Int[np.ndarray, "_"]] | None  # None: single texts
  keys: UInt32[np.ndarray, "n 2"]  # hashes of query and positive
  origin: Sequence[str]  # FILE:LINE
  # For each pair its hard negatives, N for every pair; a text without tokens is
  # an empty place.
  negative: Sequence[Sequence[Int[np.ndarray, "_"]]] = ()
  # Rows of the teacher's vectors for query, positive and negatives; -1: none.
  taught: Int[np.ndarray, "n texts"] | None = None

  @property
  def negatives(self) -> int:
    """N, the places for hard negatives of each pair."""
    return len(self.negative[0]) if self.negative else 0

  @functools.cached_property
  def lengths(self) -> Int[np.ndarray, "n texts"]:
    """Tokens of query, positive, if there is one, and each negative."""
    if self.positive is None:
      return np.array([len(text) for text in self.query])[:, None]
    if isinstance(self.query, Ragged) and isinstance(self.positive, Ragged):
      sides = [self.query.sizes[:, None], self.positive.sizes[:, None]]
      if isinstance(self.negative, Grouped):
        sides.append(self.negative.sizes)
      return np.concatenate(sides, axis=1)
    negative = self.negative or [()] * len(self)
    texts = zip(self.query, self.positive, negative, strict=True)
    sizes = [[len(q), len(p), *map(len, ns)] for q, p, ns in texts]
    return np.array(sizes).reshape(-1, 2 + self.negatives)

  def __len__(self) -> int:
    return len(self.query)


class Draw(NamedTuple):
  """The rows of one batch, as indices into the rows of one task."""

  task: str
  rows: Int[np.ndarray, "n"]


def text_key(text: str) -> int:
  """A 32-bit hash of a text, for the duplicate mask of equation 3."""
  return int.from_bytes(hashlib.blake2s(text.encode(), digest_size=4).digest())


def tokenise(
  pairs: Sequence[Pair], tokenizer, max_length: int, negatives: int = 0
) -> tuple[dict[str, Rows], int]:
  """Add prompts and tokenise pairs, by task; also count the truncated texts.

  `negatives` is the largest number of hard negatives used of each pair. Some
  thousands of pairs are in memory at a time, and the ids lie on disk.
  """
  rows, truncated = {}, 0
  for task, members in sorted(sources.by_task(pairs).items()):
    # Every pair gets as many places as the pair with the most negatives has.
    count = min(negatives, sources.most_negatives(members)) if negatives else 0
    sides, keys = [ragged.Writer() for _ in range(3)], array.array("I")
    unread = iter(members)
    while some := list(itertools.islice(unread, _AT_ONCE)):
      query, cut_q = tokenizer.encode_batch(
        [prompts.query_text(task, p.query) for p in some], max_length
      )
      positive, cut_p = tokenizer.encode_batch(
        [prompts.document_text(task, p.positive, p.title) for p in some],
        max_length,
      )
      negative, cut_n = _negatives(some, tokenizer, max_length, count)
      truncated += cut_q + cut_p + cut_n
      for side, found in zip(sides, (query, positive, negative)):
        side.extend(found)
      for pair in some:
        keys.extend((text_key(pair.query), text_key(pair.positive)))
    rows[task] = Rows(
      task,
      sides[0].rows(),
      sides[1].rows(),
      np.array(keys, np.uint32).reshape(-1, 2),
      sources.origins(members),
      Grouped(sides[2].rows(), count) if count else (),
    )
  return rows, truncated


def tokenise_texts(
  texts: Texts, tokenizer, max_length: int
) -> tuple[Rows, int]:
  """Add their prompts to single texts and tokenise them; count the truncated.

  They are one task, whatever their prompts.
  """
  side, keys, truncated = ragged.Writer(), array.array("I"), 0
  unread = iter(texts)
  while some := list(itertools.islice(unread, _AT_ONCE)):
    whole = [prompts.prompted(x.prompt, x.text, x.title) for x in some]
    found, cut = tokenizer.encode_batch(whole, max_length)
    truncated += cut
    side.extend(found)
    for text in whole:
      keys.extend([text_key(text)] * 2)
  both = np.array(keys, np.uint32).reshape(-1, 2)
  origins = sources.origins(texts)
  return Rows(TEXTS, side.rows(), None, both, origins), truncated


def _negatives(
  pairs: Sequence[Pair], tokenizer, max_length: int, count: int
) -> tuple[list[Int[np.ndarray, "_"]], int]:
  """The tokens of each pair's first `count` negatives, and how many were cut.

  A pair with fewer has rows without tokens.
  """
  if not count:
    return [], 0
  texts = [
    prompts.document_text(pair.task, text, title)
    for pair in pairs
    for text, title in titled_negatives(pair, count)
  ]
  found, cut = tokenizer.encode_batch(texts, max_length)
  tokens = iter(found)
  empty = np.zeros(0, np.int32)
  return [
    next(tokens) if n < len(pair.negatives) else empty
    for pair in pairs
    for n in range(count)
  ], cut


def titled_negatives(pair: Pair, count: int) -> list[tuple[str, str]]:
  """(text, title) of a pair's first `count` negatives."""
  titles = pair.negative_titles or ("",) * len(pair.negatives)
  return list(zip(pair.negatives, titles, strict=True))[:count]


def shares(
  sizes: Mapping[str, int], weights: Weights, size_exponent: float
) -> dict[str, float]:
  """Each task's share of the batches: weight * size ** exponent, normalised.

  A task without weight or without rows is left out. Raises BadInput for a
  weight that is negative or not finite, and if no task is left.
  """
  for task, weight in weights.items():
    if not (np.isfinite(weight) and weight >= 0):
      raise BadInput(f"data.weights.{task}={weight}: weights are >= 0")
  raw = {
    task: weights.get(task, 0.0) * size**size_exponent
    for task, size in sizes.items()
    if size
  }
  total = sum(raw.values())
  if not total:
    raise BadInput(
      "all weights of the mixture are zero; set data.weights.TASK above 0 for"
      f" one of the data's tasks: {', '.join(sorted(sizes)) or 'none'}"
    )
  return {task: value / total for task, value in raw.items() if value}


class Epochs:
  """Index i -> the rows of a task's i-th batch, epoch after epoch.

  An epoch uses every row once, in ceil(n / batch_size) batches of about equal
  size; places stay empty where batch_size does not divide n. Rows are shuffled
  and then, within a window of 64 batches, distributed by length, so that all
  batches have similar numbers of tokens and one compiled shape serves a task.
  """

  def __init__(self, rows: Rows, batch_size: int, seed: int):
    self._rows, self._seed = rows, seed
    self.batches = -(-len(rows) // batch_size)  # in an epoch
    self._order = functools.lru_cache(maxsize=2)(self._deal)

  def __len__(self) -> int:
    return 2**40  # grain ends a mixture with its shortest source

  def __getitem__(self, index: int) -> Draw:
    epoch, batch = divmod(int(index), self.batches)
    return Draw(self._rows.task, self._order(epoch)[batch])

  def _deal(self, epoch: int) -> list[Int[np.ndarray, "_"]]:
    rng = np.random.default_rng([self._seed, text_key(self._rows.task), epoch])
    order = rng.permutation(len(self._rows))
    batches = []
    for part in np.array_split(
      np.arange(self.batches), -(-self.batches // _WINDOW)
    ):
      # The same share of the rows as of the batches.
      first, last = part[0] * len(order), (part[-1] + 1) * len(order)
      window = order[first // self.batches : last // self.batches]
      lengths = self._rows.lengths[window]
      batches += [window[i] for i in _deal_window(lengths, rng, len(part))]
    return batches


def _deal_window(
  lengths: Int[np.ndarray, "n sides"],
  rng: np.random.Generator,
  batches: int,
) -> list[Int[np.ndarray, "_"]]:
  """Distribute n rows over the batches so that both sides' tokens balance.

  Rows are sorted by tokens and dealt in hands of one row for each batch, so a
  hand's rows have about equal tokens. In a hand, the row with the longest query
  goes to the batch with the fewest query tokens so far.
  """
  rows = np.argsort(lengths.sum(axis=1), kind="stable")
  dealt: list[list[int]] = [[] for _ in range(batches)]
  sums = np.zeros(batches, np.int64)
  for i in range(0, len(rows), batches):
    hand = rows[i : i + batches]
    hand = hand[np.argsort(-lengths[hand, 0], kind="stable")]
    order = rng.permutation(batches)
    order = order[np.argsort(sums[order], kind="stable")][: len(hand)]
    sums[order] += lengths[hand, 0]
    for batch, row in zip(order, hand):
      dealt[batch].append(int(row))
  return [np.array(batch, np.int64) for batch in dealt]


def draws(
  tasks: Mapping[str, Rows], weights: Weights, batch_size: int, seed: int
) -> grain.MapDataset:
  """A dataset step -> Draw, with tasks interleaved by their weights."""
  sources = {
    task: grain.MapDataset.source(Epochs(tasks[task], batch_size, seed))
    for task in sorted(weights)
  }
  return grain.MapDataset.mix(
    list(sources.values()), [weights[task] for task in sources]
  )


class Passes:
  """Index i -> the ids of the i-th hand of 16 rows of a task, pass after pass.

  A pass is a permutation of the task's rows. In pass p, row r has the id p *
  total + r, where `total` counts the rows of all tasks. An id names one
  example, so what is derived from (seed, id) is new in every pass.
  """

  def __init__(self, task: str, rows: range, total: int, seed: int):
    self._task, self._rows, self._total, self._seed = task, rows, total, seed
    self._order = functools.lru_cache(maxsize=2)(self._shuffle)

  def __len__(self) -> int:
    return 2**40  # grain ends a mixture with its shortest source

  def __getitem__(self, index: int) -> Int[np.ndarray, "hand"]:
    places = np.arange(index * _HAND, (index + 1) * _HAND)
    passes, places = np.divmod(places, len(self._rows))
    ids = passes * self._total
    for number in np.unique(passes):
      here = passes == number
      ids[here] += self._order(int(number))[places[here]]
    return ids

  def _shuffle(self, number: int) -> Int[np.ndarray, "rows"]:
    rng = np.random.default_rng([self._seed, text_key(self._task), number])
    return self._rows.start + rng.permutation(len(self._rows))


class TextDraws:
  """Step -> Draw of row ids of running text, tasks mixed within a batch.

  As in `Epochs`, the rows of 64 batches are distributed by length, so that the
  batches have similar numbers of tokens.
  """

  def __init__(
    self,
    task_rows: Mapping[str, range],
    lengths: Int[np.ndarray, "N"],
    weights: Weights,
    batch_size: int,
    seed: int,
  ):
    self._lengths, self._batch_size, self._seed = lengths, batch_size, seed
    hands = [
      grain.MapDataset.source(Passes(task, task_rows[task], len(lengths), seed))
      for task in sorted(weights)
    ]
    shares = [weights[task] for task in sorted(weights)]
    self._hands = grain.MapDataset.mix(hands, shares)
    self._window = functools.lru_cache(maxsize=2)(self._deal)

  def __len__(self) -> int:
    return 2**40  # endless; training stops reading

  def __getitem__(self, index: int) -> Draw:
    window, batch = divmod(int(index), _WINDOW)
    return Draw("text", self._window(window)[batch])

  def _deal(self, window: int) -> list[Int[np.ndarray, "B"]]:
    hands = self._batch_size * _WINDOW // _HAND
    drawn = range(window * hands, (window + 1) * hands)
    ids = np.concatenate([np.asarray(self._hands[i]) for i in drawn])
    lengths = self._lengths[ids % len(self._lengths)]
    rng = np.random.default_rng([self._seed, text_key("text"), window])
    return [ids[i] for i in _deal_window(lengths[:, None], rng, _WINDOW)]
