"""Which column of a row is what of a pair.

Known by the names that people's files use (sentence-transformers,
FlagEmbedding, tevatron, MS MARCO triplets, SNLI, Quora), or told by --fields.
"""

import dataclasses
import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from embeddinggemma.data.tables import labels
from embeddinggemma.data.tables.fields import Fields

Row = Mapping[str, Any]

# Queries that may stand beside a column that is named as a positive; those of
# an earlier line win.
_QUERIES = (
  ("query", "anchor"),
  ("question", "sentence1", "premise", "sentence", "instruction"),
  ("user_query", "query_text"),
)
_TEXTS = r"(_(passage|ctx|context|doc|document|text|response)s?)?_?(\d*)"
_POSITIVE = re.compile(rf"(pos|positives?){_TEXTS}")
_NEGATIVE = re.compile(
  rf"((hard_?)?(neg|negatives?)|rejected|contradiction){_TEXTS}"
)
# Columns that are a pair only together.
_TOGETHER = (
  ("sentence1", "sentence2"),
  ("sentence_1", "sentence_2"),
  ("sentence_0", "sentence_1"),
  ("sentence_a", "sentence_b"),
  ("premise", "hypothesis"),
  ("question1", "question2"),
  ("text1", "text2"),
  ("anchor", "entailment"),
  ("prompt", "chosen"),
  *(
    (query, positive)
    for query in ("query", "anchor", "question")
    for positive in (
      "answer",
      "answers",
      "response",
      "document",
      "doc",
      "passage",
      "context",
    )
  ),
)
_LABELS = (
  "label",
  "labels",
  "gold_label",
  "score",
  "similarity",
  "similarity_score",
  "relevance",
  "relevance_score",
  "is_duplicate",
  "is_relevant",
)
# What another model thought of the texts: no part of a contrastive loss.
_OTHERS_SCORES = re.compile(
  r"((pos|neg|positives?|negatives?|teacher|reranker)_?)?(passages?_)?scores"
  r"|(pos|neg|positive|negative|teacher|reranker)_score(_\d+)?"
)
_IDS = re.compile(r"(.*_)?(doc)?[pq]?ids?(_?\d+)?")
_AGAINST = r"neg\w*|reject\w*|contradict\w*|distract\w*|irrelev\w*"
_SUSPECT = re.compile(
  rf"(^|_)({_AGAINST}|relev\w*|similar\w*|entail\w*"
  r"|(labell?ed|labels?|scores?|duplicates?|grades?|ratings?)(?=_|\d|$))"
)
# Fields of FlagEmbedding, tevatron and others whose cells hold a list.
_LISTS = {"pos", "neg", "positives", "negatives", "answers"}
_LISTS |= {"positive_passages", "negative_passages", "hard_negatives"}
_LISTS |= {"positive_ctxs", "negative_ctxs", "hard_negative_ctxs"}
_LISTS |= {"rejected_response", "rejected_responses"}
# Names of texts that are no side of a pair, and of those that are the second.
_ABOUT = {"role", "from", "type", "split", "dataset", "partition", "lang"}
_ABOUT |= {"language", "filename", "genre", "task", "prompt_name"}
_ANSWERS = {"output", "response", "completion", "text", "body", "target"}
_SHOWN = 40  # characters of an example
_CELLS = (str, list, dict)  # types of cells that may hold texts
_INSIDE = 3  # items of a list in which texts are looked for


class _Unseen(str):
  """Stands for the text of a column of which only the name is known."""


UNSEEN = _Unseen()


