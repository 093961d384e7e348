"""Make a SentencePiece model of a tokenizer.json of Gemma's kind.

transformers 5, and what builds on it, writes no tokenizer.model. Its file has
pieces with ids, pairs of pieces that are merged, by rank, and tokens that are
found in a text before. SentencePiece merges any two pieces whose joint text is
a piece, by that piece's score. Both give every text the same ids if the file
lists all pairs that make a piece, piece after piece, which is checked here; so
is all else that SentencePiece cannot express, and refused by name.

One difference remains, of texts that hold U+2581, which stands for a space: the
library finds tokens that have it in such texts only, SentencePiece in others
too. It is in the published folders, and kept.
"""

import collections
import itertools
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, NamedTuple

from embeddinggemma.convert.read import tokenizer_merges, tokenizer_settings
from embeddinggemma.convert.read.tokenizer_merges import FIX, Merges
from embeddinggemma.convert.read.tokenizer_settings import (
  SAVE_AGAIN,
  Settings,
  Token,
)
from embeddinggemma.convert.sentencepiece_model import Piece, SentencePieceModel
from embeddinggemma.data.sentencepiece_file import (
  BYTE,
  CONTROL,
  NORMAL,
  UNKNOWN,
  USER_DEFINED,
)
from embeddinggemma.data.tokenizer import BOS, EOS, PAD, UNK
from embeddinggemma.types import BadInput

_SPACE = "\u2581"
_OWN = {PAD: CONTROL, EOS: CONTROL, BOS: CONTROL, UNK: UNKNOWN}
_BYTES = tuple(f"<0x{n:02X}>" for n in range(256))


class Made(NamedTuple):
  """The model, and what a reader of the folder should know of it."""

  model: SentencePieceModel
  merged: Sequence[int]  # ids of pieces that merges make, the first one first
  warned: tuple[str, ...]  # of what gives other ids elsewhere
  aside: tuple[str, ...]  # what was left out, and why that changes no vector


def read(
  tree: Mapping[str, Any], settings: Settings, rows: int, where: Any
) -> Made:
  """The model of a parsed file.

  Args:
    tree: the content of tokenizer.json.
    settings: what the files beside it say.
    rows: of the embedding table; an added token without one is left out.
    where: the file, for messages.

  Raises:
    BadInput: the file is not whole, or not of Gemma's kind, or says what
      SentencePiece cannot do.
  """
  _check_form(tree, where)
  vocabulary = _vocabulary(tree["model"], where)
  given = _added(tree, vocabulary, where)
  tokens = tokenizer_settings.tokens(given, vocabulary, settings, rows)
  unused = [x for x in tokens if x.id >= rows and x.text not in vocabulary]
  searched = [
    one
    for one in tokens
    if one not in unused
    and one.id not in _OWN
    and not (one.special and settings.splits)
  ]
  merges = tokenizer_merges.read(tree["model"], vocabulary, where)
  types, warned = _types_of_tokens(searched, merges, where)
  texts = dict(vocabulary) | {x.text: x.id for x in given if x.id < rows}
  types = _types(texts, types, merges, where)
  order = tokenizer_merges.order_of(merges, texts, types, where)
  tokenizer_merges.check_complete(merges, where)
  if tree["model"].get("ignore_merges"):
    tokenizer_merges.check_reached(texts, types, merges, where)
  names = {x.id: x.text.replace(" ", _SPACE) for x in searched}
  return Made(
    SentencePieceModel(
      _pieces(texts, names, types, order, where),
      "bpe",
      identity=True,
      dummy_prefix=False,
      remove_extra_spaces=False,
      escape_spaces=True,
    ),
    order,
    tuple(warned),
    tuple(beyond(x.text, x.id) for x in unused),
  )


def beyond(text: str, number: int) -> str:
  """What is said of a token whose id has no row in the table."""
  return (
    f"the token {text!r} has the id {number} and no row of the table: other"
    " programs fail on a text with it, here it is text"
  )


