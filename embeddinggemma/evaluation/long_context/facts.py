"""Short facts that are in no text, and questions that ask for them.

A fact is about one person. Several facts are about the same person and many are
of the same kind, so that neither the name nor the kind alone finds the
document. Question and fact share the name and hardly another word (as in
NoLiMa, arXiv 2502.05167).
"""

from typing import NamedTuple

import numpy as np

_FIRST = (
  *("Amara", "Bjorn", "Chiara", "Dmitri", "Elif", "Farid", "Greta", "Hamid"),
  *("Ines", "Jiro", "Katya", "Leandro", "Mirela", "Nadim", "Oona", "Paulo"),
  *("Quinn", "Renata", "Sunil", "Tamsin", "Ugo", "Valeria", "Wanda", "Yusuf"),
)
_LAST = (
  *("Adeyemi", "Bergstrom", "Castellani", "Dubrovsky", "Erdogmus", "Farooqi"),
  *("Grunwald", "Hashimi", "Ibarra", "Kanazawa", "Lermontov", "Monteiro"),
  *("Nistor", "Okafor", "Pesonen", "Quiroga", "Rautio", "Subramanian"),
  *("Thornbury", "Umberti", "Vasquez", "Wieczorek", "Yilmaz", "Zanetti"),
)
# A statement, the question that it answers, and what may stand in its gap.
_KINDS = (
  (
    "{name} was born in {}.",
    "What is the birthplace of {name}?",
    ("Tromso", "Valparaiso", "Kandy", "Bergamo", "Antalya", "Mombasa"),
  ),
  (
    "{name} hides the spare key of the house under {}.",
    "How could somebody get into the home of {name}?",
    ("a flowerpot", "the doormat", "a loose brick", "the old bench"),
  ),
  (
    "{name} must not eat {} because of an allergy.",
    "Which food is dangerous for {name}?",
    ("hazelnuts", "shellfish", "celery", "mustard", "sesame", "peaches"),
  ),
  (
    "{name} learned to play the {} as a child.",
    "Which musical instrument does {name} know?",
    ("cello", "accordion", "oboe", "mandolin", "trombone", "harp"),
  ),
  (
    "{name} goes to the office every day on a {}.",
    "By what means does {name} commute?",
    ("red tandem", "steam ferry", "rented scooter", "night tram"),
  ),
  (
    "{name} once received first prize for {}.",
    "What award did {name} win?",
    ("a marzipan castle", "the tallest sunflower", "a poem on fog"),
  ),
)
MOST = len(_FIRST) * len(_LAST) * len(_KINDS)


class Fact(NamedTuple):
  """A sentence that a document holds, and the question that asks for it."""

  statement: str
  question: str


def make(count: int, rng: np.random.Generator) -> list[Fact]:
  """Different facts, at most MOST; those about one person stand together.

  No first and no last name is of two people before there are more people than
  names.
  """
  firsts, lasts = rng.permutation(_FIRST), rng.permutation(_LAST)
  found = []
  for number in range(count):
    person, kind = divmod(number, len(_KINDS))
    turn, place = divmod(person, len(firsts))
    name = f"{firsts[place]} {lasts[(place + turn) % len(lasts)]}"
    statement, question, values = _KINDS[kind]
    value = values[int(rng.integers(len(values)))]
    found.append(
      Fact(statement.format(value, name=name), question.format(name=name))
    )
  return found
