"""The words of a passage, as XOR-Retrieve's script counts and matches them.

They are those of NLTK's `word_tokenize`. It splits sentences by a model,
`punkt_tab`, that is no part of the package; where that is not installed, the
same algorithm runs with the abbreviations below, and notes of scores say so.
"""

import functools
from collections.abc import Callable
from typing import NamedTuple

# After which a period ends no sentence; single letters are known to Punkt.
ABBREVIATIONS = frozenset(
  """adm al apr approx aug ave b.c bros ca capt cf co col corp dec dept dr e.g
  ed eds est etc feb fig fr fri ft gen gov hon i.e inc jan jr lt ltd maj messrs
  mon mr mrs ms mt no nov oct op p ph.d pp pres prof rep rev sat sen sept sgt sr
  st sun thu thur tue tues u.k u.n u.s u.s.a vol vols vs wed a.d a.m d.c p.m
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
