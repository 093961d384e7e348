"""Small SVG line plots that take their ink from the page around them.

The text colour becomes `currentColor`, so that one drawing reads well on a
light and on a dark page; nothing in it points to another address.
"""

import io
import re
from collections.abc import Mapping, Sequence

COLORS = (
  "#3b82f6",
  "#e8833a",
  "#22a06b",
  "#c062d8",
  "#d9534f",
  "#8a8f98",
)
_INK = "#010203"  # replaced by currentColor; no series may use it
_SIZE = (5.2, 2.8)  # inches: text stays readable at the width of a phone

Series = Mapping[str, tuple[Sequence[float], Sequence[float]]]


def lines(
  name: str,
  series: Series,
  x_label: str,
  y_label: str,
  levels: Mapping[str, float] | None = None,
  x_ticks: Sequence[float] = (),
) -> str:
  """An SVG element with one line a series and one dashed line a level.

  `name` keeps the ids of several drawings on a page apart; x_ticks puts the
  axis on a logarithmic scale with just these marks.
  """
  import matplotlib
  from matplotlib import figure

  style = {"svg.fonttype": "none", "svg.hashsalt": name, "font.size": 9}
  inks = ("text.color", "axes.labelcolor", "axes.edgecolor")
  style |= dict.fromkeys([*inks, "xtick.color", "ytick.color"], _INK)
  with matplotlib.rc_context(style):
    drawing = figure.Figure(figsize=_SIZE, layout="constrained")
    axes = drawing.subplots()
    _draw(axes, series, levels or {})
    axes.set(xlabel=x_label, ylabel=y_label)
    axes.spines[["top", "right"]].set_visible(False)
    axes.grid(alpha=0.15, color=_INK)
    if x_ticks:
      axes.set_xscale("log", base=2)
      axes.set_xticks(x_ticks, [str(tick) for tick in x_ticks], minor=False)
      axes.minorticks_off()
    if len(series) + len(levels or {}) > 1:
      drawing.legend(
        loc="outside upper left", ncols=3, frameon=False, fontsize=8
      )
    out = io.StringIO()
    drawing.savefig(
      out, format="svg", transparent=True, metadata={"Date": None}
    )
  return _inline(out.getvalue(), y_label)


def _draw(axes, series: Series, levels: Mapping[str, float]) -> None:
  for number, (label, (xs, ys)) in enumerate(series.items()):
    axes.plot(
      xs,
      ys,
      label=label,
      color=COLORS[number % len(COLORS)],
      marker="o" if len(xs) < 12 else None,
      markersize=3.5,
      linewidth=1.6,
    )
  for number, (label, level) in enumerate(levels.items(), len(series)):
    color = COLORS[number % len(COLORS)]
    axes.axhline(level, label=label, color=color, linestyle="--", linewidth=1.2)


def _inline(svg: str, title: str) -> str:
  """The bare element: no prolog, metadata or namespaces, in the page's ink."""
  svg = svg[svg.index("<svg") :]
  svg = re.sub(r"<metadata>.*?</metadata>", "", svg, flags=re.DOTALL)
  svg = re.sub(r' xmlns(:\w+)?="[^"]*"', "", svg)
  svg = svg.replace("xlink:href", "href").replace(_INK, "currentColor")
  head, rest = svg.split(">", 1)
  head = re.sub(r' (width|height|version)="[^"]*"', "", head)
  label = re.sub(r"[^\w @()/.-]", "", title)
  return f'{head} role="img" aria-label="{label}">{rest}'
