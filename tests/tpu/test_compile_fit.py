"""What the search for a fit tries, by a memory whose law is known."""

import dataclasses
import importlib.util

import pytest

from embeddinggemma import generations
from embeddinggemma.aot import compiling, environment, examine, fit
from embeddinggemma.cli import flags
from embeddinggemma.cli.verbs import VERBS
from embeddinggemma.training import fitting
from embeddinggemma.training.fitting import Try

CAPACITY = 1_000


def search(fixed: int, moving: int) -> list[tuple[int, bool]]:
  def attempt(groups: int) -> Try:
    needed = fixed + moving // groups
    return Try(groups, needed <= CAPACITY, needed)

  made = fitting.tries(attempt(1), fitting.choices(256, 1), CAPACITY, attempt)
  return [(one.groups, one.fits) for one in made]


def test_what_fits_is_left_alone() -> None:
  assert search(100, 800) == [(1, True)]


def test_the_answer_is_found_in_few_compilations() -> None:
  # 500 + 20_000 / g: 40 groups are enough, of doublings 64.
  assert search(500, 20_000) == [
    (1, False),
    (2, False),
    (4, False),
    (64, True),
  ]


def test_what_no_grouping_mends_is_seen_after_two_tries() -> None:
  assert search(2_000, 10_000) == [(1, False), (2, False), (4, False)]


def test_only_numbers_that_divide_are_tried() -> None:
  assert fitting.choices(6, 1) == [2]
  assert fitting.choices(6, 2) == []


@pytest.mark.parametrize("left", [[], [2]])
def test_an_end_of_the_choices_is_an_end(left: list[int]) -> None:
  tries = [Try(1, False, 5), Try(2, False, 4), Try(4, False, 3)]
  assert fitting.following(tries, left, 1) is None


@pytest.mark.skipif(
  importlib.util.find_spec("libtpu") is None, reason="libtpu is not installed"
)
def test_recomputation_is_tried_where_groups_cannot_help() -> None:
  """One pair a device, on chips that have next to no memory."""
  environment.prepare()
  values, _ = flags.parse(
    "compile",
    VERBS["compile"],
    [
      "--config=configs/prefinetune.py:tiny",
      "--config.model.num_layers=1",
      "--config.batch_size=4",
      "--topology=v5e:2x2",
    ],
  )
  config = examine.config_of(values.config.to_dict(), None)
  v5e = generations.parse("v5e:2x2")
  small = dataclasses.replace(v5e.generation, hbm_usable=2.0**20)
  first = compiling.compile_step(
    config, dataclasses.replace(v5e, generation=small)
  )
  rows = fit.search(first)
  assert [row["change"] for row in rows] == [
    {"groups_per_device": 1},
    {"model.remat": "dots"},
    {"model.remat": "full"},
  ]
  assert not any(row["fits"] for row in rows)
  assert all(row["needed_bytes"] > 2**20 for row in rows)
