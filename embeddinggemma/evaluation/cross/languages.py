"""The languages of XOR-TyDi and XTREME-UP, and the families that they are of.

The paper describes XTREME-UP's languages as under-represented Indo-European
ones (section 4.1). Five of the twenty are not: three are Dravidian and two
Sino-Tibetan, and the latter have two of the three lowest scores of its table
12. So scores are shown by family.
"""

from collections.abc import Mapping
from typing import NamedTuple

CODE_SWITCHED = "_cs"  # ends the name of a language mixed with English


class Language(NamedTuple):
  """A language of the benchmarks."""

  name: str
  code: str  # ISO 639-3, and the script as ISO 15924 has it
  family: str  # the largest group with a common ancestor (Glottolog)


_AFRO_ASIATIC = "Afro-Asiatic"
_DRAVIDIAN = "Dravidian"
_INDO_EUROPEAN = "Indo-European"
_SINO_TIBETAN = "Sino-Tibetan"

LANGUAGES: Mapping[str, Language] = {
  "ar": Language("Arabic", "ara-Arab", _AFRO_ASIATIC),
  "as": Language("Assamese", "asm-Beng", _INDO_EUROPEAN),
  "bho": Language("Bhojpuri", "bho-Deva", _INDO_EUROPEAN),
  "bn": Language("Bengali", "ben-Beng", _INDO_EUROPEAN),
  "brx": Language("Boro", "brx-Deva", _SINO_TIBETAN),
  "fi": Language("Finnish", "fin-Latn", "Uralic"),
  "gbm": Language("Garhwali", "gbm-Deva", _INDO_EUROPEAN),
  "gom": Language("Konkani", "gom-Deva", _INDO_EUROPEAN),
  "gu": Language("Gujarati", "guj-Gujr", _INDO_EUROPEAN),
  "hi": Language("Hindi", "hin-Deva", _INDO_EUROPEAN),
  "hne": Language("Chhattisgarhi", "hne-Deva", _INDO_EUROPEAN),
  "ja": Language("Japanese", "jpn-Jpan", "Japonic"),
  "kn": Language("Kannada", "kan-Knda", _DRAVIDIAN),
  "ko": Language("Korean", "kor-Hang", "Koreanic"),
  "mai": Language("Maithili", "mai-Deva", _INDO_EUROPEAN),
  "ml": Language("Malayalam", "mal-Mlym", _DRAVIDIAN),
  "mni": Language("Manipuri", "mni-Mtei", _SINO_TIBETAN),
  "mr": Language("Marathi", "mar-Deva", _INDO_EUROPEAN),
  "mwr": Language("Marwari", "mwr-Deva", _INDO_EUROPEAN),
  "or": Language("Odia", "ory-Orya", _INDO_EUROPEAN),
  "pa": Language("Punjabi", "pan-Guru", _INDO_EUROPEAN),
  "ps": Language("Pashto", "pus-Arab", _INDO_EUROPEAN),
  "ru": Language("Russian", "rus-Cyrl", _INDO_EUROPEAN),
  "sa": Language("Sanskrit", "san-Deva", _INDO_EUROPEAN),
  "ta": Language("Tamil", "tam-Taml", _DRAVIDIAN),
  "te": Language("Telugu", "tel-Telu", _DRAVIDIAN),
  "ur": Language("Urdu", "urd-Arab", _INDO_EUROPEAN),
}
FAMILIES = tuple(sorted({each.family for each in LANGUAGES.values()}))


def is_known(name: str) -> bool:
  """Whether it names a language of the table, or one mixed with English."""
  return name.removesuffix(CODE_SWITCHED) in LANGUAGES


def is_code_switched(name: str) -> bool:
  """Whether it names a language mixed with English."""
  return name.endswith(CODE_SWITCHED)


def called(name: str) -> str:
  """The language's name for people, with its code."""
  whole = LANGUAGES[name.removesuffix(CODE_SWITCHED)].name
  mixed = " with English" if is_code_switched(name) else ""
  return f"{whole}{mixed} ({name})"


def family_of(name: str) -> str:
  """The family of a language of the table."""
  return LANGUAGES[name.removesuffix(CODE_SWITCHED)].family
