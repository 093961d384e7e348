"""Pack texts into groups of rows with little padding, in pure numpy.

A batch is distributed over G groups with equal numbers of pairs and balanced
tokens; inside a group, texts are packed into rows first-fit by decreasing
length. Input and target of a denoising example share a row, so that
cross-attention stays within it.
"""

from collections.abc import Sequence

import numpy as np
from jaxtyping import Bool, Int

from embeddinggemma.types import BadInput, Text

# The row lengths in use: few, so that few shapes are compiled.
RUNGS = (32, 64, 128, 256, 512, 1024, 2048)


def rung(longest: int) -> int:
  """The smallest row length in use that holds a text of `longest` tokens.

  Above the largest of RUNGS it is the next multiple of 512.
  """
  return next((r for r in RUNGS if r >= longest), -(-longest // 512) * 512)


def check_groups(batch_size: int, groups: int, stage: str = "") -> None:
  """Raises BadInput unless the batch divides into the groups."""
  if batch_size % groups:
    raise BadInput(
      f"{stage and stage + ': '}batch_size={batch_size} does not divide into"
      f" {groups} groups"
      " (devices x groups_per_device); use a multiple of it"
    )


def deal(cost: Int[np.ndarray, "B"], groups: int) -> Int[np.ndarray, "G b"]:
  """Distribute a batch over G groups of B / G so that sums of `cost` balance.

  Returns indices into the batch. Descending costs are dealt like cards, back
  and forth; the result is deterministic.
  """
  order = np.argsort(-cost, kind="stable").reshape(-1, groups)
  order[1::2] = order[1::2, ::-1]
  return order.T


def deal_sides(
  lengths: Int[np.ndarray, "B sides"], groups: int
) -> Int[np.ndarray, "G b"]:
  """Like `deal`, with the tokens of each of two sides balanced as well.

  Examples are dealt in hands of about equal tokens; in a hand, the one with the
  longest first side goes to the group with the fewest tokens of that side so
  far.
  """
  order = np.argsort(-lengths.sum(axis=1), kind="stable").reshape(-1, groups)
  dealt = np.zeros_like(order)
  sums = np.zeros(groups, lengths.dtype)
  for n, hand in enumerate(order):
    hand = hand[np.argsort(-lengths[hand, 0], kind="stable")]
    to = np.argsort(sums, kind="stable")
    dealt[n, to] = hand
    sums[to] += lengths[hand, 0]
  return dealt.T


def assign_rows(
  lengths: Int[np.ndarray, "b *sides"], length: int | Sequence[int]
) -> tuple[Int[np.ndarray, "b"], Int[np.ndarray, "b *sides"], int]:
  """First-fit decreasing packing: row and start of each text, and rows used.

  An example of several sides (each with rows of its own length) gets one row
  index in which all its sides fit. An empty place, without tokens, gets row 0
  and uses nothing.
  """
  sides = np.atleast_2d(lengths.T)
  total = sides.sum(axis=0)
  row, start = np.zeros_like(total), np.zeros_like(sides)
  # How full a row may be to still take a text, and how full each row is.
  room = np.reshape(length, (-1, 1)) - sides
  used = np.zeros((len(sides), max(len(total), 1)), sides.dtype)
  rows = 0
  for i in np.argsort(-total, kind="stable"):
    if total[i] == 0:
      break
    fits = used[0, : rows + 1] <= room[0, i]
    for side in range(1, len(sides)):
      fits &= used[side, : rows + 1] <= room[side, i]
    r = int(np.argmax(fits))
    row[i], start[:, i] = r, used[:, r]
    used[:, r] += sides[:, i]
    rows = max(rows, r + 1)
  return row, start.T.reshape(lengths.shape), rows


def pack(
  texts: Sequence[Int[np.ndarray, "_"]],
  groups: Int[np.ndarray, "G b"],
  length: int,
  rows: int,
) -> Text:
  """Pack texts by groups into int32 rows; an empty array is an empty place."""
  return pack_sides([texts], groups, [length], rows)[0]


def pack_sides(
  sides: Sequence[Sequence[Int[np.ndarray, "_"]]],
  groups: Int[np.ndarray, "G b"],
  lengths: Sequence[int],
  rows: int,
) -> list[Text]:
  """Pack the sides of examples, each side into rows of its own length.

  On every side an example has the same row and the same segment id.
  """
  sizes = np.array([[len(text) for text in texts] for texts in sides]).T
  packed = [_empty(groups.shape, rows, length) for length in lengths]
  for g, members in enumerate(groups):
    row, start, used = assign_rows(sizes[members], lengths)
    assert used <= rows, (used, rows)
    end = start + sizes[members]
    for n, (texts, (ids, segment_ids, valid)) in enumerate(zip(sides, packed)):
      for s, member in enumerate(members):
        place = row[s], slice(start[s, n], end[s, n])
        ids[g][place] = texts[member]
        segment_ids[g][place] = s
      valid[g] = sizes[members, n] > 0
  return packed


def _empty(shape: tuple[int, ...], rows: int, length: int) -> Text:
  """Groups without any text, to be filled."""
  num_groups, b = shape
  ids = np.zeros((num_groups, rows, length), np.int32)
  valid: Bool[np.ndarray, "G b"] = np.zeros((num_groups, b), bool)
  return Text(ids, np.full_like(ids, b), valid)


def rows_needed(
  lengths: Int[np.ndarray, "B *sides"],
  groups: Int[np.ndarray, "G b"],
  length: int | Sequence[int],
) -> int:
  """The rows that the fullest group needs."""
  return max(assign_rows(lengths[members], length)[2] for members in groups)
