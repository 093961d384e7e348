"""Read the tokenizer of a folder: all its files, compared with each other.

Where both are there, transformers (and sentence-transformers with it) reads
tokenizer.json and leaves tokenizer.model aside. So does this module, which says
in what they differ.
"""

import contextlib
import gc
import itertools
import pathlib
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple

from embeddinggemma.checkpoint import TOKENIZER_FILE
from embeddinggemma.convert import folder as folders
from embeddinggemma.convert import sentencepiece_model
from embeddinggemma.convert.read import (
  tokenizer_ends,
  tokenizer_json,
  tokenizer_settings,
)
from embeddinggemma.convert.read.tokenizer_json import Made
from embeddinggemma.convert.read.tokenizer_settings import (
  CONFIG,
  TOKENS,
  Settings,
)
from embeddinggemma.convert.sentencepiece_model import Piece
from embeddinggemma.data.sentencepiece_file import (
  CONTROL,
  NORMAL,
  UNKNOWN,
  USER_DEFINED,
)
from embeddinggemma.data.tokenizer import BOS, EOS
from embeddinggemma.types import BadInput

_SHOWN = 3  # pieces that a note names


class Read(NamedTuple):
  """The tokenizer of a folder."""

  model: bytes  # a SentencePiece model
  source: str  # the name of the file that decides
  warned: tuple[str, ...] = ()  # of what gives other ids elsewhere
  aside: tuple[str, ...] = ()  # what is left out, and why that changes nothing


def roles(source: str) -> dict[str, str]:
  """File -> what was read from it, of those that a folder may have.

  `source` is the file that decides, as `read` says.
  """
  said = {
    TOKENIZER_FILE: f"compared with {TOKENS}",
    TOKENS: f"compared with {TOKENIZER_FILE}: the same ids",
    **dict.fromkeys(tokenizer_settings.FILES, "BOS, EOS and added tokens"),
  }
  return said | ({source: "the pieces"} if source else {})


def read(folder: pathlib.Path, rows: int, ends: bool = True) -> Read:
  """The tokenizer of a folder, by all files that say something of it.

  Args:
    folder: of transformers, or of sentence-transformers' first module.
    rows: of the embedding table.
    ends: whether texts must get BOS and EOS, as an EmbeddingGemma's do.

  Raises:
    BadInput: there is none, or a file is not whole or not of Gemma's kind, or
      texts get other ids than BOS, pieces, EOS, or lose their beginning.
  """
  settings = tokenizer_settings.read(folder)
  if not folders.has(folder, TOKENS):
    return _of_model(settings, rows, ends)
  with _uncollected():
    return _of_tokens(settings, rows, ends)


@contextlib.contextmanager
def _uncollected() -> Iterator[None]:
  """Keep the collector of cycles away from millions of values without one.

  It would take a third of the time that a file of 262,144 pieces is read in.
  """
  runs = gc.isenabled()
  gc.disable()
  try:
    yield
  finally:
    if runs:
      gc.enable()


def _of_tokens(settings: Settings, rows: int, ends: bool) -> Read:
  """The tokenizer of a folder with tokenizer.json."""
  folder = settings.folder
  tree = folders.read_json(folder, TOKENS)
  if ends:
    tokenizer_ends.check_processor(tree.get("post_processor"), folder / TOKENS)
  made = tokenizer_json.read(tree, settings, rows, folder / TOKENS)
  warned, aside = list(made.warned), list(made.aside)
  if ends:
    _check_side(settings, tree)
    aside += tokenizer_ends.unread_flags(settings)
  model = None
  if folders.has(folder, TOKENIZER_FILE):
    model = folders.inside(folder, TOKENIZER_FILE).read_bytes()
    differences = _differences(made, model)
    if differences:
      model = None
      warned.append(
        f"{TOKENIZER_FILE} is left aside, as transformers does, and differs from"
        f" {TOKENS}: {'; '.join(differences)}"
      )
  source = TOKENIZER_FILE if model else TOKENS
  model = model or sentencepiece_model.serialise(made.model)
  return Read(model, source, tuple(warned), tuple(aside))


def _of_model(settings: Settings, rows: int, ends: bool) -> Read:
  """The tokenizer of a folder without tokenizer.json."""
  path = folders.tokenizer_model(settings.folder)
  model, warned = path.read_bytes(), []
  if path.parent != settings.folder:
    warned.append(f"{path} is read: {settings.folder.name} has no tokenizer")
  if ends:
    _check_side(settings, {})
    for (key, name), value in zip(
      tokenizer_ends.FLAGS.items(), settings.adds, strict=True
    ):
      if value is False:
        raise tokenizer_ends.not_added(settings.folder, key, value)
      if value is None:
        warned.append(
          f"{CONFIG} has no {key}, without which transformers makes no {name}"
          f" of {TOKENIZER_FILE}; here texts have BOS and EOS"
        )
  pieces = sentencepiece_model.parse(model).pieces
  if ends:
    warned += _long_runs(pieces)
  _check_named(settings, pieces, rows, ends)
  more, aside = _appended(pieces, settings, rows)
  if more:
    whole = sentencepiece_model.parse(model)._replace(pieces=[*pieces, *more])
    model = sentencepiece_model.serialise(whole)
    warned.append(
      f"{TOKENIZER_FILE} lacks {_names([p.text for p in more])}, which the"
      " files beside it add; texts are searched for them"
    )
  return Read(model, TOKENIZER_FILE, tuple(warned), tuple(aside))


def _long_runs(pieces: Sequence[Piece]) -> list[str]:
  """A warning if the model finds runs of spaces, which transformers merges."""
  runs = [p.text for p in pieces if p.type == USER_DEFINED]
  longest = max((len(x) for x in runs if not x.strip("\u2581")), default=0)
  if not longest:
    return []
  return [
    f"without {TOKENS}, transformers 5 makes one of {TOKENIZER_FILE}, which cuts"
    f" runs of more than {longest} spaces elsewhere than is done here"
  ]


