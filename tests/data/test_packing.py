"""Packing loses no token, overlaps none, and wastes little."""

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from embeddinggemma.data import packing

LENGTHS = st.lists(st.integers(0, 32), min_size=8, max_size=40).map(
  lambda x: x[: len(x) // 4 * 4]
)


@settings(max_examples=50, deadline=None)
@given(LENGTHS, st.sampled_from([1, 2, 4]))
def test_every_token_once_in_its_group(lengths, groups):
  texts = [np.full(n, i + 1, np.int32) for i, n in enumerate(lengths)]
  dealt = packing.deal(np.array(lengths), groups)
  assert sorted(dealt.reshape(-1)) == list(range(len(lengths)))
  rows = max(packing.rows_needed(np.array(lengths), dealt, 32), 1)
  text = packing.pack(texts, dealt, 32, rows)
  b = len(lengths) // groups
  for g in range(groups):
    for s in range(b):
      member = dealt[g, s]
      np.testing.assert_array_equal(
        text.ids[g][text.segment_ids[g] == s], texts[member]
      )
      assert text.valid[g, s] == (lengths[member] > 0)
      rows_used = np.flatnonzero((text.segment_ids[g] == s).any(axis=1))
      assert len(rows_used) <= 1
  assert (text.ids[text.segment_ids == b] == 0).all()


def test_tokens_of_groups_balance():
  lengths = np.random.default_rng(0).integers(3, 200, 256)
  sums = lengths[packing.deal(lengths, 8)].sum(axis=1)
  assert sums.max() < 1.02 * sums.min()


def test_rows_are_filled():
  lengths = np.random.default_rng(0).integers(3, 200, 256)
  _, _, rows = packing.assign_rows(lengths, 256)
  assert lengths.sum() > 0.97 * rows * 256


def test_rungs_hold_what_they_are_asked_to():
  for longest in (1, 16, 17, 192, 2048, 2049, 5000):
    assert packing.rung(longest) >= longest


SIDES = st.lists(
  st.tuples(st.integers(1, 32), st.integers(1, 20)), min_size=8, max_size=40
).map(lambda x: np.array(x[: len(x) // 4 * 4]))


@settings(max_examples=50, deadline=None)
@given(SIDES, st.sampled_from([1, 2, 4]))
def test_an_example_keeps_its_row_on_both_sides(lengths, groups):
  texts = [
    [np.full(n, 100 * side + i + 1, np.int32) for i, n in enumerate(column)]
    for side, column in enumerate(lengths.T)
  ]
  dealt = packing.deal_sides(lengths, groups)
  assert sorted(dealt.reshape(-1)) == list(range(len(lengths)))
  rows = packing.rows_needed(lengths, dealt, (32, 20))
  packed = packing.pack_sides(texts, dealt, (32, 20), rows)
  b = len(lengths) // groups
  assert [t.ids.shape for t in packed] == [(groups, rows, n) for n in (32, 20)]
  for g in range(groups):
    for s in range(b):
      member = dealt[g, s]
      places = [np.argwhere(text.segment_ids[g] == s) for text in packed]
      assert len({int(row) for place in places for row in place[:, 0]}) == 1
      for text, given_side in zip(packed, texts):
        np.testing.assert_array_equal(
          text.ids[g][text.segment_ids[g] == s], given_side[member]
        )
  for text in packed:
    assert text.valid.all()
    assert (text.ids[text.segment_ids == b] == 0).all()


@settings(max_examples=50, deadline=None)
@given(LENGTHS)
def test_one_side_is_packed_as_a_text_is(lengths):
  lengths = np.array(lengths)
  row, start, rows = packing.assign_rows(lengths, 32)
  also_row, also_start, also_rows = packing.assign_rows(lengths[:, None], [32])
  np.testing.assert_array_equal(row, also_row)
  np.testing.assert_array_equal(start, also_start[:, 0])
  assert rows == also_rows


def test_a_second_side_that_is_small_changes_no_row():
  lengths = np.random.default_rng(0).integers(20, 200, 64)
  both = np.stack((lengths, np.ones_like(lengths)), axis=1)
  row, _, rows = packing.assign_rows(lengths, 256)
  also_row, start, also_rows = packing.assign_rows(both, 256)
  np.testing.assert_array_equal(row, also_row)
  assert rows == also_rows
  for r in range(rows):  # the small side fills its row from the left
    mine = np.sort(start[row == r, 1])
    np.testing.assert_array_equal(mine, np.arange(len(mine)))


def test_both_sides_must_fit():
  lengths = np.array([[30, 2], [2, 30], [2, 2], [30, 2]])
  row, start, rows = packing.assign_rows(lengths, (32, 32))
  assert rows == 2
  assert row.tolist() == [0, 0, 1, 1]
  assert start.tolist() == [[0, 0], [30, 2], [30, 2], [0, 0]]


def test_both_sides_of_groups_balance():
  rng = np.random.default_rng(0)
  total = rng.integers(100, 200, 512)
  first = (total * rng.uniform(0.1, 0.9, 512)).astype(int)
  lengths = np.stack((first, total - first), axis=1)
  sums = lengths[packing.deal_sides(lengths, 16)].sum(axis=1)
  assert (sums.max(axis=0) < 1.05 * sums.min(axis=0)).all()