@dataclasses.dataclass(frozen=True, eq=False)
class Plan:
  """Which columns of rows with the same names are what of a pair.

  Plans are counted row by row, so they are compared by identity.
  """

  query: str
  positives: tuple[str, ...]
  negatives: tuple[str, ...] = ()
  title: str = ""
  task: str = ""
  lang: str = ""
  label: str = ""
  aside: tuple[str, ...] = ()
  three: bool = False  # whether a label that is a number is one of SNLI's three

  @property
  def used(self) -> tuple[str, ...]:
    """All columns that are read, as --fields names them."""
    others = self.title, self.task, self.lang, self.label
    return (
      self.query,
      *self.positives,
      *self.negatives,
      *filter(None, others),
    )

  @property
  def own(self) -> bool:
    """Whether the names are this project's, so that there is nothing to say."""
    roles = [
      (self.query, "query"),
      *((name, "positive") for name in self.positives),
      *((name, "negative") for name in self.negatives),
    ]
    same = all(name == role for name, role in roles)
    return same and not self.label and not self.aside

  def said(self, fields: Fields) -> str:
    """The plan in words, for people."""
    parts = [
      f"{role} from {', '.join(map(repr, names))}"
      for role, names in (
        ("query", (self.query,)),
        ("positive", self.positives),
        ("negative", self.negatives),
        ("title", (self.title,)),
        ("task", (self.task,)),
        ("lang", (self.lang,)),
        ("label", (self.label,)),
      )
      if any(names)
    ]
    if self.label:
      parts[-1] += f" ({labels.said(fields.rule, self.three)})"
    if self.aside:
      parts.append(f"left aside: {', '.join(self.aside)}")
    return "; ".join(parts)


def plan(row: Row, fields: Fields) -> Plan:
  """Which columns of a row are what; it serves all rows of the same names.

  Raises ValueError, with what was found and the flag to write, where that is
  not clear or a column may matter that is not understood.
  """
  names = _names(row)
  given = {name for columns in fields.columns.values() for name in columns}
  query, positives = _sides(row, names, fields)
  taken = {query, *positives, *given}
  free = {k: n for k, n in names.items() if _top(row, n) not in taken}
  negatives = _present(row, fields.of("negative")) or _numbered(free, _NEGATIVE)
  for role, chosen in ("positive", positives), ("negative", negatives):
    _no_nested(row, role, chosen, fields)
  label = _label(free, fields, row)
  single = {
    role: next(iter(_present(row, fields.of(role))), free.get(role, ""))
    for role in ("title", "task", "lang")
  }
  ignored = {_top(row, name) for name in fields.of("ignore")}
  used = {query, *positives, *negatives, label, *single.values()}
  tops = {_top(row, name) for name in used if name}
  aside = tuple(name for name in row if name not in tops)
  _no_suspects(row, aside, ignored, label, fields)
  three = _folded(query) == "premise"
  return Plan(
    query, positives, negatives, **single, label=label, aside=aside, three=three
  )


def value(row: Row, name: str) -> Any:
  """The value of a column, or at a path in it; None: none.

  In "a.b.2", b is a field and 2 the second item of a list; "a.*" are all items.
  """
  if name in row or "." not in name:
    return row.get(name)
  return _inside(row, name.split("."))


def _inside(found: Any, parts: Sequence[str]) -> Any:
  """What lies at a path of keys, of numbers of items from 1, and of "*"."""
  for at, part in enumerate(parts):
    if isinstance(found, Mapping):
      found = found.get(part)
    elif isinstance(found, list) and part == "*":
      return [_inside(item, parts[at + 1 :]) for item in found]
    elif isinstance(found, list) and part.isdigit() and part != "0":
      found = next(iter(found[int(part) - 1 : int(part)]), None)
    else:
      return None
  return found


def texts_in(row: Row) -> list[str]:
  """The columns, or the paths in them, that seem to hold the texts of a pair.

  Those that are called like an answer come after the others, ids not at all.
  """
  paths = [path for name in row for path in _texts_at(name, row[name])]
  return sorted(paths, key=lambda path: path in _ANSWERS)


