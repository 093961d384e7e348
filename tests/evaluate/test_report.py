"""The report is one file, escaped, and holds what the run measured."""

import html.parser
import io
import re

import pytest
from rich import console

from embeddinggemma.report import curves, plots, report, starts

QUALITY = {
  "trained": {
    "code": {"64": {"ndcg@10": 0.5}, "128": {"ndcg@10": 0.6}},
    "sts": {"64": {"spearman": 0.7}, "128": {"spearman": 0.8}},
  },
  "untrained": {
    "code": {"64": {"ndcg@10": 0.4}, "128": {"ndcg@10": 0.45}},
    "sts": {"64": {"spearman": 0.6}, "128": {"spearman": 0.6}},
  },
  "BM25 <plain>": {"code": {"": {"ndcg@10": 0.43, "mrr@10": 0.9}}},
}
SUMMARY = {
  "stages": [
    {
      "name": "prefinetune<script>",
      "seconds": 132.0,
      "cached": False,
      "checkpoint": "c",
      "hash": "0123456789abcdef",
      "metrics": {"loss": 2.5, "nested": {}, "nan": float("nan")},
    },
    {"name": "evaluate", "seconds": 2.0, "cached": True, "hash": None},
  ],
  "final": {"ndcg@10": 0.6},
  "seconds": 134.0,
  "initialisation": {
    "metric": "nDCG@10",
    "task": "code <own>",
    "steps": 20,
    "of": 80,
    "chosen": "<mine>",
    "rows": [
      {"init": "<mine>", "seed": 0, "validation": 0.41, "test": None},
      {"init": "lsa", "seed": 0, "validation": 0.39, "test": 0.37},
    ],
  },
  "curves": {
    "pretrain": [{"step": 1, "loss": 9.0, "accuracy": 0.25}],
    "adapt": [{"step": 1, "loss": 6.0, "task": "text"}],
    "<own>": [],
    "prefinetune": [
      {"step": s, "loss": 5 - s / 300, "grad_norm": 1.0, "tokens_per_s": 9e3}
      | {"task": ("code", "sts<2>")[s % 2]}
      for s in range(1000)
    ]
    + [{"step": 1000, "loss": float("nan")}, {"note": "no step"}],
  },
  "quality": QUALITY,
  "command": "embeddinggemma query --model=DIR 'a < b'",
  "data_hash": "f00d",
  "versions": {"jax": "0.10.2"},
}


class _Checker(html.parser.HTMLParser):
  """Collects the tags, and checks that each is closed in order."""

  def __init__(self):
    super().__init__()
    self.open, self.seen = [], []

  def handle_starttag(self, tag, attrs):
    self.seen.append((tag, dict(attrs)))
    if tag != "meta":
      self.open.append(tag)

  def handle_endtag(self, tag):
    assert self.open.pop() == tag


def _page(tmp_path, summary):
  report.write_report(tmp_path / "report.html", summary)
  return (tmp_path / "report.html").read_text(encoding="utf-8")


def test_page_is_self_contained_and_well_formed(tmp_path):
  page = _page(tmp_path, SUMMARY)
  assert "//" not in page  # no address
  checker = _Checker()
  checker.feed(page)
  assert checker.open == []
  tags = [tag for tag, _ in checker.seen]
  assert tags.count("svg") == 7
  assert not {"script", "link", "img", "iframe"} & set(tags)
  assert page == _page(tmp_path, SUMMARY)


def test_page_says_what_was_measured(tmp_path):
  page = _page(tmp_path, SUMMARY)
  for text in (
    "prefinetune&lt;script&gt;",
    "2 min 12 s",
    "cached",
    "0123456789ab",
    "loss 2.500",
    "trained @ 128",
    "BM25 &lt;plain&gt;",
    "a &lt; b",
    "code &lt;own&gt; after 20 of 80 steps",
    "&lt;mine&gt;<small>chosen on validation</small>",
    "25.0% of the next tokens",
    "sts&lt;2&gt;",
    "f00d",
    "0.10.2",
    *report.PAPER.values(),
    *curves.PAPER.values(),
    starts.PAPER,
  ):
    assert text in page, text
  assert page.count("class=best") == 3
  assert "<td class=best>0.600</td>" in page


