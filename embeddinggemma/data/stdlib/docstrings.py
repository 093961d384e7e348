"""The structure of documentation: paragraphs, sentences, headed sections."""

import itertools
import re

_SENTENCE_END = re.compile(r"(?<=[.!?])\s+(?=[A-Z`'\"])")
_UNDERLINE = re.compile(r"([-=~^*])\1{2,}\s*$")
_LABEL = re.compile(r"[A-Z][A-Za-z]+(?: [A-Za-z]+){0,3}:$")  # "Args:"


def summary(docstring: str) -> str:
  """The first paragraph, on one line."""
  return " ".join(docstring.split("\n\n", 1)[0].split())


def body(docstring: str) -> str:
  """All that follows the first paragraph."""
  _, _, rest = docstring.partition("\n\n")
  return rest.strip()


def sentences(docstring: str) -> list[str]:
  """The sentences of the plain paragraphs, in order.

  Lists, examples, tables and headed sections are left out: a paragraph counts
  when it starts at the margin with a capital and ends in a full stop.
  """
  found = []
  for paragraph in docstring.split("\n\n"):
    text = " ".join(paragraph.split())
    if paragraph[:1].isupper() and text.endswith(".") and "---" not in text:
      found += [s for s in _SENTENCE_END.split(text) if len(s.split()) >= 4]
  return found


def sections(docstring: str) -> list[tuple[str, str]]:
  """The (heading, text) of every headed section, in order.

  A heading is a line that the next one underlines (numpydoc, reStructuredText)
  or a label before indented text (Google style).
  """
  lines = docstring.split("\n")
  starts = [n for n in range(len(lines) - 1) if _is_heading(lines, n)]
  found = []
  for start, end in itertools.pairwise([*starts, len(lines)]):
    underlined = bool(_UNDERLINE.match(lines[start + 1]))
    text = "\n".join(lines[start + 1 + underlined : end]).strip()
    found.append((lines[start].strip().rstrip(":"), text))
  return found


def _is_heading(lines: list[str], number: int) -> bool:
  line, below = lines[number], lines[number + 1]
  if not line[:1].isalpha() or len(line) > 60:
    return False
  if _UNDERLINE.match(below):
    return True
  return bool(_LABEL.match(line)) and below.startswith("  ")
