"""How long a text may be: the one rule for three files that say it.

It is the rule of sentence-transformers 6. What sentence_bert_config.json says
counts as it stands. Else it is the model_max_length of tokenizer_config.json,
or the number of positions of config.json if that is less.
"""

import pathlib
from collections.abc import Mapping
from typing import Any, NamedTuple

from embeddinggemma.convert import folder as folders
from embeddinggemma.types import BadInput

POSITIONS = "max_position_embeddings"
_TOKENIZER = "tokenizer_config.json"
_LEAST = 4  # BOS, EOS and two more
_MOST = 2**17  # the positions of the largest Gemma 3
_NO_LIMIT = 1e20  # from here on, transformers cuts nothing


class Length(NamedTuple):
  """The longest text in tokens, and who says so."""

  tokens: int
  file: str  # that won
  what: str  # a row of the table of what was read
  warned: tuple[str, ...] = ()


def of_folder(
  folder: pathlib.Path, settings: Mapping[str, Any], file: str, positions: int
) -> Length:
  """The longest text that a folder's model reads.

  Args:
    folder: of the Transformer.
    settings: the content of sentence_bert_config.json, or {}.
    file: its name.
    positions: of config.json.

  Raises:
    BadInput: a length is no whole number, or fewer than 4 tokens.
  """
  tokenizer: Mapping[str, Any] = {}
  if folders.has(folder, _TOKENIZER):
    tokenizer = folders.read_json(folder, _TOKENIZER)
  key = "model_max_length" if "model_max_length" in tokenizer else "max_len"
  own = _tokens(settings.get("max_seq_length"), "max_seq_length", folder / file)
  theirs = _tokens(tokenizer.get(key), key, folder / _TOKENIZER)
  others = {
    f"{file}: max_seq_length": own,
    f"{_TOKENIZER}: {key}": theirs,
    f"config.json: {POSITIONS}": positions,
  }
  if own is not None:
    name, tokens = next(iter(others)), own
  elif theirs is not None and theirs <= positions:
    name, tokens = list(others)[1], theirs
  else:
    name, tokens = list(others)[2], positions
  if tokens > _MOST:
    raise BadInput(
      f"{folder / name.partition(':')[0]}: {name.partition(': ')[2]}={tokens}"
      f" tokens are more than any Gemma reads; write {positions} or less there"
    )
  if tokens < _LEAST:
    raise BadInput(
      f"{folder / name.partition(':')[0]}: {name.partition(': ')[2]}={tokens}"
      f" leaves no room for a text; write {_LEAST} or more there"
    )
  found = _length(name, tokens, others)
  if own is None and settings.get("max_seq_length") is not None:
    endless = (
      f"{folder / file}: max_seq_length={settings['max_seq_length']} sets no"
      f" limit; texts are cut to {tokens} tokens here, which"
      " sentence-transformers does not do"
    )
    return found._replace(warned=(*found.warned, endless))
  return found


def _length(name: str, tokens: int, others: Mapping[str, int | None]) -> Length:
  """The row of the table, with what the other files say if it differs."""
  file, _, key = name.partition(": ")
  differ = [
    f"{other} says {value:,}"
    for other, value in others.items()
    if value is not None and value != tokens and other != name
  ]
  said = f"; {', '.join(differ)}" if differ else ""
  what = f"texts of at most {tokens:,} tokens ({key}{said})"
  positions = others[f"config.json: {POSITIONS}"]
  if positions is None or tokens <= positions:
    return Length(tokens, file, what)
  beyond = (
    f"{name}={tokens} is beyond the {positions} positions that config.json"
    f" names ({POSITIONS}); texts of so many tokens are read, as"
    " sentence-transformers reads them, whatever the model was trained for"
  )
  return Length(tokens, file, what, (beyond,))


def _tokens(value: Any, key: str, where: pathlib.Path) -> int | None:
  """A length in tokens; None where there is none, or where it is endless."""
  number = isinstance(value, int | float) and not isinstance(value, bool)
  if value is None or (number and value >= _NO_LIMIT):
    return None
  if type(value) is not int:
    raise BadInput(
      f"{where}: {key}={value!r} is not a whole number of tokens; write one, or"
      " null"
    )
  return value
