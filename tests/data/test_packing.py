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
        text.ids[g][text.slot[g] == s], texts[member]
      )
      assert text.valid[g, s] == (lengths[member] > 0)
      rows_used = np.flatnonzero((text.slot[g] == s).any(axis=1))
      assert len(rows_used) <= 1
  assert (text.ids[text.slot == b] == 0).all()


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
