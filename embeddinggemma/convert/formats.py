"""The export formats; FORMATS is their table.

It imports nothing heavy, since the command line's help is made from it. What a
format does is in its module of write/, which is imported on use; a test
compares the two.
"""

import importlib
from collections.abc import Mapping
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
  from embeddinggemma.convert.write.exporting import Format

FLOATS = ("float32", "bfloat16")


class Offer(NamedTuple):
  """What is known of a format before its module is imported."""

  module: str  # of write/, which has it as FORMAT
  dtypes: tuple[str, ...]  # types in which it can store weights
  of: str = ""  # the program that reads it, if the name does not say


FORMATS: Mapping[str, Offer] = {
  "sentence-transformers": Offer("sentence_transformers", FLOATS),
  "gguf": Offer("gguf", (*FLOATS, "q8_0", "q4_0", "mixed"), "llama.cpp"),
}


def opened(name: str) -> "Format":
  """The Format of a name of FORMATS; imports its module."""
  module = f"{__package__}.write.{FORMATS[name].module}"
  return importlib.import_module(module).FORMAT


def names() -> str:
  """All names of formats, for the help of a flag."""
  return " or ".join(
    f"{name} ({offer.of})" if offer.of else name
    for name, offer in FORMATS.items()
  )


def programs() -> str:
  """All programs that read the formats, for the help of a verb."""
  return " or ".join(offer.of or name for name, offer in FORMATS.items())


def dtypes() -> str:
  """All types of weights, for a flag's help: first those of every format."""
  offers = FORMATS.items()
  common = [
    dtype for dtype in FLOATS if all(dtype in o.dtypes for _, o in offers)
  ]
  more = {
    name: [dtype for dtype in offer.dtypes if dtype not in common]
    for name, offer in offers
  }
  own = [f"for {name} also {', '.join(m)}" for name, m in more.items() if m]
  return "; ".join([", ".join(common), *own])
