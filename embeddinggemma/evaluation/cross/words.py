"""The words of a passage, as XOR-Retrieve's script counts and matches them.

They are those of NLTK's `word_tokenize`. It splits sentences by a model,
`punkt_tab`, that is no part of the package; where that is not installed, the
same algorithm runs with the abbreviations below, and notes of scores say so.
"""

import functools
from collections.abc import Callable
from typing import NamedTuple

# Common abbreviations after which a period ends no sentence to NLTK's model;
# its algorithm knows initials by itself.
ABBREVIATIONS = frozenset(
  """a.d a.m adm aug ave bros c co col corp d d.c dec dr feb fri ft gen inc jan jr
  lt ltd maj messrs mr mrs ms n.j n.y nov oct p p.m ph.d prof rep reps sen sept sr
  st tues u.k u.n u.s u.s.a v va vs wash wed yr
  """.split()
)


class Words(NamedTuple):
  """How texts are split into words."""

  split: Callable[[str], list[str]]
  as_published: bool  # whether sentences are split by NLTK's own model


@functools.cache
def words() -> Words:
  """NLTK's words: by its own model of sentences if that is installed."""
  from nltk.tokenize import word_tokenize
  from nltk.tokenize.destructive import NLTKWordTokenizer
  from nltk.tokenize.punkt import PunktParameters, PunktSentenceTokenizer

  try:
    word_tokenize("One. Two.")
  except LookupError:
    parameters = PunktParameters()
    parameters.abbrev_types = set(ABBREVIATIONS)
    sentences, within = PunktSentenceTokenizer(parameters), NLTKWordTokenizer()
    return Words(
      lambda text: [
        word
        for sentence in sentences.tokenize(text)
        for word in within.tokenize(sentence)
      ],
      False,
    )
  return Words(word_tokenize, True)
