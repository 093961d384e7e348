"""Documents that grow: a fact and a passage in ever more running text."""

import bisect
import itertools
import re
from collections.abc import Iterator, Mapping, Sequence
from typing import NamedTuple

from embeddinggemma.evaluation.long_context.facts import Fact
from embeddinggemma.evaluation.long_context.questions import Asked
from embeddinggemma.evaluation.long_context.texts import Passage
from embeddinggemma.retrieval.measure import Measure
from embeddinggemma.types import BadInput

NEEDLE, PASSAGE = "needle", "passage"
TASKS = (NEEDLE, PASSAGE)
START, MIDDLE, END = "start", "middle", "end"
POSITIONS = (START, MIDDLE, END)
# The places of fact and passage in a document, never the same.
_ORDERS = tuple(itertools.permutations(POSITIONS, 2))
MOST_USES = 4  # documents of a length that may hold the same running text
_BACK = 40  # characters that a cut goes back to the end of a word


class Draft(NamedTuple):
  """A document before it has a length."""

  held: Mapping[str, str]  # position -> the fact, or the passage
  filler: str  # running text of other sources, enough for the longest


def positions(count: int) -> dict[str, list[str]]:
  """Task -> where in each document its answer stands.

  Facts come in groups of six about one person, which have all six orders, each
  kind of fact another one with every person.
  """
  orders = [
    _ORDERS[(n + n // len(_ORDERS)) % len(_ORDERS)] for n in range(count)
  ]
  return {
    task: [order[place] for order in orders] for place, task in enumerate(TASKS)
  }


def draft(
  facts: Sequence[Fact],
  asked: Sequence[Asked],
  passages: Sequence[Passage],
  longest: int,
) -> Iterator[Draft]:
  """A draft for each fact and each passage with a question, in their order.

  The running text of all is dealt like cards: passages in the order of their
  texts, which no document asks for, of other texts than the document's own. So
  documents share some only when all have been dealt.
  """
  golden = {one.place for one in asked}
  deck = [p for place, p in enumerate(passages) if place not in golden]
  where = positions(len(facts))
  start = 0
  for number, (fact, one) in enumerate(zip(facts, asked, strict=True)):
    own = passages[one.place].source
    filler, start = _deal(deck, own, start, longest)
    held = {
      where[NEEDLE][number]: fact.statement,
      where[PASSAGE][number]: one.text,
    }
    yield Draft(held, filler)


def _deal(
  deck: Sequence[Passage], own: tuple[str, int], start: int, wanted: int
) -> tuple[str, int]:
  """Running text of at least `wanted` tokens, and where the next begins."""
  taken, tokens = [], 0
  for offset in range(len(deck)):
    place = (start + offset) % len(deck)
    if tokens >= wanted:
      return "\n\n".join(taken), place
    if deck[place].source != own:
      taken.append(deck[place].text)
      tokens += deck[place].tokens
  return "\n\n".join(taken), start


def require_text(
  where: str,
  asked: Sequence[Asked],
  passages: Sequence[Passage],
  count: int,
  longest: int,
) -> float:
  """How many documents of a length hold the same running text, on average.

  Raises BadInput for a text with too few passages that have a question, or too
  little other text: what is needed, and what there is.
  """
  fix = "give more text, fewer documents (--suite=long:documents=N)"
  if len(asked) < count:
    raise BadInput(
      f"{where}: of {len(asked)} of its {len(passages)} passages a part could ask"
      f" for the rest; {count} documents need {count} of them: {fix}"
    )
  golden = {one.place for one in asked}
  by_source: dict[tuple[str, int], int] = {}
  for place, passage in enumerate(passages):
    if place not in golden:
      tokens = by_source.get(passage.source, 0) + passage.tokens
      by_source[passage.source] = tokens
  own = {passages[place].source for place in golden}
  # A document takes nothing from the text that its passage is from.
  there = sum(by_source.values())
  least = there - max(by_source.get(source, 0) for source in own)
  needed = max(longest, -(-count * longest // MOST_USES))
  if least < needed:
    raise BadInput(
      f"{where}: {least:,} tokens of text beside the passages that are asked"
      f" for; {count} documents of {longest:,} tokens need {needed:,}: {fix} or"
      " shorter --lengths"
    )
  return max(1.0, count * longest / there)


def grown(draft: Draft, length: int, measure: Measure) -> str:
  """The document with as much running text as makes at most `length` tokens."""
  size = lambda end: measure.lengths([_joined(draft, end)], "")[0]
  ends = range(len(draft.filler) + 1)
  most = bisect.bisect_right(ends, length, key=size) - 1
  end = _word_end(draft.filler, most)
  return _joined(draft, end if size(end) <= length else most)


def _joined(draft: Draft, end: int) -> str:
  """The document with the running text up to a place."""
  text = draft.filler[:end]
  parts = [text]
  if MIDDLE in draft.held:
    half = _word_end(text, len(text) // 2)
    parts = [text[:half], draft.held[MIDDLE], text[half:]]
  whole = [draft.held.get(START, ""), *parts, draft.held.get(END, "")]
  return "\n\n".join(part for part in map(str.strip, whole) if part)


def _word_end(text: str, end: int) -> int:
  """The last end of a word at or shortly before a place, else the place."""
  if end >= len(text):
    return len(text)
  first = max(end - _BACK, 0)
  spaces = [m.start() for m in re.finditer(r"\s", text[first : end + 1])]
  return first + spaces[-1] if spaces else end