def test_drawings_take_the_ink_of_the_page(tmp_path):
  page = _page(tmp_path, SUMMARY)
  assert "currentColor" in page
  assert "prefers-color-scheme: dark" in page
  assert "#010203" not in page
  ids = re.findall(r' id="([^"]*)"', page)
  assert len(set(ids)) == len(ids) > 7


def test_an_empty_summary_is_a_page(tmp_path):
  page = _page(tmp_path, {})
  assert "<svg" not in page
  assert "<h1>" in page


def test_a_plot_needs_two_dimensions(tmp_path):
  one = {"m": {"t": {"64": {"ndcg@10": 0.5}}}}
  page = _page(tmp_path, {"quality": one})
  assert "m @ 64" in page
  assert "<svg" not in page


def test_means_are_over_the_tasks_that_all_systems_have():
  series, levels = report._by_dimension(QUALITY)
  assert series["trained"] == ([64, 128], [0.5, 0.6])
  assert levels == {"BM25 <plain>": 0.43}


def test_dots_are_seeds_and_a_bar_is_the_median():
  def marks(*values):
    return plots.dots("x", {"s": {"<a>": values, "b": (0.0, 1.0)}}, "y").count(
      "<use"
    )

  assert marks(0.5) - marks() == 1
  assert marks(0.5, 0.6) - marks(0.5) == 2  # a dot and the bar
  assert marks(0.5, 0.6, 0.7) - marks(0.5, 0.6) == 1
  svg = plots.dots("x", {"s": {"<a>": (1,)}, "t": {"<a>": (2,)}}, "y")
  assert "&lt;a&gt;" in svg
  assert svg.index(">s<") < svg.index(">t<")


def test_labels_are_escaped_in_drawings():
  svg = plots.lines("x", {"<b>&": ([1, 2], [1, 2])}, "x", "y", {"l": 1.5})
  assert "<b>" not in svg
  assert "&lt;b&gt;&amp;" in svg


def test_terminal_table_shows_every_system():
  out = io.StringIO()
  shown = console.Console(file=out, width=100)
  summary = {"quality": QUALITY | {"[red]": QUALITY["trained"]}}
  shown.print(report.terminal_table(summary))
  text = out.getvalue()
  for part in "trained", "@ 64", "<plain>", "[red]", "0.800", "spearman":
    assert part in text
  shown.print(report.terminal_table({}))


def _many(count, systems=("trained", "untrained", "a", "b", "c")):
  """So many tasks with long names; the first system is the best."""
  return {
    system: {
      f"task_with_a_long_name_{n}": {
        str(dim): {"ndcg@10": 0.9 - place / 10 - dim / 1e4} for dim in (64, 128)
      }
      for n in range(count)
    }
    for place, system in enumerate(systems)
  }


@pytest.mark.parametrize("width", [80, 99, 200])
def test_many_tasks_are_all_in_the_terminal(width):
  out = io.StringIO()
  shown = console.Console(file=out, width=width)
  shown.print(report.terminal_table({"quality": _many(141)}))
  text = "".join(out.getvalue().split())
  assert "\u2026" not in text
  assert text.count("0.894") == text.count("0.887") == 141
  assert text.count("0.494") == 141


def test_many_tasks_are_rows_of_the_page(tmp_path):
  page = _page(tmp_path, {"quality": _many(141)})
  assert "<tr><th>task</th><th>trained @ 64</th>" in page
  assert page.count("<td class=best>0.894</td>") == 141
  assert page.count("class=best") == 141
  few = _page(tmp_path, {"quality": _many(report.MOST_COLUMNS)})
  assert "<tr><th>system</th>" in few