def _texts_at(path: str, given: Any) -> list[str]:
  last = _folded(path.rpartition(".")[2])
  if _IDS.fullmatch(last) or last in _ABOUT or _SUSPECT.search(last):
    return []
  if isinstance(given, str):
    return [path]
  items: Iterable[tuple[Any, Any]] = ()
  if isinstance(given, Mapping):
    items = given.items()
  elif isinstance(given, list):
    items = enumerate(given[:_INSIDE], 1)
  return [p for key, item in items for p in _texts_at(f"{path}.{key}", item)]


def is_listed(name: str) -> bool:
  """Whether cells of a column of this name hold lists of texts."""
  return _folded(name) in _LISTS


def is_understood(row: Row, fields: Fields | None = None) -> bool:
  """Whether it is clear which columns of a row are what."""
  try:
    plan(row, fields or Fields())
  except ValueError:
    return False
  return True


def found(row: Row) -> str:
  """The columns of a row with their types and beginnings, for a message."""
  return ", ".join(f"{name}{_example(row[name])}" for name in row) or "none"


def _example(given: Any) -> str:
  if given is UNSEEN:
    return ""
  if given is None:
    return " (null)"
  shown = repr(given)
  shown = shown if len(shown) <= _SHOWN else f"{shown[:_SHOWN]}..."
  return f" ({type(given).__name__} {shown})"


def _folded(name: str) -> str:
  """The name as names are compared: "hardNegative 1" is hard_negative_1."""
  apart = re.sub(r"(?<=[a-z])(?=[A-Z])|[\s\-.]+", "_", name.strip())
  return apart.casefold()


def _names(row: Row) -> dict[str, str]:
  """Folded name -> the column; where two fold to one, the exact one, or the
  first."""
  names: dict[str, str] = {}
  for name in row:
    key = _folded(name)
    if key not in names or name == key:
      names[key] = name
  return names


def _top(row: Row, name: str) -> str:
  """The column of the row in which a path lies."""
  return name if name in row else name.partition(".")[0]


def _present(row: Row, given: Iterable[str]) -> tuple[str, ...]:
  return tuple(name for name in given if _top(row, name) in row)


def _numbered(names: Mapping[str, str], kind: re.Pattern[str]) -> tuple:
  """The columns of a kind, in the order of their numbers."""
  matches = [(kind.fullmatch(key), name) for key, name in names.items()]
  pairs = [(int(m.groups()[-1] or 0), name) for m, name in matches if m]
  return tuple(name for _, name in sorted(pairs, key=lambda pair: pair[0]))


def _sides(
  row: Row, names: dict[str, str], fields: Fields
) -> tuple[str, tuple[str, ...]]:
  """The columns of the query and of the positives."""
  query, positives = fields.of("query"), fields.of("positive")
  for name in (*query, *positives):
    if _top(row, name) not in row:
      raise ValueError(f"no field {name!r}; found: {found(row)}")
  taken = {n for columns in fields.columns.values() for n in columns}
  free = {key: name for key, name in names.items() if name not in taken}
  explicit = positives or _numbered(free, _POSITIVE)
  if query and explicit:
    return query[0], explicit
  if explicit:
    for rank in _QUERIES:
      there = [free[name] for name in rank if name in free]
      if len(there) == 1:
        return there[0], explicit
      if there:
        raise _unclear(row, fields, [(name, explicit[0]) for name in there])
    raise _lacking(row, fields, "query", explicit[0])
  pairs = [
    (query[0] if query else free[q], free[p])
    for q, p in _TOGETHER
    if p in free and (query or q in free)
  ]
  pairs = list(dict.fromkeys(pairs))
  if len(pairs) == 1:
    return pairs[0][0], (pairs[0][1],)
  if pairs:
    raise _unclear(row, fields, pairs)
  given = query[0] if query else ""
  known = [name for rank in _QUERIES for name in rank if name in free]
  raise _lacking(row, fields, "positive", given or (known or [""])[0])


