"""Text of files in Markdown, where none of it is read as markup."""

import json
import re
from collections.abc import Iterable, Sequence

MOST_ROWS = 50  # of a table


def plain(text: str) -> str:
  """A text of one line in which Markdown and HTML find nothing to do."""
  return re.sub(r"([\\`*_\[\]<>|!~&$@:])", r"\\\1", one_line(text))


def one_line(text: str) -> str:
  """A text without line ends and other characters that are not printed."""
  return " ".join("".join(c if c.isprintable() else " " for c in text).split())


def code(text: str) -> str:
  """A text as code in a line; JSON shows what is not printable."""
  shown = json.dumps(text, ensure_ascii=not text.isprintable())
  ticks = max((len(run) for run in re.findall("`+", shown)), default=0) + 1
  fence = "`" * ticks
  pad = " " if ticks > 1 else ""
  return f"{fence}{pad}{shown}{pad}{fence}".replace("|", "\\|")


def block(lines: Iterable[str], language: str) -> str:
  """Lines of a program as a block, whatever they hold."""
  text = "\n".join(lines)
  longest = max((len(run) for run in re.findall("`+", text)), default=0)
  fence = "`" * max(3, longest + 1)
  return f"{fence}{language}\n{text}\n{fence}"


def table(
  header: Sequence[str], rows: Sequence[Sequence[str]], most: int = MOST_ROWS
) -> str:
  """A table of cells that are Markdown already; a line tells what is left out."""
  lines = [f"| {' | '.join(cells)} |" for cells in (header, *rows[:most])]
  lines.insert(1, "|" + "---|" * len(header))
  text = "\n".join(lines)
  if len(rows) > most:
    text += f"\n\nand {len(rows) - most:,} more."
  return text


def sections(parts: Iterable[str]) -> str:
  """Parts of a text, those that are not empty, with a line between them."""
  return "\n\n".join(filter(None, parts))
