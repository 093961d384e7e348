"""How long a text is to a model, and where one that is too long may be cut.

A chunk is read with the document prompt, its title, BOS and EOS. What is more
than the model's max_length is cut off before it is embedded, so no chunk may be
longer. Tokens of a whole text need not be the sum of those of its parts: parts
are sized by sums, and what comes out is measured whole.
"""

import bisect
import functools
import re
import sys
import unicodedata
from collections.abc import Callable, Iterator, Sequence
from typing import NamedTuple

from embeddinggemma.data import prompts
from embeddinggemma.data.tokenizer import Tokenizer
from embeddinggemma.types import BadInput

MAX_CHARS = 1200  # of a chunk, however much the model reads
_WINDOW = 64 * MAX_CHARS  # characters of a long line looked at together
# Where a text is rather cut, best first: after a sentence, after a word.
_ENDS = (
  re.compile(
    r"[.!?\u2026][\"')\]\u00bb\u201d\u2019]*\s+"
    r"|[\u3002\uff01\uff1f\uff0e][\u300d\u300f\uff09\u201d]*"  # of CJK
  ),
  re.compile(r"\s+"),
)
_JOINER = "\N{ZERO WIDTH JOINER}"
_LONGEST = "\U0010fffd"  # of four bytes: as many tokens as a character may be
_ASCII = [chr(code) for code in range(128)]
_ADDED = 4  # BOS, EOS, and what a tokenizer may put before a text


class Measure(NamedTuple):
  """A model's view of the length of texts."""

  limit: int  # tokens of a chunk as the model reads it, BOS and EOS included
  tokenizer: str  # its identity; "" where characters alone are counted
  read: Callable[[str, str], str]  # (text, title) -> what the model reads
  # Tokens of texts as they are, with BOS and EOS.
  count: Callable[[Sequence[str]], Sequence[int]]
  ends: Callable[[str], Sequence[int]]  # where in a text each token ends
  bare: int  # tokens of an empty text as the model reads it
  single: bool  # whether no character of ASCII takes more than one token
  most: int = MAX_CHARS  # characters of a piece, at most

  def surely_fits(self, text: str, limit: int) -> bool:
    """Whether what the model reads has at most `limit` tokens, known untokenised.

    Merging only makes fewer tokens of characters.
    """
    short = len(text) + _ADDED <= limit
    return short and self.single and text.isascii()

  def lengths(self, texts: Sequence[str], title: str) -> Sequence[int]:
    """Tokens of texts as the model reads them under a title."""
    return self.count([self.read(text, title) for text in texts])


def _nothing(texts: Sequence[str]) -> Sequence[int]:
  return [0] * len(texts)


def _characters(text: str) -> Sequence[int]:
  return range(1, len(text) + 1)


# For an encoder that has no tokenizer.
BY_CHARACTERS = Measure(
  sys.maxsize,
  "",
  lambda text, title: text,
  _nothing,
  _characters,
  0,
  True,
)


def of_tokenizer(tokenizer: Tokenizer, prompt: str, max_length: int) -> Measure:
  """The measure of a model that reads at most `max_length` tokens.

  Raises BadInput if the document prompt leaves no room for a character.
  """
  read = functools.partial(_read, prompt)
  empty, least, *ascii_ = tokenizer.counts(
    [read("", ""), read(_LONGEST, ""), *_ASCII]
  )
  if least > max_length:
    raise BadInput(
      f"max_length={max_length}: the document prompt {prompt!r} takes"
      f" {empty} tokens with BOS and EOS, and a character up to"
      f" {least - empty} more; index with a model that reads more at once"
    )
  return Measure(
    max_length,
    tokenizer.identity,
    read,
    tokenizer.counts,
    tokenizer.ends,
    empty,
    max(ascii_) == 3,
  )


def _read(prompt: str, text: str, title: str) -> str:
  return prompts.with_prompt(prompt, text, title)


def short_title(title: str, measure: Measure) -> str:
  """The title, or a beginning of it that leaves half of the room to the text.

  What is kept is at most MAX_CHARS long, since each chunk of a section has it.
  """
  room = (measure.limit - measure.bare) // 2
  most = measure.bare + room
  short = title
  while len(short) > MAX_CHARS or not _leaves(short, most, measure):
    short = " ".join(short.split())
    first = next(_parts(short, max(room, 1), measure))
    short = (first if first != short else short[:-1]).rstrip()
    room -= 1
  return short


