"""Pairs from documented Python: the tasks of the laptop's mixture.

Each task reads a module and yields its pairs, in the groups of the paper's
mixture (section 2.3): code retrieval (`code`, `code_name`, `comment`),
retrieval (`documentation`, `heading`, `span`), sentence similarity (`sts`) and
classification.
"""

import re
from collections.abc import Callable, Iterable, Iterator

from embeddinggemma.data.beir import normalised
from embeddinggemma.data.stdlib import docstrings
from embeddinggemma.data.stdlib.python_source import Definition, Module, digest
from embeddinggemma.types import Pair

MAX_CHARACTERS = 1500
MAX_SHORT_CHARACTERS = 500  # of a query, and of a text of a symmetric task
MIN_SUMMARY_WORDS = 4
MIN_SOURCE_LINES = 3
MIN_TEXT_CHARACTERS = 60
MASK = "_"  # replaces the name of a function in masked texts
_WORD = re.compile(r"\w+")


def mask(text: str, name: str) -> str:
  """The text with every whole-word occurrence of the name replaced by MASK."""
  return _WORD.sub(lambda found: MASK if found[0] == name else found[0], text)


def spoken(name: str) -> str:
  """An identifier as words: parse_date and parseDate are "parse date"."""
  words = re.sub(r"(?<=[a-z0-9])(?=[A-Z])", " ", name).replace("_", " ")
  return " ".join(words.split()).lower()


def topic(module: str) -> str:
  """What a module is about: its package and the first public part below it.

  A module without a public part (_pyio) is its own topic.
  """
  parts = module.split(".")
  public = [part for part in parts if not part.startswith("_")]
  return ".".join(public[:2]) or parts[0]


def code(module: Module) -> Iterator[Pair]:
  """Pairs: summary of a function or class -> its source without docstrings."""
  for d in _with_source(module):
    query = docstrings.summary(d.docstring)
    if len(query.split()) >= MIN_SUMMARY_WORDS:
      yield _pair("code", query, d.source, d)


def code_views(module: Module) -> Iterator[tuple[Pair, Pair]]:
  """The `code` pair of each function, as it is and with its name masked."""
  for d in filter(_is_function, _with_source(module)):
    query = docstrings.summary(d.docstring)
    if len(query.split()) >= MIN_SUMMARY_WORDS:
      yield (
        _pair("code", query, d.source, d),
        _pair("code", mask(query, d.name), mask(d.source, d.name), d),
      )


def code_name(module: Module) -> Iterator[Pair]:
  """Pairs: a function's name, as words or as it is -> its source without it."""
  for d in filter(_is_function, _with_source(module)):
    if len(d.name) >= 5 and not d.name.startswith("__"):
      query = spoken(d.name) if digest(d.module, d.name) % 2 else d.name
      yield _pair("code_name", query, mask(d.source, d.name), d)


def comment(module: Module) -> Iterator[Pair]:
  """Pairs: a comment -> the code below it."""
  for text, below in module.comments:
    if len(text.split()) >= 6 and text[0].isupper():
      yield _pair("comment", text, below, module)


def documentation(module: Module) -> Iterator[Pair]:
  """Pairs: the summary of a docstring -> the rest of it."""
  for d in _documented(module):
    query, rest = docstrings.summary(d.docstring), docstrings.body(d.docstring)
    long_enough = len(query.split()) >= MIN_SUMMARY_WORDS
    if long_enough and len(rest) >= MIN_TEXT_CHARACTERS:
      yield _pair("documentation", query, rest, d)


def heading(module: Module) -> Iterator[Pair]:
  """Pairs: a name and a heading of its docstring -> the section below it."""
  for d in _documented(module):
    name = spoken(d.name.rpartition(".")[2])
    for title, text in docstrings.sections(d.docstring):
      if len(text) >= 2 * MIN_TEXT_CHARACTERS:
        yield _pair("heading", f"{name}: {title}", text, d)


