"""When vectors have collapsed, and when they only begin that way."""

import math

import pytest

from embeddinggemma.losses import collapse


def row(step, cosine, rank=20.0, accuracy=0.05, distinct=64.0, **more):
  return {
    "step": step,
    "task": "qa",
    "accuracy": accuracy,
    "mean_cosine/query": 0.3,
    "mean_cosine/positive": cosine,
    "effective_rank/query": 30.0,
    "effective_rank/positive": rank,
    "distinct/query": 64.0,
    "distinct/positive": distinct,
    **more,
  }


def alarms(rows, grace=0) -> list[str]:
  """What is said at each row."""
  alarm = collapse.Alarm(grace)
  return [alarm(row) for row in rows]


def raised_at(rows, grace=0) -> int | None:
  """The step of the alarm."""
  said = alarms(rows, grace)
  assert sum(map(bool, said)) <= 1, "once"
  return next((r["step"] for r, words in zip(rows, said) if words), None)


def test_a_fall_is_said_at_the_second_look_and_once():
  rows = [row(1, 0.5), row(10, 0.4), row(11, None), {"step": 12, "loss": 1.0}]
  rows += [row(n, 0.999) for n in (20, 30, 40)]
  said = alarms(rows)
  assert [bool(x) for x in said] == [False] * 5 + [True, False]
  for words in (
    "at step 30 (task qa)",
    "mean cosine of 0.999",
    "along 20.0 directions",
    "and 5% of the queries find their positive",
    "lower --config.optimizer.lr",
  ):
    assert words in said[5]


def test_few_directions_are_a_collapse_too():
  assert raised_at([row(1, 0.4), row(10, 0.4, 1.5), row(20, 0.4, 1.4)]) == 20
  # Of five labels nothing varies along more than four directions.
  few = [row(n, 0.4, 2.5, distinct=5.0) for n in range(1, 90, 10)]
  assert raised_at([row(1, 0.4), *few]) is None


def test_one_odd_batch_is_none():
  rows = [row(n, (0.4, 0.99)[n % 2]) for n in range(40)]
  assert raised_at(rows) is None


def test_texts_of_one_topic_that_are_told_apart_are_none():
  assert raised_at([row(n, 0.98, accuracy=0.9) for n in range(40)]) is None


def test_a_random_start_has_time_to_come_out():
  better = [row(n, 1 - 0.01 * 1.2**n) for n in range(8)]
  assert raised_at([*better, row(9, 0.6), row(10, 0.5)]) is None
  wider = [row(n, 0.5, 2.0 * 1.2**n) for n in range(10)]
  assert raised_at(wider) is None
  # Along one line, cosines may do anything.
  line = [row(n, (0.99, 0.8)[n % 2], 1.02) for n in range(1, 10)]
  assert raised_at(line) == 5
  assert raised_at([row(n, 0.99, 1.2) for n in range(1, 90, 10)]) == 41


def test_a_warm_up_moves_nothing_yet():
  rows = [row(n, 0.99, 1.2) for n in range(1, 90, 10)]
  assert raised_at(rows, grace=21) == 71
  assert raised_at(rows, grace=90) is None


def test_another_task_is_no_fall():
  """Texts of one kind may lie close together from the start."""
  odd = lambda n: row(n, 0.97, task="names")
  assert raised_at([row(1, 0.4), odd(2), odd(3), row(4, 0.4), odd(5)]) is None
  fall = [row(1, 0.4), odd(2), row(3, 0.99), odd(4), row(5, 0.99)]
  assert raised_at(fall) == 5


def test_a_row_with_an_alarm_is_the_last():
  said = row(9, 0.99, collapse="the vectors collapse")
  rows = [row(1, 0.4), said, row(10, 0.99), row(20, 0.99)]
  assert raised_at(rows) is None
  assert collapse.raised(rows) == (9, "the vectors collapse")
  assert collapse.raised([row(1, 0.4), {"step": 2}]) is None


def test_without_pairs_there_is_no_accuracy():
  texts = [
    {k: v for k, v in row(n, 0.5).items() if "positive" not in k}
    | {"mean_cosine/query": (0.3, 0.99)[n > 2], "accuracy": None}
    for n in range(6)
  ]
  said = alarms(texts)
  assert said[4] and "queries find" not in said[4]


@pytest.mark.parametrize("odd", [None, math.nan, math.inf, "1", [1], {}])
def test_rows_of_any_file_raise_nothing(odd):
  rows = [row(n, odd, odd, odd, odd) for n in range(9)] + [{}, {"step": odd}]
  rows += [{"mean_cosine/query": 1.0, "effective_rank/query": 1.0}] * 2
  assert alarms([row(0, 0.3), *rows])[-1] == ""
  assert collapse.raised([{"step": odd, "collapse": odd}]) is None