def _leaves(title: str, most: int, measure: Measure) -> bool:
  """Whether the model reads at most so many tokens before the text."""
  if measure.surely_fits(measure.read("", title), most):
    return True
  (taken,) = measure.lengths([""], title)
  return taken <= most


def pieces(text: str, title: str, measure: Measure) -> list[str]:
  """Pieces of a text that fit the model; joined they are the text.

  A cut is after a sentence or a word if there is one in the second half of what
  fits, else between tokens, and never within what is read as one character: an
  accent stays with its letter, an emoji with its skin tone. Only what is too
  long for the model as such, an accent a hundred times say, is cut between
  code points.
  """
  (head,) = measure.lengths([""], title)
  return list(_fitting(text, title, max(measure.limit - head, 1), measure))


def _fitting(
  text: str, title: str, room: int, measure: Measure
) -> Iterator[str]:
  """Pieces of about `room` tokens, and again of those that turn out longer."""
  parts = list(_parts(text, room, measure))
  for part, taken in zip(parts, measure.lengths(parts, title), strict=True):
    excess = taken - measure.limit
    if excess <= 0 or len(part) == 1:
      yield part
    elif len(parts) == 1 and room == 1:  # one token that is too long
      yield from part
    else:
      tokens = min(room, len(measure.ends(part)))
      yield from _fitting(part, title, max(tokens - excess, 1), measure)


def _parts(text: str, room: int, measure: Measure) -> Iterator[str]:
  """Cut a text into parts of about `room` tokens, of characters as it says."""
  at = 0
  while at < len(text):
    window = text[at : at + _WINDOW]
    ends = measure.ends(window)
    is_last = at + len(window) == len(text)
    start = token = 0
    while start < len(window):
      end = _end(window, start, ends, token, room, measure.most)
      if end == len(window) and not is_last:
        break  # which is not where a token ends; the next window has more
      yield window[start:end]
      start, token = end, bisect.bisect_right(ends, end)
    at += start


def _end(
  text: str,
  start: int,
  ends: Sequence[int],
  token: int,
  room: int,
  most: int,
) -> int:
  """Where the part ends that begins at `start`, with the `token`."""
  stop = min(token + room, bisect.bisect_right(ends, start + most))
  if (
    token < stop < len(ends) and ends[stop] == ends[stop - 1]
  ):  # bytes of a character
    stop = bisect.bisect_left(ends, ends[stop])
  end = max(ends[stop - 1] if stop > token else start, start + 1)
  if end == len(text):
    return end
  middle = start + (end - start + 1) // 2
  for pattern in _ENDS:
    found = [match.end() for match in pattern.finditer(text, middle, end)]
    if found:
      end = found[-1]
      break
  whole = end
  while whole > start and whole < len(text) and _joined(text, start, whole):
    whole -= 1
  return whole if whole > start else end


def _joined(text: str, start: int, at: int) -> bool:
  """Whether a cut at a place would split what is read as one character.

  The text from `start` begins with a whole one.
  """
  before, after = text[at - 1], text[at]
  if after.isascii():
    return False
  return (
    unicodedata.category(after) in ("Mn", "Mc", "Me")  # accents, vowel signs
    or _JOINER in (before, after)
    or unicodedata.combining(before) == 9  # a virama joins two consonants
    or "\U0001f3fb" <= after <= "\U0001f3ff"  # skin tones
    or "\U000e0020" <= after <= "\U000e007f"  # tags of a flag
    or ("\u1100" <= before <= "\u11ff" and "\u1160" <= after <= "\u11ff")
    or (_is_half_flag(after) and _flag_is_open(text, start, at))
  )


def _is_half_flag(character: str) -> bool:
  return "\U0001f1e6" <= character <= "\U0001f1ff"


def _flag_is_open(text: str, start: int, at: int) -> bool:
  """Whether an odd number of halves of flags stands before a place."""
  first = at
  while first > start and _is_half_flag(text[first - 1]):
    first -= 1
  return (at - first) % 2 == 1