def span(module: Module) -> Iterator[Pair]:
  """Pairs: a sentence of a docstring -> the docstring without it."""
  for d in _documented(module):
    found = docstrings.sentences(d.docstring)
    if len(found) >= 4:
      place = 1 + digest(d.docstring) % (len(found) - 1)
      rest = " ".join(found[:place] + found[place + 1 :])
      yield _pair("span", found[place], rest, d)


def sts(module: Module) -> Iterator[Pair]:
  """Pairs: the first sentence of a docstring -> the next one."""
  for d in _documented(module):
    found = docstrings.sentences(d.docstring)
    if len(found) >= 2:
      yield _pair("sts", found[0], found[1], d)


def classification(modules: Iterable[Module]) -> Iterator[Pair]:
  """Pairs: a docstring -> another of its topic, against one of another."""
  topics: dict[str, list[str]] = {}
  for text, label in labelled(modules):
    topics.setdefault(label, []).append(text)
  names = sorted(topics)
  for number, label in enumerate(names):
    texts = sorted(topics[label], key=digest)
    others = names[:number] + names[number + 1 :]
    for query, positive in zip(texts[::2], texts[1::2], strict=False):
      negatives: tuple[str, ...] = ()
      if others:
        other = topics[others[digest(query) % len(others)]]
        negatives = (other[digest(positive) % len(other)],)
      pair = Pair(query, positive, negatives, "", "classification", "en", label)
      yield pair


def labelled(modules: Iterable[Module]) -> Iterator[tuple[str, str]]:
  """Yield (docstring, topic), each docstring once."""
  seen = set()
  for module in modules:
    for d in _documented(module):
      text = cut(d.docstring, MAX_SHORT_CHARACTERS)
      key = normalised(text)
      if len(text) >= MIN_TEXT_CHARACTERS and key not in seen:
        seen.add(key)
        yield text, topic(module.name)


def cut(text: str, limit: int) -> str:
  """At most `limit` characters, up to the last whole line or word."""
  text = text.strip()
  if len(text) <= limit:
    return text
  head = text[:limit]
  end = max(head.rfind("\n"), head.rfind(" ") if "\n" not in head else -1)
  return head[: end if end > 0 else limit].rstrip()


TASKS: tuple[Callable[[Module], Iterator[Pair]], ...] = (
  code,
  code_name,
  comment,
  documentation,
  heading,
  span,
  sts,
)


def pairs(modules: Iterable[Module]) -> list[Pair]:
  """The pairs of all tasks.

  Within a task, no text occurs twice as a query or twice as a positive.
  """
  modules = list(modules)
  found = [pair for task in TASKS for m in modules for pair in task(m)]
  seen: set[tuple[str, str, str]] = set()
  kept = []
  for pair in [*found, *classification(modules)]:
    sides = (
      (pair.task, "query", normalised(pair.query)),
      (pair.task, "positive", normalised(pair.positive)),
    )
    if not seen.intersection(sides) and sides[0][2] != sides[1][2]:
      seen.update(sides)
      kept.append(pair)
  return kept


def _is_function(definition: Definition) -> bool:
  return definition.is_function


def _with_source(module: Module) -> Iterator[Definition]:
  """Definitions whose source is long enough and not trivial."""
  for d in module.definitions:
    if not d.trivial and d.source.count("\n") + 1 >= MIN_SOURCE_LINES:
      yield d


def _documented(module: Module) -> Iterator[Definition]:
  """Definitions with a docstring; the module itself counts as one."""
  itself = Definition(
    module.name, module.name, False, module.docstring, "", True
  )
  yield from (d for d in (itself, *module.definitions) if d.docstring)


def _pair(
  task: str, query: str, positive: str, source: Definition | Module
) -> Pair:
  is_code = task in ("code", "code_name", "comment")
  return Pair(
    query=cut(query, MAX_SHORT_CHARACTERS),
    positive=cut(positive, MAX_CHARACTERS),
    negatives=(),
    title="",
    task=task,
    lang="en-python" if is_code else "en",
    origin=getattr(source, "module", source.name),
  )
