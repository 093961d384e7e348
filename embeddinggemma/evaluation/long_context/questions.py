"""Passages with a question each: one of their own sentences, taken out.

As in the inverse cloze task (arXiv 1906.00300): a sentence asks for what stood
around it. It works in any language and needs no labels.
"""

import itertools
import re
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from typing import NamedTuple

import numpy as np

from embeddinggemma import lexical
from embeddinggemma.data.beir import normalised
from embeddinggemma.evaluation.long_context.texts import Passage

Spans = Callable[[str], Iterator[tuple[int, int]]]  # text -> starts and ends

# Words of a question; where they are not spaced, pairs of characters.
_WORDS = range(6, 41)
_REST = 10  # words that a passage keeps, at least
_CLOSING = "[\"')\\]\u00bb\u201d\u2019\u300d\u300f\uff09]*"
_FULL = "\u3002\uff01\uff1f\u0964\u06d4"  # stops after which no space need be
# Where a sentence ends, and what follows; a paragraph ends one as well.
_ENDS = re.compile(
  rf"([.!?\u2026\u061f]{_CLOSING})\s+|([{_FULL}]{_CLOSING})\s*|()\n\s*\n"
)
_WHOLE = re.compile(rf".*[.!?\u2026\u061f{_FULL}]{_CLOSING}", re.DOTALL)
# What code has, and lines of comments, lists and quotations, and docstrings.
_SIGNS = re.compile(r"[{}\[\]()<>=+*/\\|_#@$%^&~`]")
_MARKED = re.compile(r"\n\s*(?:[#*>|+-]|//)|.(?:\"\"\"|''')", re.DOTALL)
_BEFORE = re.compile(r"\A[\s#*>/+-]*(?:\"\"\"|''')?\s*")  # a sentence of these


class Asked(NamedTuple):
  """A passage without the sentence that asks for it."""

  place: int  # of the passage, among all
  question: str
  text: str


def ask(
  passages: Sequence[Passage], count: int, rng: np.random.Generator
) -> list[Asked]:
  """At most `count` passages with a question, spread over the texts.

  A question stands nowhere else in the passages. Only where too few passages
  have a sentence that could be one, as in code, lines ask for others, and where
  lines are too few as well, as in short passages, runs of words.
  """
  order = rng.permutation(len(passages)).tolist()
  whole = "\n".join(normalised(passage.text) for passage in passages)
  found: list[Asked] = []
  for spans in (_sentences, _lines, _thirds):
    if len(found) == count:
      break
    taken = {asked.place for asked in found}
    drafts = [
      Asked(place, *draft)
      for place in order
      if place not in taken
      and (draft := _draft(passages[place].text, spans, rng))
    ]
    once = (
      asked
      for asked in _spread(drafts, passages)
      if whole.count(normalised(asked.question)) == 1
    )
    found += itertools.islice(once, count - len(found))
  return found


def _spread(
  drafts: Sequence[Asked], passages: Sequence[Passage]
) -> list[Asked]:
  """The same, so that every text has had its first before one has its second."""
  seen: Counter[tuple[str, int]] = Counter()
  turns = []
  for asked in drafts:
    source = passages[asked.place].source
    turns.append(seen[source])
    seen[source] += 1
  return [drafts[n] for n in np.argsort(turns, kind="stable")]


def _draft(
  text: str, spans: Spans, rng: np.random.Generator
) -> tuple[str, str] | None:
  """A question and the rest of a passage; None if it has none."""
  found = []
  for start, end in spans(text):
    question = " ".join(_bare(text[start:end]).split())
    rest = f"{text[:start].rstrip()}\n{text[end:].lstrip()}".strip()
    asks = len(lexical.tokens(question)) in _WORDS
    if asks and len(lexical.tokens(rest)) >= _REST:
      found.append((question, rest))
  return found[int(rng.integers(len(found)))] if found else None


def _sentences(text: str) -> Iterator[tuple[int, int]]:
  """Whole sentences of prose."""
  ends = [(m.end(m.lastindex or 0), m.end()) for m in _ENDS.finditer(text)]
  start = 0
  for end, after in [*ends, (len(text), len(text))]:
    sentence = _bare(text[start:end])
    if _WHOLE.fullmatch(sentence) and not sentence[0].islower():
      prose = len(_SIGNS.findall(sentence)) <= len(sentence) / 20
      if prose and not _MARKED.search(sentence):
        yield start, end
    start = after


def _bare(text: str) -> str:
  """A sentence or line without what marks it as a comment or docstring."""
  return _BEFORE.sub("", text, count=1)


def _lines(text: str) -> Iterator[tuple[int, int]]:
  for line in re.finditer(r"[^\n]+", text):
    yield line.span()


def _thirds(text: str) -> Iterator[tuple[int, int]]:
  """The first, middle and last third, of whole words where these are spaced."""
  words = [m.start() for m in re.finditer(r"\S+", text)]
  places = words if len(words) > 9 else range(len(text))
  cuts = [places[n * len(places) // 3] for n in (1, 2)]
  yield from itertools.pairwise([0, *cuts, len(text)])
