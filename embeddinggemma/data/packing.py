"""Texts into groups of rows without padding: pure numpy.

A batch is dealt into G groups of equal numbers of pairs whose tokens balance;
inside a group, texts are packed into rows first-fit by decreasing length.
"""

from collections.abc import Sequence

import numpy as np
from jaxtyping import Bool, Int

from embeddinggemma.types import BadInput, Text

# Short, so that few shapes are compiled; a text need not fill its row.
_RUNGS = (32, 64, 128, 256, 512, 1024, 2048)


def rung(longest: int) -> int:
  """The smallest row length of a short ladder that holds a text of `longest`."""
  return next((r for r in _RUNGS if r >= longest), -(-longest // 512) * 512)


def check_groups(batch_size: int, groups: int) -> None:
  """Raises BadInput unless the batch divides into the groups."""
  if batch_size % groups:
    raise BadInput(
      f"batch_size={batch_size} does not divide into {groups} groups"
      " (devices x groups_per_device); use a multiple of it"
    )


def deal(cost: Int[np.ndarray, "B"], groups: int) -> Int[np.ndarray, "G b"]:
  """Indices of the batch in G groups of B / G whose costs balance.

  Descending costs are dealt like cards, back and forth; deterministic.
  """
  order = np.argsort(-cost, kind="stable").reshape(-1, groups)
  order[1::2] = order[1::2, ::-1]
  return order.T


def assign_rows(
  lengths: Int[np.ndarray, "b"], length: int
) -> tuple[Int[np.ndarray, "b"], Int[np.ndarray, "b"], int]:
  """First-fit decreasing: row and first position of each text; rows used.

  Texts of no tokens (empty places) get row 0 and use nothing.
  """
  row, start = np.zeros_like(lengths), np.zeros_like(lengths)
  used = np.zeros(max(len(lengths), 1), lengths.dtype)
  rows = 0
  for i in np.argsort(-lengths, kind="stable"):
    if lengths[i] == 0:
      break
    fits = used[: rows + 1] + lengths[i] <= length
    r = int(np.argmax(fits))
    row[i], start[i] = r, used[r]
    used[r] += lengths[i]
    rows = max(rows, r + 1)
  return row, start, rows


def pack(
  texts: Sequence[Int[np.ndarray, "_"]],
  groups: Int[np.ndarray, "G b"],
  length: int,
  rows: int,
) -> Text:
  """Packs texts (an empty array is an empty place) by groups, as int32."""
  num_groups, b = groups.shape
  ids = np.zeros((num_groups, rows, length), np.int32)
  slot = np.full((num_groups, rows, length), b, np.int32)
  valid: Bool[np.ndarray, "G b"] = np.zeros((num_groups, b), bool)
  for g, members in enumerate(groups):
    lengths = np.array([len(texts[m]) for m in members])
    row, start, used = assign_rows(lengths, length)
    assert used <= rows, (used, rows)
    for s, member in enumerate(members):
      end = start[s] + lengths[s]
      ids[g, row[s], start[s] : end] = texts[member]
      slot[g, row[s], start[s] : end] = s
    valid[g] = lengths > 0
  return Text(ids, slot, valid)


def rows_needed(
  lengths: Int[np.ndarray, "B"], groups: Int[np.ndarray, "G b"], length: int
) -> int:
  """The rows that the fullest group needs."""
  return max(assign_rows(lengths[members], length)[2] for members in groups)
