"""Pack the lines of a file into chunks that a model reads whole.

Lines are packed by characters. Where the outcome may be too long for the model,
they are packed again by the sum of their tokens. A sum is an estimate: what is
too long even so is halved, and a single line cut.
"""

import dataclasses
import functools
import itertools
import textwrap
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import NamedTuple

from embeddinggemma.retrieval import measure as measures
from embeddinggemma.retrieval.measure import MAX_CHARS, Measure

# What is counted while cutting.
TRUNCATED = "truncated"  # chunks longer than the model even so
LINES_CUT = "lines_cut"  # lines that are too long for a chunk
TITLES_CUT = "titles_shortened"
PAGES_EMPTY = "pages_without_text"  # of PDFs that have others with text
DID = (TRUNCATED, LINES_CUT, TITLES_CUT, PAGES_EMPTY)

Lines = tuple[int, int]  # a range of line numbers from 0, the end excluded


class Chunk(NamedTuple):
  """A piece of text and where it stands; the document prompt has its title."""

  path: str
  line: int
  title: str
  text: str


class Section(NamedTuple):
  """A title, and runs of lines that are rather not torn apart."""

  title: str
  units: Sequence[Lines]


@dataclasses.dataclass(frozen=True)
class Page:
  """The lines of a file, who reads them, and what was done to them."""

  path: str
  lines: Sequence[str]
  measure: Measure
  did: Counter[str]
  place: int | None = None  # of all its chunks; None: the number of the line

  def text(self, first: int, last: int) -> str:
    """Lines as the text of a chunk; one that is too long is as it is."""
    text = "\n".join(self.lines[first:last])
    return text if len(text) > MAX_CHARS else textwrap.dedent(text).rstrip()

  def size(self, first: int, last: int) -> int:
    """The number of characters of lines."""
    return self._starts[last] - self._starts[first] - 1

  @functools.cached_property
  def _starts(self) -> list[int]:
    """The number of characters before each line, with ends of lines."""
    sizes = (len(line) + 1 for line in self.lines)
    return list(itertools.accumulate(sizes, initial=0))

  def chunk(self, first: int, title: str, text: str) -> Chunk:
    """A chunk that begins in a line."""
    place = first + 1 if self.place is None else self.place
    return Chunk(self.path, place, title, text)

  def fit(self, texts: Sequence[str], titles: Sequence[str]) -> list[bool]:
    """Whether each text is a chunk that the model reads whole."""
    fit = [len(text) <= MAX_CHARS for text in texts]
    read = list(map(self.measure.read, texts, titles))
    limit = self.measure.limit
    unsure = [
      number
      for number, text in enumerate(read)
      if fit[number] and not self.measure.surely_fits(text, limit)
    ]
    counts = self.measure.count([read[number] for number in unsure])
    for number, count in zip(unsure, counts, strict=True):
      fit[number] = count <= limit
    return fit


class _Draft(NamedTuple):
  """Lines under a title that are a chunk if they fit."""

  title: str
  lines: Lines
  text: str


def cut(page: Page, sections: Iterable[Section]) -> list[Chunk]:
  """The chunks of the sections of a page, in their order."""
  sections = _with_short_titles(page, sections)
  short = lambda first, last: page.size(first, last) <= MAX_CHARS
  drafts = [_drafts(page, section, short) for section in sections]
  fit = _fit(page, drafts)
  long = [n for n, own in enumerate(fit) if not all(own)]
  if long:
    fits = _by_tokens(page, [sections[n] for n in long])
    for n in long:
      drafts[n] = _drafts(page, sections[n], fits(sections[n].title))
    again = _fit(page, [drafts[n] for n in long])
    for n, own in zip(long, again, strict=True):
      fit[n] = own
  chunks: list[Chunk] = []
  flat = itertools.chain.from_iterable
  for draft, is_chunk in zip(flat(drafts), flat(fit), strict=True):
    if is_chunk:
      chunks.append(page.chunk(draft.lines[0], draft.title, draft.text))
    else:
      chunks += _apart(page, draft)
  return chunks


