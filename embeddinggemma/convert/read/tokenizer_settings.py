"""What the files beside tokenizer.json change in the ids that texts get.

transformers reads the tokens that tokenizer.json adds together with those of
tokenizer_config.json, special_tokens_map.json and added_tokens.json, and has a
class of its own for Gemma, which takes some of them from the settings alone.
What is the same in versions 4 and 5, or as 5 has it for a setting that only 4
reads, is followed; what they read differently is refused by name.
"""

import pathlib
from collections.abc import Iterable, Iterator, Mapping
from typing import Any, NamedTuple

from embeddinggemma.convert import folder as folders
from embeddinggemma.data.tokenizer import BOS, EOS, PAD, UNK
from embeddinggemma.types import BadInput

TOKENS, CONFIG = "tokenizer.json", "tokenizer_config.json"
SAVE_AGAIN = (
  "load the tokenizer with transformers and save_pretrained it there, so that"
  " its files agree"
)
_MAP, _ADDED = "special_tokens_map.json", "added_tokens.json"
FILES = (CONFIG, _MAP, _ADDED)  # beside the pieces
_MODULE = "sentence_bert_config.json"
_CLASSES = {  # -> whether transformers 5 builds its class for Gemma
  "GemmaTokenizer": True,
  "GemmaTokenizerFast": True,
  "PreTrainedTokenizerFast": False,
  "TokenizersBackend": False,
}
_MASK = "<mask>"  # a special token of transformers 5's class, unless said else
_LISTS = ("extra_special_tokens", "additional_special_tokens")
_OWN = {PAD, EOS, BOS, UNK}  # their names in a text are not searched for
_MATCHING = ("lstrip", "rstrip", "single_word", "normalized")
# Arguments of sentence-transformers' module that change no id; how many there
# are is for read/lengths.py.
_HARMLESS = {
  "model_max_length",
  "cache_dir",
  "local_files_only",
  "padding",
  "padding_side",
  "return_tensors",
  "revision",
  "token",
  "trust_remote_code",
  "use_fast",
}


class Token(NamedTuple):
  """A token that is found in a text as it stands, before any merge."""

  id: int
  text: str
  special: bool
  normalized: bool  # found after spaces are written U+2581, not before
  strips: bool = False  # takes white space in, or is found as a word alone


class Settings(NamedTuple):
  """What a folder says of its tokenizer, beside tokenizer.json."""

  folder: pathlib.Path
  gemma: bool = True  # transformers 5 builds its class for Gemma
  splits: bool = False  # special tokens in a text are text
  named: Mapping[str, str] = {}  # a token's text -> the file and key naming it
  marked: frozenset[str] = frozenset()  # of them, those that become special
  lists: str = ""  # the key that lists further tokens, if one does
  ends: Mapping[str, str] = {}  # bos_token and eos_token
  listed: Mapping[int, Token] | None = None  # added_tokens_decoder
  legacy: Mapping[str, int] = {}  # added_tokens.json
  adds: tuple[Any, Any] = (None, None)  # add_bos_token, add_eos_token
  cut: str = ""  # where a text that is too long loses tokens, if it is said


def read(folder: pathlib.Path) -> Settings:
  """The settings of a folder; BadInput for one that is not known here."""
  tree = _optional(folder, CONFIG)
  where = folder / CONFIG
  kind = tree.get("tokenizer_class") or "GemmaTokenizer"
  if not isinstance(kind, str) or kind not in _CLASSES:
    raise BadInput(
      f"{where}: tokenizer_class={kind!r} is not supported; a Gemma model's is"
      " 'GemmaTokenizer'"
    )
  versions = tree.get("fast_tokenizer_files") or [TOKENS]
  if versions != [TOKENS]:
    raise BadInput(
      f"{where}: fast_tokenizer_files={versions!r} is not supported; keep the"
      f" file that is meant, as {TOKENS}, and delete the entry"
    )
  check_module(folder)
  listed = _listed(tree.get("added_tokens_decoder"), where)
  more = {} if listed is not None else _optional(folder, _MAP)
  whole = [(CONFIG, tree), (_MAP, more)]
  rows = [row for name, given in whole for row in _named(given, name)]
  if _CLASSES[kind] and "mask_token" not in {**more, **tree}:
    rows.append(("mask_token", _MASK, ""))
  single = [(key, text) for key, text, _ in rows if key not in _LISTS]
  return Settings(
    folder,
    _CLASSES[kind],
    tree.get("split_special_tokens") is True,
    {text: who for _, text, who in reversed(rows)},
    frozenset(text for _, text in single if _CLASSES[kind]),
    next(
      (
        f"{name}: {key}"
        for name, given in whole
        for key in _LISTS
        if isinstance(given.get(key), list)
      ),
      "",
    ),
    {k: text for k, text in single if k in ("bos_token", "eos_token")},
    listed,
    _legacy(folder),
    (tree.get("add_bos_token"), tree.get("add_eos_token")),
    str(tree.get("truncation_side") or "").lower(),
  )


def token(tree: Any, where: Any, number: Any = None) -> Token:
  """The Token of an entry in JSON; `number` where that is not part of it."""
  number = (
    tree.get("id") if number is None and isinstance(tree, dict) else number
  )
  text = tree.get("content") if isinstance(tree, dict) else None
  if type(number) is not int or not isinstance(text, str) or not text:
    raise BadInput(f"{where}: {tree!r} is no added token; {SAVE_AGAIN}")
  special = tree.get("special") is True
  return Token(
    number,
    text,
    special,
    tree.get("normalized", not special) is True,
    any(tree.get(key) is True for key in _MATCHING[:3]),
  )


