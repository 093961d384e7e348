"""How a smaller vocabulary cuts texts, beside the one that it was cut out of.

Both cut a text into pieces that cover its bytes. A token is cut as before if
the other vocabulary has a token of the same bytes there.
"""

import re
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from jaxtyping import Int

from embeddinggemma.data.tokenizer import NO_LIMIT, Tokenizer

_BATCH = 1024  # texts that are tokenised together
# Texts that are compared: of all, and of one label at the least.
_SAMPLE, _LEAST = 5000, 100
_OF_TEXT, _OF_PLACE = 40, 12  # bits before which a token's place is written


class Cut(NamedTuple):
  """How the texts of a label are cut, measured on a sample of them."""

  data: str  # the label; "" for all
  texts: int
  share: float  # of the tokens before, those that are cut as before
  tokens: float  # tokens for each token before
  bytes: float  # of the tokens, those of a single byte
  needing: float  # of the texts, those with a piece that was cut

  @property
  def figures(self) -> dict[str, float]:
    """All but the label, rounded."""
    return {
      "texts": self.texts,
      "share": round(self.share, 4),
      "tokens": round(self.tokens, 4),
      "bytes": round(self.bytes, 4),
      "needing": round(self.needing, 4),
    }


def compare(
  before: Tokenizer,
  after: Tokenizer,
  kept: Int[np.ndarray, "V"],
  texts: Sequence[str],
  labels: Sequence[str] = (),
) -> tuple[Cut, list[Cut]]:
  """How all texts are cut, and those of each label, the worst first.

  Args:
    before: the larger vocabulary.
    after: the smaller one.
    kept: the ids of its pieces in the larger one.
    texts: at least one.
    labels: of each text; (): of none, and then no label has a `Cut`.
  """
  groups: dict[str, list[int]] = {}
  for n in range(len(texts)):
    groups.setdefault(labels[n] if labels else "", []).append(n)
  most = max(_LEAST, _SAMPLE // len(groups))
  found = {}
  for label, rows in groups.items():
    few = rows[:: -(-len(rows) // most)]
    sums = _sums(before, after, kept, [texts[n] for n in few])
    found[label] = sums * (len(rows) / len(few))
  parts = [_cut(label, found[label], len(groups[label])) for label in found]
  whole = _cut("", np.sum(list(found.values()), axis=0), len(texts))
  return whole, sorted(parts, key=lambda x: x.share) if labels else []


def _cut(label: str, sums: np.ndarray, texts: int) -> Cut:
  same, total, made, in_bytes, needing = sums.tolist()
  return Cut(
    label,
    texts,
    same / max(total, 1),
    made / max(total, 1),
    in_bytes / max(made, 1),
    needing / texts,
  )


def _sums(
  before: Tokenizer,
  after: Tokenizer,
  kept: Int[np.ndarray, "V"],
  texts: Sequence[str],
) -> np.ndarray:
  """Tokens cut as before, tokens before and now, of a byte, texts needing more.

  They are counted over the texts: five numbers.
  """
  sizes = _sizes(before), _sizes(after)
  is_kept = np.isin(np.arange(before.vocab_size), kept)
  is_byte = after.is_byte
  sums = np.zeros(5)
  for start in range(0, len(texts), _BATCH):
    batch = texts[start : start + _BATCH]
    rows = before.encode_batch(batch, NO_LIMIT)[0]
    others = after.encode_batch(batch, NO_LIMIT)[0]
    ids, more = _inside(rows), _inside(others)
    same = np.isin(_places(rows, sizes[0]), _places(others, sizes[1]))
    needing = sum(not is_kept[row].all() for row in rows)
    sums += (same.sum(), len(ids), len(more), is_byte[more].sum(), needing)
  return sums


def _inside(rows: Sequence[Int[np.ndarray, "_"]]) -> Int[np.ndarray, "_"]:
  """The ids of all texts, without those at their ends."""
  return np.concatenate([row[1:-1] for row in rows])


def _places(
  rows: Sequence[Int[np.ndarray, "_"]], sizes: Int[np.ndarray, "V"]
) -> Int[np.ndarray, "_"]:
  """A number for each token: its text, its first byte and its size."""
  size = sizes[_inside(rows)]
  counts = np.array([len(row) - 2 for row in rows])
  text = np.repeat(np.arange(len(rows)), counts)
  starts = np.cumsum(size) - size
  firsts = np.concatenate([[0], np.cumsum(np.bincount(text, size, len(rows)))])
  inside = starts - firsts[text].astype(np.int64)
  return (text << _OF_TEXT) + (inside << _OF_PLACE) + size


def _sizes(tokenizer: Tokenizer) -> Int[np.ndarray, "V"]:
  """Bytes of text for which each piece stands, a space as it is written."""
  size = lambda piece: (
    1 if re.fullmatch(r"<0x[0-9A-F]{2}>", piece) else len(piece.encode())
  )
  return np.array([size(piece) for piece in tokenizer.pieces])
