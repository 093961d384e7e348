"""The table of before and after: what is noise, and what is shown of a soup."""

from io import StringIO

import pytest
from rich.console import Console

from embeddinggemma.report import forgetting


def scores(own: float, general: float) -> dict:
  task = lambda score: {
    "mean": score,
    "tasks": {"qa": {"metric": "ndcg@10", "score": score, "queries": 40}},
  }
  return {"own test": task(own), "general": task(general)}


FOUND = {
  "before": scores(0.5, 0.62),
  "after": scores(0.6, 0.61),
  "points": [
    {"name": "base", "share": 0.0, "step": 0, "general": 0.62},
    {"name": "step 9", "share": 1.0, "step": 9, "general": 0.605},
  ],
  "chosen": "step 9",
  "reason": "the best mean",
}


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
  assert rows[0] == ["own test", "40", "0.500", "0.600", "+0.100"]
  assert rows[1][0] == "  qa, ndcg@10"
  assert rows[2][-1] == "-0.010, within noise"


def test_the_page_and_the_terminal_show_both_tables():
  page = "".join(forgetting.section(FOUND))
  assert "Before and after" in page and "Candidates" in page
  assert (
    "within noise" in page and "handed over: step 9 (the best mean)" in page
  )
  out = StringIO()
  for table in forgetting.tables(FOUND):
    Console(file=out, width=100).print(table)
  assert "own test" in out.getvalue() and "0.605" in out.getvalue()


def test_a_run_without_pairs_has_no_section():
  assert list(forgetting.section({})) == []


def test_the_forecast_is_beside_what_it_took():
  said = forgetting.forecast({"seconds": 100.0, "took": 90.0})
  assert said == "forecast 1 min 40 s, took 1 min 30 s (-10%)"
