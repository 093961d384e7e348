"""The tables of all verbs: columns where they fit, else a block a row.

No figure and no name is ever cropped. A table gets narrower in this order: its
names are folded between words, then it is turned into blocks, then what is
longer than a line is broken.
"""

from collections.abc import Collection, Iterator, Sequence

from rich import box, cells
from rich.console import Console, ConsoleOptions, RenderableType
from rich.table import Table as Columns
from rich.text import Text

from embeddinggemma.terminal.printable import lines, printable

# A text, or parts of it with the style of each.
Cell = str | Sequence[tuple[str, str]]

_GAP = 2  # columns between two columns
_PROSE = 24  # a column of prose is at least so wide, or the table is of blocks
_READABLE = 72  # and at most
_INDENT = 2
_LEAST = 16  # the terminal itself breaks the lines of a narrower one


class Table:
  """A table for a rich console of any width.

  Args:
    header: the names of the columns; the first column names the rows.
    rows: a cell for each column.
    title: a line above; "" for none.
    prose: indices of the columns of sentences, which may be folded anywhere and
      hold several lines. The others hold names and figures.
  """

  def __init__(
    self,
    header: Sequence[str],
    rows: Sequence[Sequence[Cell]],
    title: str = "",
    prose: Collection[int] = (),
  ):
    self._title, self._prose = printable(title), prose
    self._header = [Text(printable(name)) for name in header]
    self._rows = [
      [_text(cell, i in prose) for i, cell in enumerate(row)] for row in rows
    ]

  def __rich_console__(
    self, console: Console, options: ConsoleOptions
  ) -> Iterator[RenderableType]:
    """The title and the table, in columns or in blocks."""
    if self._title:
      yield Text(self._title, "italic", overflow="fold", no_wrap=False)
    if not self._header:
      return
    # A pipe has no width; one that is given (a test's, COLUMNS) counts.
    bounded = getattr(console, "bounded", True)
    width = max(options.max_width, _LEAST) if bounded else None
    if widths := self._widths(width):
      yield self._columns(widths)
    elif width:
      for row in self._rows:
        yield from self._block(console, row, width)

  def _widths(self, width: int | None) -> list[int]:
    """The width of each column; [] if they do not fit."""
    columns = list(zip(self._header, *self._rows))
    full = [max(map(_longest_line, column)) for column in columns]
    least = [max(map(_longest_word, column)) for column in columns]
    for i in self._prose:
      full[i] = min(full[i], _READABLE)
      least[i] = min(full[i], _PROSE)
    if width is None:
      return full
    left = width - sum(least) - _GAP * (len(columns) - 1)
    if left < 0:
      return []
    given = list(least)
    for i in range(len(columns)):
      more = min(full[i] - least[i], left)
      given[i], left = given[i] + more, left - more
    return given

  def _columns(self, widths: Sequence[int]) -> Columns:
    shown = Columns(
      box=box.SIMPLE_HEAD,
      padding=(0, _GAP - 1, 0, 0),
      pad_edge=False,
      show_edge=False,
      width=sum(widths) + _GAP * (len(widths) - 1),
    )
    for i, name in enumerate(self._header):
      figures = i > 0 and all(_is_figure(row[i]) for row in self._rows)
      shown.add_column(
        name,
        justify="right" if figures else "left",
        width=widths[i],
        overflow="fold",
      )
    for row in self._rows:
      shown.add_row(*row)
    return shown

  def _block(
    self, console: Console, row: Sequence[Text], width: int
  ) -> Iterator[Text]:
    """A row as lines: its name, then `column  cell` for each of the others."""
    first = [part for part in (self._header[0], row[0]) if part.plain]
    named = Text(" ", style="bold").join(first)
    yield from _folded(console, named, width, 0)
    longest = max(map(_longest_line, self._header[1:]), default=0)
    for name, cell in zip(self._header[1:], row[1:]):
      used = _INDENT + (name.cell_len + _GAP if name.plain else 0)
      gap = width - used - _longest_line(cell)  # beside a gap of _GAP
      if "\n" not in cell.plain and gap >= 0:
        wanted = longest - name.cell_len
        space = min(gap, wanted) + _GAP if name.plain else 0
        yield Text(" " * _INDENT) + name + Text(" " * space) + cell
        continue
      if name.plain:
        yield from _folded(console, name, width, _INDENT)
      yield from _folded(
        console, cell, width, _INDENT * (2 if name.plain else 1)
      )


def _folded(
  console: Console, text: Text, width: int, indent: int
) -> Iterator[Text]:
  """The lines of a text, between words if they fit, as wide as there is room."""
  indent = max(0, min(indent, width - _longest_word(text)))
  for line in text.wrap(
    console, width - indent, overflow="fold", no_wrap=False
  ):
    line.rstrip()
    yield Text(" " * indent) + line


def _text(cell: Cell, prose: bool) -> Text:
  """A cell as rich text without anything hidden."""
  clean = lines if prose else printable
  if isinstance(cell, str):
    return Text(clean(cell))
  return Text.assemble(*((clean(part), style) for part, style in cell))


def _is_figure(cell: Text) -> bool:
  """Whether a cell shows a number, with a unit or not, or the dash of none."""
  return cell.plain[:1] in ("", "-", "+") or cell.plain[:1].isdigit()


def _longest_line(text: Text) -> int:
  return max(map(cells.cell_len, text.plain.split("\n")))


def _longest_word(text: Text) -> int:
  return max(map(cells.cell_len, text.plain.split()), default=0)
