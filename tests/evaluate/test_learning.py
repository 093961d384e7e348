"""What the page shows of learning, with a sentence for each plot."""

import re

import pytest
from test_hostile_page import HOSTILE, checked

from embeddinggemma.report import learning, series
from embeddinggemma.training import learned


def rows_of(count=30, tasks=("qa", "code")):
  return [
    {"step": n, "task": tasks[n % len(tasks)], "accuracy": n / 100}
    | (
      {
        "alignment": 1 - n / 100,
        "uniformity/query": -1 - n / 10,
        "uniformity/positive": -1 - n / 10,
        "effective_rank/query": 20.0 + n,
        "effective_rank/positive": 10.0 + n,
        "mean_cosine/query": 0.3,
        "mean_cosine/positive": 0.3,
        "distinct/query": 64,
        "gradient/contrastive": 0.5,
        "gradient/contrastive/32": 0.2,
        "gradient/contrastive/8": 0.4,
        "gradient/spread_out": 0.1,
      }
      if n % 5 == 0
      else {}
    )
    for n in range(count)
  ]


def test_each_plot_has_a_sentence():
  page = "".join(learning.section("finetune", rows_of()))
  assert re.findall(r"<h3>(.*?)</h3>", page) == [
    "In-batch accuracy: finetune",
    "Alignment and uniformity: finetune",
    "Effective rank: finetune",
    "Mean cosine of different texts: finetune",
    "Gradient by term: finetune",
    "Gradient by dimension: finetune",
  ]
  assert page.count("<svg") == page.count('class="note"') == 6
  for label in ("qa", "code", "contrastive 32", "contrastive 8", "spread_out"):
    assert f">{label}<" in page
  assert "Warning" not in page


def test_what_was_not_looked_at_is_not_drawn():
  rows = [{"step": n, "loss": 1.0, "task": "texts"} for n in range(9)]
  assert list(learning.section("distil", rows)) == []
  alone = [
    {k: v for k, v in row.items() if k != "gradient/spread_out"}
    for row in rows_of()
  ]
  page = "".join(learning.section("x", alone))
  assert "Gradient by term" not in page and "Gradient by dimension" in page
  many = rows_of(60, [f"t{n}" for n in range(series.MOST_TASKS + 1)])
  assert ">t0<" not in "".join(learning.section("x", many))


@pytest.mark.parametrize("name", HOSTILE)
def test_a_collapse_is_said_first_whatever_its_words_are(name):
  def page(name: str) -> str:
    rows = rows_of(tasks=(name, "other"))
    rows[7]["collapse"] = f"task {name}"
    return "".join(learning.section(name, rows))

  assert page("a").startswith("<p><strong>Warning: task a.</strong></p>")
  checked(page(name), page("a long and harmless name " * 3), name)


def test_the_line_at_the_end_compares_the_ends():
  assert learned.line([]) == learned.line(rows_of(1)) == ""
  said = learned.line(rows_of(30))
  assert said == (
    "learned: in-batch accuracy 0.01 -> 0.28, effective rank 10.0 -> 35.0,"
    " uniformity -1.00 -> -3.50"
  )
  texts = [{"uniformity/query": -n} for n in range(2)]
  assert learned.line(texts) == "learned: uniformity 0.00 -> -1.00"
