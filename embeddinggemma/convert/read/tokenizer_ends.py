"""Whether a text gets BOS and EOS, by the ids that come out.

transformers 5 has tokenizer.json put them around a text. Version 4 reads two
flags of tokenizer_config.json, and 5 does where there is no tokenizer.json.
"""

import json
import pathlib
from typing import Any

import tokenizers

from embeddinggemma.convert import folder as folders
from embeddinggemma.convert.read import tokenizer_settings
from embeddinggemma.convert.read.tokenizer_settings import (
  CONFIG,
  TOKENS,
  Settings,
)
from embeddinggemma.data.tokenizer import BOS, EOS
from embeddinggemma.types import BadInput

FLAGS = {"add_bos_token": "BOS", "add_eos_token": "EOS"}
_PIECE = 4  # an id that stands for a text's pieces, to see what is put around


def check(folder: pathlib.Path) -> None:
  """Raise BadInput unless transformers puts BOS and EOS around a text."""
  if folders.has(folder, TOKENS):
    tree = folders.read_json(folder, TOKENS)
    check_processor(tree.get("post_processor"), folder / TOKENS)
    return
  settings = tokenizer_settings.read(folder)
  for key, value in zip(FLAGS, settings.adds, strict=True):
    if value is not True:
      raise not_added(folder, key, value)


def not_added(folder: pathlib.Path, key: str, value: Any) -> BadInput:
  """The error for a flag that leaves BOS or EOS out."""
  return BadInput(
    f"{folder / CONFIG}: {key}={value} is not supported; EmbeddingGemma's texts"
    " have BOS and EOS: set it to true"
  )


def check_processor(processor: Any, where: pathlib.Path) -> None:
  """Raise BadInput unless the post-processor puts BOS and EOS around a text.

  It is run, since there are several kinds, on a text of one piece.
  """
  tree = {
    "version": "1.0",
    "truncation": None,
    "padding": None,
    "added_tokens": [],
    "normalizer": None,
    "pre_tokenizer": None,
    "post_processor": processor,
    "decoder": None,
    "model": {"type": "BPE", "vocab": {"x": _PIECE}, "merges": []},
  }
  try:
    _check_template(processor)
    ids = tokenizers.Tokenizer.from_str(json.dumps(tree)).encode("x").ids
  except Exception as error:  # the library has no exceptions of its own
    reason = (str(error) or repr(error)).splitlines()[0]
    raise BadInput(
      f"{where}: its post_processor cannot be read: {reason};"
      f" {tokenizer_settings.SAVE_AGAIN}"
    ) from None
  if ids == [BOS, _PIECE, EOS]:
    return
  names = {BOS: "BOS", EOS: "EOS", _PIECE: "pieces"}
  shown = " ".join(names.get(number, str(number)) for number in ids)
  raise BadInput(
    f"{where}: by its post_processor a text is read as '{shown}', by an"
    " EmbeddingGemma as 'BOS pieces EOS'; set add_bos_token and add_eos_token"
    " of the tokenizer to true, with transformers, and save it there"
  )


def _check_template(processor: Any) -> None:
  """Raise KeyError for a token that a template uses and does not describe.

  The library would panic, which is no exception that a program may catch.
  """
  if not isinstance(processor, dict):
    return
  for step in processor.get("processors") or ():
    _check_template(step)
  known = processor.get("special_tokens") or {}
  for part in (
    *(processor.get("single") or ()),
    *(processor.get("pair") or ()),
  ):
    special = part.get("SpecialToken")
    if special and special["id"] not in known:
      raise KeyError(special["id"])


def unread_flags(settings: Settings) -> list[str]:
  """What transformers 4 makes of settings that are not read here."""
  found = []
  for (key, name), value in zip(FLAGS.items(), settings.adds, strict=True):
    # Version 4 adds BOS unless told not to, and EOS if told to.
    drops = value is False or (value is None and name == "EOS")
    if drops and settings.gemma:
      said = f"has no {key}" if value is None else f"says {key}={value}"
      found.append(
        f"{CONFIG} {said}, so transformers 4 makes no {name}; version 5 reads"
        f" {TOKENS} instead, as is done here, and that has it"
      )
  return found