def _unclear(
  row: Row, fields: Fields, pairs: Sequence[tuple[str, str]]
) -> ValueError:
  lines = [fields.with_(f"query:{q},positive:{p}") for q, p in pairs[:3]]
  return ValueError(
    f"more than one pair of columns is possible ({', '.join(row)}); say which:"
    f" {' or '.join(lines)}"
  )


def _lacking(row: Row, fields: Fields, role: str, other: str) -> ValueError:
  """The message where a role has no column, with a line that could be meant."""
  texts = [path for path in texts_in(row) if path != other]
  if other and role == "positive":  # the answer, where there is one
    texts.sort(key=lambda path: _folded(path) not in _ANSWERS)
  if not other:
    role = "query"
  sides = [*([other] if other else []), *texts][:2]
  lacks = f"no field {role!r}; found: {found(row)}"
  if len(sides) < 2:
    return ValueError(
      f"{lacks}; a pair needs two columns of texts, and ids must be replaced by"
      " their texts first"
    )
  query, positive = sides[::-1] if other and role == "query" else sides
  line = fields.with_(f"query:{query},positive:{positive}")
  return ValueError(f"{lacks}; say which column is what, as in {line}")


def _label(free: Mapping[str, str], fields: Fields, row: Row) -> str:
  """The column of the label, or "". ValueError if there are several."""
  given = _present(row, fields.of("label"))
  if given or fields.of("label"):
    return next(iter(given), "")
  there = [free[name] for name in _LABELS if name in free]
  if len(there) > 1:
    line = fields.with_(f"label:{there[0]},ignore:{there[1]}")
    raise ValueError(
      f"both {there[0]!r} and {there[1]!r} may be the label; say which: {line}"
    )
  return there[0] if there else ""


def _no_suspects(
  row: Row,
  aside: Sequence[str],
  ignored: set[str],
  label: str,
  fields: Fields,
) -> None:
  """ValueError for a column left aside that looks like a negative or label."""
  for name in aside:
    key = _folded(name)
    known = _OTHERS_SCORES.fullmatch(key) or _IDS.fullmatch(key)
    if name in ignored or known or not _SUSPECT.search(key):
      continue
    negative = re.search(rf"(^|_)({_AGAINST})", key)
    if label and not negative:
      continue
    use = f"label:{name}"
    if negative:
      paths = _nested(name, row[name])
      use = ",".join(f"negative:{path}" for path in paths)
    raise ValueError(
      f"column {name!r}{_example(row[name])} may matter and is not"
      f" understood; write {fields.with_(use)} to use it, or"
      f" {fields.with_(f'ignore:{name}')}"
    )


def _no_nested(
  row: Row, role: str, names: Sequence[str], fields: Fields
) -> None:
  """ValueError for lists of objects or lists whose texts need a path, and for
  negatives that are none, such as numbers."""
  for name in names:
    given = value(row, name)
    empty = not given or labels.is_empty(given)
    if role == "negative" and not (empty or isinstance(given, _CELLS)):
      raise ValueError(
        f"column {name!r}{_example(given)} is neither text nor a list of texts;"
        f" write {fields.with_(f'ignore:{name}')} to leave it aside"
      )
    paths = _nested(name, given)
    if paths != [name]:
      use = ",".join(f"{role}:{path}" for path in paths)
      raise ValueError(
        f"column {name!r}{_example(given)} has its texts deeper inside; write"
        f" {fields.with_(use)}"
      )


def _nested(name: str, given: Any) -> list[str]:
  """The column itself, or the paths in it where lists or objects hold texts."""
  if isinstance(given, dict) and "text" not in given:
    inside = (str, list)
    return [
      f"{name}.{key}" for key, item in given.items() if isinstance(item, inside)
    ] or [name]
  first = given[0] if isinstance(given, list) and given else ""
  if isinstance(first, str) or (isinstance(first, dict) and "text" in first):
    return [name]
  paths = _texts_at("", first)
  return [f"{name}.*{paths[0]}"] if paths else [name]