def _check_form(tree: Mapping[str, Any], where: Any) -> None:
  """Raise BadInput unless texts are treated as Gemma's tokenizer does."""
  model = tree.get("model")
  if not isinstance(model, Mapping):
    raise BadInput(f"{where} has no model; {FIX}")
  kind = model.get("type") or ("BPE" if "merges" in model else "none")
  normal, before = tree.get("normalizer"), tree.get("pre_tokenizer")
  faults = {
    f"its model is {kind}, not BPE": kind != "BPE",
    "byte_fallback is not true": model.get("byte_fallback") is not True,
    "dropout makes ids random": bool(model.get("dropout")),
    "a piece in a word differs from one at its end": bool(
      model.get("continuing_subword_prefix") or model.get("end_of_word_suffix")
    ),
    "its normalizer does not write spaces as U+2581, and do nothing else:"
    f" {_named(normal)}": not _writes_spaces(normal),
    f"its pre_tokenizer splits texts: {_named(before)}": not _is_idle(before),
  }
  for fault, found in faults.items():
    if found:
      raise BadInput(f"{where}: {fault}; {FIX}")


def _named(part: Any) -> str:
  """The names of the steps in a part of the file, for a message."""
  if not isinstance(part, Mapping):
    return "none"
  steps = part.get("normalizers") or part.get("pretokenizers") or ()
  inner = ", ".join(_named(step) for step in steps)
  return f"{part.get('type')}({inner})" if inner else str(part.get("type"))


def _is_space(pattern: Any) -> bool:
  return pattern in ({"String": " "}, {"Regex": " "})


def _writes_spaces(part: Any) -> bool:
  """Whether a normaliser replaces spaces by U+2581 and does nothing else."""
  if not isinstance(part, Mapping):
    return False
  if part.get("type") == "Sequence":
    steps = part.get("normalizers") or [None]
    return len(steps) == 1 and _writes_spaces(steps[0])
  replaces = part.get("type") == "Replace" and part.get("content") == _SPACE
  return replaces and _is_space(part.get("pattern"))


def _is_idle(part: Any) -> bool:
  """Whether a pre-tokenizer leaves a text whole that has no space left."""
  if part is None:
    return True
  if not isinstance(part, Mapping):
    return False
  if part.get("type") == "Sequence":
    return all(_is_idle(step) for step in part.get("pretokenizers") or ())
  splits = part.get("type") == "Split" and _is_space(part.get("pattern"))
  return splits and not part.get("invert")


def _vocabulary(model: Mapping[str, Any], where: Any) -> dict[str, int]:
  """Text -> id of the pieces; BadInput unless each has one, from 0 on."""
  found = model.get("vocab")
  if not isinstance(found, dict) or not all(
    type(n) is int for n in found.values()
  ):
    raise BadInput(f"{where}: its vocab is no object of ids by piece; {FIX}")
  missing = [name for name in _BYTES if name not in found]
  if missing:
    raise BadInput(
      f"{where}: the piece {missing[0]!r} is missing, without which some"
      f" characters cannot be written as bytes; {FIX}"
    )
  return found


def _added(
  tree: Mapping[str, Any], vocabulary: Mapping[str, int], where: Any
) -> list[Token]:
  """The tokens that the file adds; BadInput for ids that it cannot give.

  The library numbers those without a piece in their order in the file, from the
  first free id.
  """
  rows = tree.get("added_tokens") or []
  if not isinstance(rows, list):
    raise BadInput(f"{where}: its added_tokens are no list; {FIX}")
  found = [tokenizer_settings.token(row, where) for row in rows]
  for one in found:
    if vocabulary.get(one.text, one.id) != one.id:
      raise BadInput(
        f"{where}: the added token {one.text!r} has the id {one.id}, the piece"
        f" {vocabulary[one.text]}; {SAVE_AGAIN}"
      )
  more = [one.id for one in found if one.text not in vocabulary]
  ids = [*sorted(vocabulary.values()), *more]
  for wanted, number in enumerate(ids):
    if number != wanted:
      kind = "twice" if number < wanted else "after a gap"
      raise BadInput(
        f"{where}: the id {number} comes {kind}, where {wanted} is next;"
        f" {SAVE_AGAIN}"
      )
  return found


def _types_of_tokens(
  tokens: Sequence[Token], merges: Merges, where: Any
) -> tuple[dict[int, int], list[str]]:
  """Id -> type of the tokens that a text is searched for, and warnings.

  The library searches for those that are not `normalized` first, and for the
  others in what remains between them; SentencePiece for all at once, the
  leftmost first and of several there the longest.
  """
  for one in tokens:
    if one.strips:
      raise BadInput(
        f"{where}: the added token {one.text!r} has lstrip, rstrip or"
        " single_word, which is not supported; set them to false if the model"
        " was trained so"
      )
  early = [x.text for x in tokens if not x.normalized and _SPACE not in x.text]
  early = [text.replace(" ", _SPACE) for text in early]
  types, warned = {}, []
  for one in tokens:
    types[one.id] = USER_DEFINED
    if one.normalized and early:
      if _never_found(one, early, where):
        types[one.id] = CONTROL
        warned.append(
          f"the added token {one.text!r} is found in no text, since it holds"
          " another one that is found first"
        )
    elif not one.normalized and _SPACE in one.text:
      types[one.id] = NORMAL if one.text in merges.reached else CONTROL
  runs = [x for x in tokens if not x.normalized and not x.text.strip(_SPACE)]
  others = [
    x.text.replace(" ", _SPACE)
    for x in tokens
    if x not in runs and types[x.id] == USER_DEFINED
  ]
  if _run_first(runs, others, merges, {x.text for x in tokens}):
    types |= {x.id: USER_DEFINED for x in runs}
  return types, warned