def _check_named(
  settings: Settings, pieces: Sequence[Piece], rows: int, ends: bool
) -> None:
  """Raise BadInput for special tokens that are not those of the model.

  Without tokenizer.json, transformers makes a tokenizer of both, and each
  version another one.
  """
  own = {p.text for p in pieces if p.type in (CONTROL, USER_DEFINED, UNKNOWN)}
  listed = {one.text for one in (settings.listed or {}).values()}
  own |= listed | settings.legacy.keys()
  for key, number in {"bos_token": BOS, "eos_token": EOS}.items():
    if (
      ends
      and settings.ends.get(key, pieces[number].text) != pieces[number].text
    ):
      raise BadInput(
        f"{settings.folder}: {key} is {settings.ends[key]!r}, the piece"
        f" {number} of {TOKENIZER_FILE} {pieces[number].text!r}; write that"
      )
  known = {p.text for p in pieces}
  for text, who in settings.named.items():
    if who and text not in own and (text in known or len(pieces) < rows):
      raise BadInput(
        f"{settings.folder}: {who} names {text!r}, which {TOKENIZER_FILE} does"
        f" not find in a text; {tokenizer_settings.SAVE_AGAIN}"
      )
  split = {p.text for p in pieces if p.type == USER_DEFINED} & settings.marked
  if settings.splits and split:
    raise BadInput(
      f"{settings.folder}: split_special_tokens is true, and {min(split)!r} a"
      f" special token that {TOKENIZER_FILE} finds in a text;"
      f" {tokenizer_settings.SAVE_AGAIN}"
    )
  if settings.lists:
    raise BadInput(
      f"{settings.folder}: {settings.lists} is read in several ways without"
      f" {TOKENS}; {tokenizer_settings.SAVE_AGAIN}"
    )


def _appended(
  own: Sequence[Piece], settings: Settings, rows: int
) -> tuple[list[Piece], list[str]]:
  """(pieces that other files add behind the model's, what is left out)."""
  listed = settings.listed or {}
  given = {n: text for text, n in settings.legacy.items()}
  given |= {n: one.text for n, one in listed.items()}
  found, aside = [], []
  for number, text in sorted(given.items()):
    name = text.replace(" ", "\u2581")
    size = len(own) + len(found)
    strips = number in listed and listed[number].strips
    if number < len(own) and name == own[number].text:
      continue
    if number >= rows and size >= rows:
      aside.append(tokenizer_json.beyond(text, number))
    elif number != size or strips:
      raise BadInput(
        f"{settings.folder}: {text!r} is added as {number}, which does not fit"
        f" the {len(own)} pieces of {TOKENIZER_FILE};"
        f" {tokenizer_settings.SAVE_AGAIN}"
      )
    else:
      special = number in listed and listed[number].special
      hidden = special and settings.splits
      found.append(Piece(name, 0.0, CONTROL if hidden else USER_DEFINED))
  return found, aside


def _check_side(settings: Settings, tree: Mapping[str, Any]) -> None:
  """Raise BadInput unless long texts lose their ends.

  Where the settings say nothing, transformers asks tokenizer.json.
  """
  name, side = f"{CONFIG}: truncation_side", settings.cut
  cut = tree.get("truncation")
  if not side and isinstance(cut, Mapping):
    name, side = f"{TOKENS}: truncation: direction", cut.get("direction")
  if str(side or "right").lower() != "right":
    raise BadInput(
      f"{settings.folder / name} is {side!r}, which is not supported: long texts"
      " lose their end here; write 'right'"
    )


def _differences(made: Made, model: bytes) -> list[str]:
  """In what a tokenizer.model differs from tokenizer.json, in words."""
  try:
    theirs = sentencepiece_model.parse(model)
  except BadInput:
    return ["it is no SentencePiece model of Gemma's kind"]
  ours, other = made.model.pieces, theirs.pieces
  pairs = list(zip(ours, other))
  texts = [n for n, (a, b) in enumerate(pairs) if a.text != b.text]
  types = [a.text for a, b in pairs if a.text == b.text and a.type != b.type]
  merged = [n for n in made.merged if n < len(other)]
  scores = [other[n].score for n in merged if other[n].type == NORMAL]
  ordered = all(a > b for a, b in itertools.pairwise(scores))
  more = [[p.text for p in rest[len(pairs) :]] for rest in (ours, other)]
  return [
    *([f"it lacks {_names(more[0])}"] if more[0] else []),
    *([f"it has {_names(more[1])} besides"] if more[1] else []),
    *([_changed(pairs, texts)] if texts else []),
    *([f"it finds {_names(types)} otherwise in a text"] if types else []),
    *([] if ordered or texts else ["it merges pieces in another order"]),
    *(
      ["it treats characters or spaces otherwise"]
      if theirs._replace(pieces=[]) != made.model._replace(pieces=[])
      else []
    ),
  ]


def _changed(
  common: Sequence[tuple[Piece, Piece]], numbers: Sequence[int]
) -> str:
  """The first piece that differs, and how many do, for a note."""
  ours, other = common[numbers[0]]
  are = "piece is another" if len(numbers) == 1 else "pieces are others"
  return (
    f"{len(numbers)} {are} (first id {numbers[0]}: {other.text!r}, not"
    f" {ours.text!r})"
  )


def _names(texts: Sequence[str]) -> str:
  """The first of some texts, and how many there are, for a note."""
  more = len(texts) - _SHOWN
  shown = ", ".join(repr(text) for text in texts[:_SHOWN])
  return f"{shown} and {more} more" if more > 0 else shown
