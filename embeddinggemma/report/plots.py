"""Small SVG plots that take the text colour of the page around them.

The colour of text becomes `currentColor`, so that a plot is readable on a light
and on a dark page. Plots refer to no other address.
"""

import io
import re
import statistics
import textwrap
import warnings
from collections.abc import Callable, Iterable, Mapping, Sequence

from embeddinggemma.terminal.printable import printable

COLORS = (
  "#3b82f6",
  "#e8833a",
  "#22a06b",
  "#c062d8",
  "#d9534f",
  "#8a8f98",
)
_STROKES = ("-", (0, (3, 1)), ":")  # the next one each time colours run out
_MARKERS = ("o", "D")
_INK = "#010203"  # replaced by currentColor; no series may use it
_WIDTH, _HEIGHT = 5.0, 2.8  # inches: text stays readable on a phone
_TICK, _LEGEND = 26, 54  # characters of a line of a name

Series = Mapping[str, tuple[Sequence[float], Sequence[float]]]


def lines(
  name: str,
  series: Series,
  x_label: str,
  y_label: str,
  levels: Mapping[str, float] | None = None,
  x_ticks: Sequence[float] = (),
  shaded: tuple[str, float] | None = None,
) -> str:
  """An SVG element with a line for each series, and one dashed for each level.

  Args:
    name: makes the ids of several plots on a page distinct.
    series: name -> (xs, ys).
    x_label: of the horizontal axis.
    y_label: of the vertical axis.
    levels: name -> height of a dashed line.
    x_ticks: makes the horizontal axis logarithmic, with only these marks.
    shaded: the name of a part of the plot, and where on the horizontal axis it
      begins; it ends with the plot.
  """

  def draw(axes) -> None:
    _draw_lines(axes, series, levels or {})
    axes.set(xlabel=printable(x_label), ylabel=printable(y_label))
    axes.grid(alpha=0.15, color=_INK)
    if x_ticks:
      axes.set_xscale("log", base=2)
      axes.set_xticks(x_ticks, [str(tick) for tick in x_ticks], minor=False)
      axes.minorticks_off()
    if shaded:
      _shade(axes, *shaded)

  names = [*series, *(levels or {}), *(shaded or ())[:1]]
  labels = [*map(_label, names)]
  return _svg(name, y_label, _HEIGHT, labels, draw)


def dots(
  name: str,
  series: Mapping[str, Mapping[str, Sequence[float]]],
  x_label: str,
) -> str:
  """An SVG element with a dot for each value of {series: {category: values}}.

  Each category is a row, in the order of the first series from the top; several
  values have a bar at their median.
  """
  categories = list(dict.fromkeys(c for by in series.values() for c in by))

  def draw(axes) -> None:
    for number, (label, by) in enumerate(series.items()):
      # Series of a category one below the other, around its place.
      shift = (number - (len(series) - 1) / 2) * 0.3
      _draw_dots(
        axes, label, number, [by.get(c, ()) for c in categories], shift
      )
    axes.set(xlabel=printable(x_label))
    axes.set_ylim(len(categories) - 0.5, -0.5)
    axes.set_yticks(range(len(categories)), ticks)
    axes.tick_params(axis="y", length=0)
    axes.grid(axis="x", alpha=0.15, color=_INK)

  ticks = [_folded(category, _TICK) for category in categories]
  deepest = max((tick.count("\n") for tick in ticks), default=0)
  height = 0.9 + (0.42 + 0.17 * deepest) * len(categories)
  return _svg(name, x_label, height, [*map(_label, series)], draw)


