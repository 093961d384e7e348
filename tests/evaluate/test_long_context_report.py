"""Quality against length is drawn where it was measured, and marked."""

import json
import re

import pytest

from embeddinggemma import cache
from embeddinggemma.recipes import run as recipes
from embeddinggemma.report import long_context, plots, report


def _score(value: float) -> dict:
  ends = [value - 0.1, value + 0.1]
  return {
    "queries": 24,
    "ndcg@10": value,
    "accuracy@1": value / 2,
    "intervals": {"ndcg@10": ends, "accuracy@1": [end / 2 for end in ends]},
  }


def found(**changes) -> dict:
  """A curve of three lengths, of which the model read two in training."""
  rows = [
    {
      "task": task,
      "length": length,
      "tokens": length - 1.5,
      "beyond": length > 512,
      "cut_at": None,
      "model": {
        "all": _score(0.9 - length / 4000),
        "positions": {"start": _score(0.8), "middle": _score(0.6)},
      },
      "words": {
        "all": _score(0.43),
        "positions": {"start": _score(0.44), "middle": _score(0.41)},
      },
    }
    for task in ("needle", "passage")
    for length in (256, 512, 1024)
  ]
  return {
    "lengths": [256, 512, 1024],
    "documents": 24,
    "uses": 1.0,
    "trained_length": 512,
    "trained_known_from": "its last training",
    "max_length": 2048,
    "dim": 768,
    "precision": "float",
    "chance": {"ndcg@10": 0.06, "accuracy@1": 0.02},
    "rows": rows,
    **changes,
  }


def _html(curve: dict) -> str:
  return "".join(long_context.section(curve))


def test_the_curve_has_every_figure_and_its_marks():
  html = _html(found())
  assert html.count("<svg") == 2
  for said in (
    "0.836",
    "0.736 to 0.936",
    "0.418",
    "0.800",
    "BM25 0.440",
    "0.430",
  ):
    assert said in html
  assert html.count("<small>beyond the trained length</small>") == 2
  for svg in re.findall("<svg.*?</svg>", html, re.DOTALL):
    for line in ("model", "start", "middle", "BM25", "a random order"):
      assert f">{line}<" in svg.replace("> ", ">")
    assert "beyond the trained length<" in svg
    assert all(f">{tick}<" in svg for tick in (256, 512, 1024))
  assert "beyond the trained length of 512 tokens, known from its last" in html
  assert _html({}) == ""


def test_within_the_trained_length_nothing_is_marked():
  curve = found(trained_length=2048)
  for row in curve["rows"]:
    row["beyond"] = False
  assert "beyond" not in _html(curve)
  assert not any(
    long_context.MARK in line for line in long_context.notes(curve)
  )


@pytest.mark.parametrize(
  ("changes", "said"),
  [
    ({"max_length": 256}, "documents of more than 256 tokens were read whole"),
    ({"precision": "int4"}, "with weights rounded to int4"),
    ({"uses": 2.34}, "the text is short: 2.3 of the longest documents hold"),
    (
      {},
      "24 documents of each length; a random order of them has nDCG@10 0.06",
    ),
  ],
)
def test_what_figures_mean_is_said(changes, said):
  others = [line for line in long_context.notes(found()) if said in line]
  assert bool(others) == (not changes)
  assert any(said in line for line in long_context.notes(found(**changes)))


def test_a_cut_is_said_at_its_row():
  curve = found()
  curve["rows"][2]["cut_at"] = 512
  assert "beyond the trained length, cut at 512" in _html(curve)
  assert any("that were cut" in line for line in long_context.notes(curve))


def test_a_shade_ends_with_the_plot():
  lines = {"a": ([1, 2, 4], [0.5, 0.4, 0.3])}
  plain = plots.lines("x", lines, "x", "y", x_ticks=[1, 2, 4])
  shaded = plots.lines("x", lines, "x", "y", None, [1, 2, 4], ("late", 2))
  assert "late" in shaded and "late" not in plain
  view = re.compile(r'viewBox="([^"]*)"')
  marks = lambda svg: re.findall(r">(\d)</text>", svg)
  assert view.findall(shaded) and marks(shaded) == marks(plain)


def test_a_page_of_its_own_and_that_of_a_run(tmp_path):
  long_context.write_page(tmp_path / "a.html", found(), "runs/<laptop>")
  page = (tmp_path / "a.html").read_text()
  assert "runs/&lt;laptop&gt;" in page and page.count("<svg") == 2
  report.write_report(tmp_path / "b.html", {"long_context": found()})
  assert (tmp_path / "b.html").read_text().count("<svg") == 2


def test_a_run_shows_the_curve_of_its_own_weights_alone(tmp_path):
  curve = {**found(), "weights": "abc"}
  cache.write_json(tmp_path / "long.json", {"long_context": curve})
  shown = json.loads(json.dumps(curve))
  assert recipes._lengths(tmp_path, "abc") == {"long_context": shown}
  assert recipes._lengths(tmp_path, "other") == {}
  assert recipes._lengths(tmp_path / "none", "abc") == {}
  for text in ("{", "[]", "{}", '{"long_context": 3}', '{"long_context": []}'):
    (tmp_path / "long.json").write_text(text)
    assert recipes._lengths(tmp_path, "abc") == {}
