"""The table of before and after: what is noise, and what is shown of a soup."""

from io import StringIO

import pytest
from rich.console import Console

from embeddinggemma.evaluate import forgetting


def scores(own: float, general: float) -> dict:
  task = lambda score: {
    "mean": score,
    "tasks": {"qa": {"metric": "ndcg@10", "score": score, "queries": 40}},
  }
  return {"own test": task(own), "general": task(general)}


FOUND = {
  "before": scores(0.5, 0.62),
  "after": scores(0.6, 0.61),
  "soup": {
    "points": [
      {"share": 0.0, "general": 0.62, "mean": 0.56},
      {"share": 1.0, "general": 0.61, "mean": 0.605},
    ],
    "share": 1.0,
    "means": {"general": 0.61},
  },
}
WITHOUT = {**FOUND, "soup": {"points": [], "share": None, "means": {}}}


@pytest.mark.parametrize(
  ("before", "after", "said"),
  [
    (0.5, 0.6, "+0.100"),
    (0.6, 0.5, "-0.100"),
    (0.209, 0.189, "-0.020"),
    (0.5, 0.5194, "+0.019, within noise"),
    (0.5, 0.5, "+0.000, within noise"),
  ],
)
def test_a_change_is_told_from_noise(before, after, said):
  assert forgetting.change(before, after) == said


def test_rows_are_suites_and_their_tasks():
  rows = forgetting.rows(FOUND)
  assert rows[0] == ["own test", "40", "0.500", "0.600", "+0.100", "-"]
  assert rows[1][0] == "  qa, ndcg@10"
  assert rows[2][-1] == "0.610"


def test_the_page_and_the_terminal_show_both_tables():
  page = "".join(forgetting.section(FOUND))
  assert "Before and after" in page and "Between base and result" in page
  assert "within noise" in page and "best soup: 100% of the result" in page
  out = StringIO()
  for table in forgetting.tables(FOUND):
    Console(file=out, width=100).print(table)
  assert "own test" in out.getvalue() and "0.605" in out.getvalue()


def test_without_a_soup_there_is_no_second_table():
  assert "Between" not in "".join(forgetting.section(WITHOUT))
  assert len(list(forgetting.tables(WITHOUT))) == 1
  assert "soup" not in forgetting.verdict(WITHOUT)
  assert list(forgetting.section({})) == []


def test_the_forecast_is_beside_what_it_took():
  said = forgetting.forecast({"seconds": 100.0, "took": 90.0})
  assert said == "forecast 1 min 40 s, took 1 min 30 s (-10%)"
