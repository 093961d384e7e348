"""Each stage has its loss, by task where there are several."""

import re

import pytest

from embeddinggemma.report import curves, series

CURVES = {
  "pretrain": [
    {"step": s, "loss": 9 - s / 300, "accuracy": s / 250, "grad_norm": 2.0}
    for s in range(1, 101)
  ],
  "adapt": [{"step": 1, "task": "text", "loss": 6.0, "accuracy": 0.25}],
  "prefinetune": [
    {"step": s, "loss": 5 - s / 300, "grad_norm": 1.0, "tokens_per_s": 9e3}
    | {"task": ("code", "sts<2>")[s % 2], "accuracy": 0.5}
    for s in range(1000)
  ]
  + [{"step": 1000, "loss": float("nan")}, {"note": "no step"}],
}


def _text(part):
  return re.sub(r"<svg.*?</svg>", "", "".join(part), flags=re.DOTALL)


def test_each_stage_has_its_loss_and_the_last_its_speed():
  text = _text(curves.section(CURVES))
  found = re.findall(r"<h3>(.*?)</h3>", text)
  assert found == [
    "Loss: pretrain",
    "Loss: adapt",
    "Loss: prefinetune",
    "In-batch accuracy: prefinetune",
    "Gradient norm: prefinetune",
    "Tokens per second: prefinetune",
  ]
  # Steps 91 to 100 of 100; the contrastive stage predicts no token.
  assert "38.2% of the next tokens were predicted right" in text
  assert "25.0% of the target tokens were predicted right" in text
  assert text.count("predicted right") == 2
  assert list(curves.section({"pretrain": [], "adapt": []})) == []


def test_tasks_have_a_line_each_until_they_are_too_many():
  def drawn(tasks):
    rows = [{"step": s, "task": f"t{s % tasks}", "loss": 1} for s in range(60)]
    return "".join(curves.section({"x": rows}))

  assert ">t0<" not in drawn(1)
  assert "One line" not in drawn(1)
  assert ">running mean<" in drawn(1)
  for task in range(series.MOST_TASKS):
    assert f">t{task}<" in drawn(series.MOST_TASKS)
  assert "One line a task: the running mean" in drawn(2)
  assert ">t0<" not in drawn(series.MOST_TASKS + 1)
  assert "13 tasks in one line: the running mean" in drawn(13)


def test_the_task_with_the_most_batches_comes_first():
  rows = [{"step": s, "task": "ab"[s > 1], "loss": s} for s in range(5)]
  rows.append({"step": 5, "task": "c", "loss": float("inf")})
  assert series.by_task(rows, "loss") == {
    "b": [(2, 2), (3, 3), (4, 4)],
    "a": [(0, 0), (1, 1)],
  }


def test_running_mean_is_over_the_last_tenth():
  short = [(1, 6.0), (3, 0.0), (5, 3.0), (9, 9.0)]
  assert series.running_mean(short) == [(1, 6), (3, 3), (5, 3), (9, 4)]
  long = [(step, float(step)) for step in range(100)]
  assert series.running_mean(long)[99] == (99, 94.5)  # of 90 to 99


@pytest.mark.parametrize("count", [1, 2, 399, 400, 401, 799, 800, 1201])
def test_lines_are_thinned_and_end_where_they_end(count):
  points = [(step, float(-step)) for step in range(count)]
  xs, ys = series.thinned({"a": points})["a"]
  assert len(xs) <= 400
  assert len(xs) == count or len(xs) > 200
  assert (xs[0], xs[-1], ys[-1]) == (0, count - 1, 1 - count)
  assert sorted(set(xs)) == list(xs)


def test_terms_dimensions_and_pairs_without_a_negative_are_shown():
  row = {"task": "qa", "loss": 3.0, "contrastive": 2.0, "distill": 1.0}
  parts = {"contrastive/32": 1.5, "contrastive/8": 0.5}
  rows = [
    {"step": s, **row, **parts, "without_negatives": 0.25} for s in range(4)
  ]
  empty = dict.fromkeys(("loss", "contrastive", "contrastive/32", "accuracy"))
  rows.append({"step": 4, "task": "qa", **empty, "without_negatives": 1.0})
  text = _text(curves.section({"finetune": rows}))
  found = re.findall(r"<h3>(.*?)</h3>", text)
  assert found == [
    "Loss: finetune",
    "Loss by term: finetune",
    "Loss contrastive by dimension: finetune",
  ]
  assert "40.0% of the pairs had no negative" in text
  assert "in 1 of 5 batches no pair had any" in text
  drawn = "".join(curves.section({"finetune": rows}))
  assert all(f">{name}<" in drawn for name in ("distill", "32", "8"))