def tokens(
  given: Iterable[Token],
  vocabulary: Mapping[str, int],
  settings: Settings,
  rows: int,
) -> list[Token]:
  """The tokens that a text is searched for, by what all files say.

  Args:
    given: those that tokenizer.json adds; its ids are known to be right.
    vocabulary: text -> id of the pieces that merges make.
    settings: what the folder says beside it.
    rows: of the embedding table; a token without one is of no use.

  Raises:
    BadInput: the files differ in a token that the table has a row for.
  """
  found = {one.text: one for one in given}
  size = max([*vocabulary.values(), *(one.id for one in found.values())]) + 1
  if settings.listed is not None:
    _check_listed(found, settings, size, rows)
  for text, number in settings.legacy.items():
    known = found[text].id if text in found else None
    if known != number and (text in vocabulary or size < rows):
      said = f"no {text!r}" if known is None else f"{text!r} as {known}"
      raise _differs(settings, f"{_ADDED} has {text!r} as {number}", said)
  for text, who in settings.named.items():
    if text in found:
      special = found[text].special or text in settings.marked
      found[text] = found[text]._replace(special=special)
    elif text in vocabulary:
      found[text] = Token(vocabulary[text], text, True, False)
    elif who and size < rows:
      raise _differs(settings, f"{who} names {text!r}", f"no {text!r}")
  return list(found.values())


def _check_listed(
  found: Mapping[str, Token], settings: Settings, size: int, rows: int
) -> None:
  """Raise BadInput unless added_tokens_decoder has the same tokens."""
  own = {one.id: one for one in found.values()}
  listed = settings.listed or {}
  of_config = f"{CONFIG}: added_tokens_decoder has"
  for number in sorted(own.keys() | listed.keys()):
    if number in _OWN or min(number, size) >= rows:
      continue
    ours, theirs = own.get(number), listed.get(number)
    if theirs is None:
      # Version 5's other class, and version 4, add to those of tokenizer.json.
      if ours is not None and settings.gemma:
        said = f"{of_config} no {ours.text!r}"
        raise _differs(settings, said, f"it as {number}")
      continue
    said = f"{of_config} {theirs.text!r} as {number}"
    if ours is None or ours.text != theirs.text:
      raise _differs(settings, said, repr(ours.text) if ours else "none")
    if not settings.splits:
      theirs = theirs._replace(special=ours.special)
    if ours != theirs:
      raise _differs(settings, said, "it with other flags")


def _differs(settings: Settings, one: str, other: str) -> BadInput:
  return BadInput(
    f"{settings.folder}: {one}, {TOKENS} has {other}; {SAVE_AGAIN}"
  )


def _listed(tree: Any, where: pathlib.Path) -> Mapping[int, Token] | None:
  """Number -> token of added_tokens_decoder; None if there is none."""
  if tree is None:
    return None
  try:
    return {int(n): token(one, where, int(n)) for n, one in tree.items()}
  except (AttributeError, ValueError):
    raise BadInput(
      f"{where}: added_tokens_decoder is no object of tokens by id; {SAVE_AGAIN}"
    ) from None


def _legacy(folder: pathlib.Path) -> Mapping[str, int]:
  """Token -> id of added_tokens.json."""
  found = _optional(folder, _ADDED)
  if any(type(number) is not int or not text for text, number in found.items()):
    raise BadInput(
      f"{folder / _ADDED} is no object of ids by token; {SAVE_AGAIN}"
    )
  return found


def _named(
  tree: Mapping[str, Any], name: str
) -> Iterator[tuple[str, str, str]]:
  """Each special token that a file names: its key, its text, file and key."""
  for key, value in tree.items():
    several = key in (*_LISTS, "model_specific_special_tokens")
    if not several and not key.endswith("_token"):
      continue
    values = (value,)
    if several:
      values = value if isinstance(value, list) else ()
      values = value.values() if isinstance(value, Mapping) else values
      # An object gives each a name of its own.
      key = key if isinstance(value, list) else "model_specific_special_tokens"
    for one in values:
      text = one.get("content") if isinstance(one, Mapping) else one
      if isinstance(text, str) and text:
        yield key, text, f"{name}: {key}"


def check_module(folder: pathlib.Path) -> None:
  """Raise BadInput for arguments that sentence-transformers would give."""
  tree = _optional(folder, _MODULE)
  where = folder / _MODULE
  other = tree.get("tokenizer_name_or_path")
  if other:
    raise BadInput(
      f"{where}: tokenizer_name_or_path={other!r} is another tokenizer; put its"
      " files into the folder and delete the entry"
    )
  sections = {
    key: tree.get(key) for key in ("tokenizer_args", "processor_kwargs")
  }
  more = tree.get("processing_kwargs")
  if isinstance(more, Mapping):
    sections |= {f"processing_kwargs.{k}": v for k, v in more.items()}
  for section, given in sections.items():
    if given and not isinstance(given, Mapping):
      raise BadInput(f"{where}: {section}={given!r} is no object; delete it")
    for key, value in (given or {}).items():
      usual = key == "truncation" and value in (True, "longest_first")
      if key not in _HARMLESS and not usual:
        raise BadInput(
          f"{where}: {section}.{key}={value!r} is not supported; delete it if"
          " the model was trained without"
        )


def _optional(folder: pathlib.Path, name: str) -> Mapping[str, Any]:
  return folders.read_json(folder, name) if folders.has(folder, name) else {}