def _never_found(one: Token, early: Sequence[str], where: Any) -> bool:
  """Whether a token that is searched for later always holds an earlier one.

  Raises BadInput if an earlier one may begin in it and end behind it.
  """
  text = one.text.replace(" ", _SPACE)
  for other in early:
    if other in text:
      return True
    longest = min(len(text), len(other)) - 1
    if any(text.endswith(other[:n]) for n in range(1, longest + 1)):
      raise BadInput(
        f"{where}: the added token {one.text!r} ends as {other!r} begins, which"
        " is found first; set `normalized` of the former to false, with"
        " transformers, and train with it"
      )
  return False


def _run_first(
  runs: Sequence[Token],
  others: Iterable[str],
  merges: Merges,
  added: set[str],
) -> bool:
  """Whether merges make of n spaces what a search for the longest run finds.

  They do if a run grows from the left, one space at a time, before any other
  merge; then SentencePiece may treat runs as user-defined pieces, which is how
  Gemma's own model has them.
  """
  lengths = sorted(len(x.text) for x in runs)
  if not lengths or lengths != list(range(2, len(lengths) + 2)):
    return False
  if any(text.startswith(_SPACE) for text in others):
    return False
  if any(
    _SPACE * 2 in text and (text.strip(_SPACE) or len(text) > lengths[-1])
    for text in merges.reached
  ):
    return False
  ranks: dict[tuple[str, str], int] = {}
  first = len(merges.pairs)
  for n, (pair, text) in enumerate(zip(merges.pairs, merges.results)):
    if text not in added:
      first = n
      break
    ranks.setdefault(pair, n)
  growth = [ranks.get((_SPACE * (n - 1), _SPACE), first) for n in lengths]
  return growth[0] < first and all(a > b for a, b in itertools.pairwise(growth))


def _types(
  texts: Mapping[str, int],
  types: Mapping[int, int],
  merges: Merges,
  where: Any,
) -> dict[int, int]:
  """Id -> type of all pieces.

  A piece that no merge reaches, though two neighbours of a text may spell it,
  is never the result in the library; nor is a control piece in SentencePiece.
  """
  found = dict.fromkeys(texts.values(), NORMAL)
  for text in texts.keys() - merges.reached:
    if any(tokenizer_merges.splits(text, merges.reached, unknown=True)):
      found[texts[text]] = CONTROL
  for name in _BYTES:
    if texts[name] in types or texts[name] in _OWN:
      raise BadInput(f"{where}: the piece {name!r} is a token as well; {FIX}")
    found[texts[name]] = BYTE
  return found | dict(types) | _OWN


def _pieces(
  texts: Mapping[str, int],
  names: Mapping[int, str],
  types: Mapping[int, int],
  order: Sequence[int],
  where: Any,
) -> list[Piece]:
  """The pieces by id, with scores that give the order of merges.

  Where that is the order of ids, as in Gemma's own model, so are the scores of
  pieces that no merge makes.
  """
  by_id = {n: names.get(n, text) for text, n in texts.items()}
  if len(set(by_id.values())) < len(by_id):
    text, _ = collections.Counter(by_id.values()).most_common(1)[0]
    ids = [n for n, other in by_id.items() if other == text]
    raise BadInput(
      f"{where}: the added token of id {max(ids)} would be the piece {text!r} of"
      f" id {min(ids)} again; give it another text"
    )
  if all(a < b for a, b in itertools.pairwise(order)):
    scores = [-float(n) for n in range(len(by_id))]
  else:
    scores = [-float(len(by_id) + n) for n in range(len(by_id))]
    for rank, n in enumerate(order, 1):
      scores[n] = -float(rank)
  return [
    Piece(by_id[n], score if types[n] == NORMAL else 0.0, types[n])
    for n, score in enumerate(scores)
  ]
