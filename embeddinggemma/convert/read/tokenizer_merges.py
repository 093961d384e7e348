"""The merges of a tokenizer.json, and whether scores of pieces can say them.

SentencePiece merges any two neighbours whose joint text is a piece, that of the
highest score first. The file lists the pairs instead, by rank.
"""

import itertools
import operator
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple

from embeddinggemma.data.sentencepiece_file import CONTROL, NORMAL
from embeddinggemma.data.tokenizer import BOS, EOS, PAD, UNK
from embeddinggemma.types import BadInput

_OWN = {PAD, EOS, BOS, UNK}
FIX = (
  "take the tokenizer.json of the model that this one was made from (the"
  " published Gemma repositories hold it)"
)


class Merges(NamedTuple):
  """The pairs of pieces that are merged."""

  pairs: Sequence[tuple[str, str]]
  results: Sequence[str]  # the joint text of each pair
  reached: frozenset[str]  # characters, and the pieces that pairs make


def read(
  model: Mapping[str, Any], vocabulary: Mapping[str, int], where: Any
) -> Merges:
  """The pairs that are merged, without those whose parts no text reaches."""
  rows = model.get("merges")
  fault = BadInput(f"{where}: its merges are no list of pairs; {FIX}")
  if not isinstance(rows, list):
    raise fault
  if rows and isinstance(rows[0], str):
    rows = [str(row).split(" ") for row in rows]
  try:
    pairs = [(a, b) for a, b in rows]
    results = [a + b for a, b in pairs]
    made = set(results)
  except (TypeError, ValueError):
    raise fault from None
  if unknown := made - vocabulary.keys():
    raise BadInput(
      f"{where}: its merges make {min(map(str, unknown))!r}, which is no piece;"
      f" {FIX}"
    )
  characters = {text for text in vocabulary if len(text) == 1}
  while True:
    reached = characters.union(results)
    kept = [a in reached and b in reached for a, b in pairs]
    if all(kept):
      return Merges(pairs, results, frozenset(reached))
    dropped = itertools.compress(pairs, map(operator.not_, kept))
    parts = set(itertools.chain.from_iterable(dropped))
    if unknown := parts - vocabulary.keys():
      raise BadInput(
        f"{where}: its merges have {min(unknown)!r}, which is no piece; {FIX}"
      )
    pairs = list(itertools.compress(pairs, kept))
    results = list(itertools.compress(results, kept))


def splits(
  text: str, reached: frozenset[str], unknown: bool = False
) -> Iterator[tuple[str, str]]:
  """The ways to make a text of two reached pieces.

  With `unknown`, any single character counts as one.
  """
  for at in range(1, len(text)):
    left, right = text[:at], text[at:]
    if (left in reached or (unknown and len(left) == 1)) and (
      right in reached or (unknown and len(right) == 1)
    ):
      yield left, right


def order_of(
  merges: Merges,
  texts: Mapping[str, int],
  types: Mapping[int, int],
  where: Any,
) -> list[int]:
  """The ids of normal pieces in the order in which merges make them.

  BadInput if the merges of one stand among those of another, which no score of
  a piece can say.
  """
  runs = [texts[text] for text, _ in itertools.groupby(merges.results)]
  own = [number for number in runs if types[number] == NORMAL]
  own = [number for number, _ in itertools.groupby(own)]
  order = list(dict.fromkeys(own))
  if len(own) > len(order):
    again = next(b for a, b in zip([*order, None], own) if a != b)
    text = next(text for text, number in texts.items() if number == again)
    raise BadInput(
      f"{where}: the merges of {text!r} stand among those of other pieces, which"
      f" SentencePiece cannot express; {FIX}"
    )
  return order


def check_complete(merges: Merges, where: Any) -> None:
  """Raise BadInput for a pair that SentencePiece would merge and they do not."""
  listed, reached = set(merges.pairs), merges.reached
  texts = set(merges.results)
  count = sum(
    text[:at] in reached and text[at:] in reached
    for text in texts
    for at in range(1, len(text))
  )
  if count == len(listed):
    return
  for text in sorted(texts):
    for pair in splits(text, reached):
      if pair not in listed:
        raise BadInput(
          f"{where}: {pair[0]!r} and {pair[1]!r} are not merged, though"
          f" {text!r} is a piece, which SentencePiece cannot express; {FIX}"
        )


def check_reached(
  texts: Mapping[str, int],
  types: Mapping[int, int],
  merges: Merges,
  where: Any,
) -> None:
  """Raise BadInput if `ignore_merges` gives a text a piece of its own."""
  for text in sorted(texts.keys() - merges.reached):
    number = texts[text]
    if number not in _OWN and types[number] in (NORMAL, CONTROL):
      raise BadInput(
        f"{where}: ignore_merges is true, and no merge makes the piece"
        f" {text!r}; set it to false if the model was trained so"
      )