def _svg(
  name: str,
  title: str,
  height: float,
  labels: Sequence[str],
  draw: Callable[..., None],
) -> str:
  """The plot that `draw` makes, as SVG, with a legend if there are labels."""
  import matplotlib
  from matplotlib import figure

  style = {"svg.fonttype": "none", "svg.hashsalt": name, "font.size": 10}
  style["text.parse_math"] = False  # a name may hold a dollar sign
  inks = ("text.color", "axes.labelcolor", "axes.edgecolor")
  style |= dict.fromkeys([*inks, "xtick.color", "ytick.color"], _INK)
  columns = _columns(labels)
  deepest = max((label.count("\n") + 1 for label in labels), default=1)
  height += 0.19 * (-(-len(labels) // columns) * deepest - 1)
  with matplotlib.rc_context(style), warnings.catch_warnings():
    # Its font only measures: the page's own draws the signs of any language.
    warnings.filterwarnings("ignore", "Glyph .* missing from font")
    drawing = figure.Figure(figsize=(_WIDTH, height), layout="constrained")
    axes = drawing.subplots()
    axes.spines[["top", "right"]].set_visible(False)
    draw(axes)
    if len(labels) > 1:
      drawing.legend(
        loc="outside upper left", ncols=columns, frameon=False, fontsize=9
      )
    out = io.StringIO()
    drawing.savefig(
      out, format="svg", transparent=True, metadata={"Date": None}
    )
  return _inline(out.getvalue(), title)


def _bare(tag: re.Match[str]) -> str:
  """A tag of the drawing; names, which are text between tags, stay as is."""
  bare = re.sub(r' xmlns(:\w+)?="[^"]*"', "", tag[0])
  bare = re.sub(r'<g id="[^"]*"', "<g", bare)  # alike in every drawing
  return bare.replace("xlink:href", "href").replace(_INK, "currentColor")


def _label(name: str) -> str:
  """A name for a legend, from which matplotlib leaves out "" and "_..."."""
  shown = _folded(name, _LEGEND)
  return f" {shown}" if shown[:1] in ("", "_") else shown


def _folded(name: str, width: int) -> str:
  """A name in lines of at most so many characters."""
  return "\n".join(textwrap.wrap(printable(name), width))


def _columns(labels: Iterable[str]) -> int:
  """The number of legend columns that fits the longest label, at most four."""
  longest = max(
    (len(line) for x in labels for line in x.split("\n")), default=0
  )
  points = 5.2 * longest + 40  # 9 pt text and its line
  return max(1, min(4, int(72 * _WIDTH / points)))


def _draw_lines(axes, series: Series, levels: Mapping[str, float]) -> None:
  for number, (label, (xs, ys)) in enumerate(series.items()):
    axes.plot(
      xs,
      ys,
      label=_label(label),
      color=COLORS[number % len(COLORS)],
      linestyle=_STROKES[number // len(COLORS) % len(_STROKES)],
      marker="o" if len(xs) < 12 else None,
      markersize=3.5,
      linewidth=1.6,
    )
  for number, (label, level) in enumerate(levels.items(), len(series)):
    color = COLORS[number % len(COLORS)]
    axes.axhline(
      level, label=_label(label), color=color, linestyle="--", linewidth=1.2
    )


def _shade(axes, label: str, start: float) -> None:
  """Shade what lies right of a place, between the limits that the lines have."""
  left, right = axes.get_xlim()
  axes.axvspan(
    max(start, left), right, label=_label(label), color=_INK, alpha=0.08, lw=0
  )
  axes.set_xlim(left, right)


def _draw_dots(
  axes, label: str, number: int, rows: Sequence[Sequence[float]], shift: float
) -> None:
  color = COLORS[number % len(COLORS)]
  xs = [x for values in rows for x in values]
  ys = [y + shift for y, values in enumerate(rows) for _ in values]
  marker = _MARKERS[number % len(_MARKERS)]
  look = {"color": color, "linestyle": "none"}
  axes.plot(
    xs, ys, marker, label=_label(label), markersize=4.5, alpha=0.8, **look
  )
  several = [y for y, values in enumerate(rows) if len(values) > 1]
  axes.plot(
    [statistics.median(rows[y]) for y in several],
    [y + shift for y in several],
    "|",
    markersize=11,
    markeredgewidth=2,
    **look,
  )


def _inline(svg: str, title: str) -> str:
  """A bare SVG element without prolog, metadata and namespaces.

  The placeholder colour of text becomes `currentColor`.
  """
  svg = svg[svg.index("<svg") :]
  svg = re.sub(r"<metadata>.*?</metadata>", "", svg, flags=re.DOTALL)
  svg = re.sub(r"<[^>]*>", _bare, svg)
  head, rest = svg.split(">", 1)
  head = re.sub(r' (width|height|version)="[^"]*"', "", head)
  label = re.sub(r"[^\w @()/.-]", "", title)
  return f'{head} role="img" aria-label="{label}">{rest}'
