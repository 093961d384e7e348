"""Text of files, models and names, made harmless for a terminal or a page.

A document may hold an escape sequence that clears the screen, and a file's name
a character that turns the order of what follows around. `printable` and `lines`
write such characters as escapes, as `ls` and `git` do; all other text stays as
it is. What reaches people passes through one of them where it is printed.
"""

import json
import unicodedata
from typing import Any

# Controls, formats (bidirectional overrides, zero-width characters, tags),
# surrogates (bytes of a file name that are not UTF-8), line and paragraph
# separators.
_HIDDEN = {"Cc", "Cf", "Cs", "Zl", "Zp"}
# Formats that writing needs: the soft hyphen, the joiners of Persian, of the
# scripts of India and of emoji, signs that stand before numbers. And tabs.
_WRITTEN = frozenset(
  "\t\xad\u200c\u200d\u0600\u0601\u0602\u0603\u0604\u0605\u06dd\u070f\u0890"
  "\u0891\u08e2\U000110bd\U000110cd"
)


def printable(text: str) -> str:
  """A text as one line that moves no cursor and hides nothing.

  Its own line ends become `\\n`.
  """
  if text.isprintable():
    return text
  return "".join(_escape(c) if _is_hidden(c) else c for c in text)


def lines(text: str) -> str:
  """A text of several lines, each of them `printable`."""
  return "\n".join(map(printable, text.replace("\r\n", "\n").split("\n")))


def to_json(value: Any, encoding: str = "utf-8") -> str:
  """A value as one line of JSON that a terminal may show.

  Parsed, it is exactly the value: what is hidden is written as `\\uXXXX`, and
  so is all that is not ASCII where the encoding is none of Unicode.
  """
  ascii_only = not encoding.lower().startswith("utf")
  text = json.dumps(value, ensure_ascii=ascii_only)
  if text.isprintable():
    return text
  return "".join(_json_escape(c) if _is_hidden(c) else c for c in text)


def _is_hidden(character: str) -> bool:
  hidden = unicodedata.category(character) in _HIDDEN
  return hidden and character not in _WRITTEN


def _escape(character: str) -> str:
  return character.encode("unicode_escape").decode("ascii")


def _json_escape(character: str) -> str:
  units = character.encode("utf-16-be", "surrogatepass").hex()
  return "".join(f"\\u{units[i : i + 4]}" for i in range(0, len(units), 4))