def _fit(
  page: Page, drafts: Sequence[Sequence[_Draft]]
) -> list[Sequence[bool]]:
  """Whether each draft of each section fits, counted in one call."""
  every = list(itertools.chain.from_iterable(drafts))
  fit = iter(page.fit([d.text for d in every], [d.title for d in every]))
  return [list(itertools.islice(fit, len(own))) for own in drafts]


def _with_short_titles(
  page: Page, sections: Iterable[Section]
) -> list[Section]:
  sections = [section for section in sections if section.units]
  short = {
    title: measures.short_title(title, page.measure)
    for title in dict.fromkeys(section.title for section in sections)
  }
  page.did[TITLES_CUT] += sum(a != b for a, b in short.items())
  return [s._replace(title=short[s.title]) for s in sections]


def _by_tokens(
  page: Page, sections: Sequence[Section]
) -> Callable[[str], Callable[[int, int], bool]]:
  """Title -> whether lines of these sections fit under it, as an estimate."""
  measure, lines = page.measure, {}
  for section in sections:
    first, last = section.units[0][0], section.units[-1][1]
    text = textwrap.dedent("\n".join(page.lines[first:last]))
    lines.update(enumerate(text.split("\n"), first))
  titles = list(dict.fromkeys(section.title for section in sections))
  counts = measure.count(
    [
      *(measure.read("", title) for title in titles),
      *(line if len(line) <= MAX_CHARS else "" for line in lines.values()),
    ]
  )
  heads = dict(zip(titles, counts))
  # BOS and EOS are not counted again, the end of the line is.
  taken = dict(zip(lines, (n - 1 for n in counts[len(titles) :]), strict=True))
  each = (taken.get(number, 0) for number in range(len(page.lines)))
  sums = list(itertools.accumulate(each, initial=0))

  def under(title: str) -> Callable[[int, int], bool]:
    room = measure.limit - heads[title] + 1
    return lambda first, last: (
      page.size(first, last) <= MAX_CHARS and sums[last] - sums[first] <= room
    )

  return under


def _drafts(
  page: Page, section: Section, fits: Callable[[int, int], bool]
) -> list[_Draft]:
  """Join neighbouring units as long as they fit together."""
  found: list[Lines] = []
  start, end = 0, 0  # the lines of the current draft
  for first, last in _units(page, section.units, fits):
    if start < end and fits(start, last):
      end = last
      continue
    found.append((start, end))
    start, end = first, last
  found.append((start, end))
  return [
    _Draft(section.title, lines, page.text(*lines))
    for lines in found
    if lines[0] < lines[1]
  ]


def _units(
  page: Page, units: Iterable[Lines], fits: Callable[[int, int], bool]
) -> Iterator[Lines]:
  """The units that hold text; one that is too long is replaced by its lines."""
  for first, last in units:
    parts = [(first, last)]
    if not fits(first, last):
      parts = [(number, number + 1) for number in range(first, last)]
    for start, end in parts:
      if any(line.strip() for line in page.lines[start:end]):
        yield start, end


def _apart(page: Page, draft: _Draft) -> Iterator[Chunk]:
  """The chunks of a draft that is too long: its halves, or pieces of a line."""
  first, last = draft.lines
  if last - first == 1:
    yield from _pieces(page, draft)
    return
  middle = (first + last) // 2
  for half in (first, middle), (middle, last):
    text = page.text(*half)
    if not text.strip():
      continue
    if page.fit([text], [draft.title])[0]:
      yield page.chunk(half[0], draft.title, text)
    else:
      yield from _apart(page, _Draft(draft.title, half, text))


def _pieces(page: Page, draft: _Draft) -> Iterator[Chunk]:
  """The pieces of a line that hold text; joined, all are the line."""
  number, _ = draft.lines
  found = measures.pieces(page.lines[number], draft.title, page.measure)
  fit = page.fit(found, [draft.title] * len(found))
  page.did[LINES_CUT] += 1
  page.did[TRUNCATED] += len(fit) - sum(fit)
  for text in found:
    if text.strip():
      yield page.chunk(number, draft.title, text)
