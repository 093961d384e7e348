"""The tables of all verbs, for a terminal of any width.

No figure and no name is cropped, and a name is broken only if it is longer than
a line. A table that does not fit is turned on its side; if that does not fit
either, each row becomes a block of lines.
"""

from collections.abc import Collection, Iterator, Sequence

from rich import box, cells
from rich.console import Console, ConsoleOptions, RenderableType
from rich.table import Table as Columns
from rich.text import Text

from embeddinggemma.terminal.printable import lines, printable

# A text, or parts of it with the style of each.
Cell = str | Sequence[tuple[str, str]]
Grid = Sequence[Sequence[Text]]  # the header, then the rows

_GAP = 2  # columns between two columns
_PROSE = range(24, 57)  # widths of a column of prose: the doctor's fit 80
_INDENT = 2
_LEAST = 16  # the terminal itself breaks the lines of a narrower one


class Table:
  """A table for a rich console of any width.

  Args:
    header: the names of the columns; the first column names the rows.
    rows: a cell for each column.
    title: a line above; "" for none.
    prose: indices of the columns of sentences, which may be folded and hold
      several lines. The others hold names and figures.
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
    grid = [self._header, *self._rows]
    widths = self._widths(grid)
    # A pipe has no width; one that is given (COLUMNS, in Python) counts.
    if not getattr(console, "bounded", True):
      yield _columns(grid, widths)
      return
    width = max(options.max_width, _LEAST)
    if fitting := self._fitted(widths, width):
      yield _columns(grid, fitting)
      return
    turned = list(zip(*grid))
    widths = self._widths(turned)
    if self._can_turn() and _whole(widths) <= width:
      yield _columns(turned, widths)
    else:
      yield from self._blocks(console, width)

  def _widths(self, grid: Grid) -> list[int]:
    """The width that each column wants."""
    return [
      min(wanted, _PROSE[-1]) if i in self._prose else wanted
      for i, column in enumerate(zip(*grid))
      for wanted in [max(map(_longest_line, column))]
    ]

  def _fitted(self, widths: Sequence[int], width: int) -> list[int]:
    """The widths with prose made narrower; [] if that is not enough."""
    given, excess = list(widths), _whole(widths) - width
    for i in self._prose:
      less = max(0, min(excess, given[i] - _PROSE[0]))
      given[i], excess = given[i] - less, excess - less
    return given if excess <= 0 else []

  def _can_turn(self) -> bool:
    """Whether all cells are figures, and fewer rows than columns name them."""
    figures = all(_is_figure(cell) for row in self._rows for cell in row[1:])
    few = len(self._rows) < len(self._header)
    return figures and few and not self._prose

  def _blocks(self, console: Console, width: int) -> Iterator[Text]:
    """A block for each row; the names of prose stand once, above all."""
    told = [self._header[i] for i in self._prose if self._header[i].plain]
    if told:
      names = Text(", ", style="dim").join([self._header[0], *told])
      yield from _folded(console, names, width, 0)
    for row in self._rows:
      yield from self._block(console, row, width, not told)

  def _block(
    self, console: Console, row: Sequence[Text], width: int, named: bool
  ) -> Iterator[Text]:
    """A row: its name, then a line `column  cell` for each of the others."""
    columns = list(zip(self._header, row))[1:]
    bare = [i for i, (name, _) in enumerate(columns, 1) if not name.plain]
    head = [row[i] for i in (0, *bare) if i not in self._prose]
    if named and self._header[0].plain:
      head = [self._header[0], *head]
    yield from _folded(console, Text(" ", style="bold").join(head), width, 0)
    longest = max((name.cell_len for name, _ in columns), default=0)
    for i, (name, cell) in enumerate(columns, 1):
      if i in self._prose:
        yield from _folded(console, cell, width, _INDENT)
      elif i not in bare:
        yield from _pair(console, name, cell, width, longest)


def _columns(grid: Grid, widths: Sequence[int]) -> Columns:
  """A grid as columns side by side, figures to the right."""
  shown = Columns(
    box=box.SIMPLE_HEAD,
    padding=(0, _GAP - 1, 0, 0),
    pad_edge=False,
    show_edge=False,
    width=_whole(widths),
  )
  header, *rows = grid
  for i, name in enumerate(header):
    figures = i > 0 and all(_is_figure(row[i]) for row in rows)
    shown.add_column(
      name,
      justify="right" if figures else "left",
      width=widths[i],
      overflow="fold",
    )
  for row in rows:
    shown.add_row(*row)
  return shown


def _whole(widths: Sequence[int]) -> int:
  """The width of a table of columns."""
  return sum(widths) + _GAP * (len(widths) - 1)


def _pair(
  console: Console, name: Text, cell: Text, width: int, longest: int
) -> Iterator[Text]:
  """A cell beside its column's name, below it if there is no room."""
  room = width - _INDENT - name.cell_len - _GAP - cell.cell_len
  if room >= 0:
    space = _GAP + min(room, longest - name.cell_len)
    yield Text(" " * _INDENT) + name + Text(" " * space) + cell
  else:
    yield from _folded(console, name, width, _INDENT)
    yield from _folded(console, cell, width, 2 * _INDENT)


def _folded(
  console: Console, text: Text, width: int, indent: int
) -> Iterator[Text]:
  """The lines of a text, broken between words unless one is too long."""
  longest = max(map(cells.cell_len, text.plain.split()), default=0)
  indent = max(0, min(indent, width - longest))
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
