"""A sequence of pairs that lies in files: it holds where they are, no text.

Reading once checks every row and notes its place. A pair is then read from its
file when it is asked for, so that files may be larger than memory.
"""

import array
import collections
import dataclasses
import operator
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any, SupportsIndex, overload

import numpy as np
from jaxtyping import Int, UInt16

from embeddinggemma.data import jsonl, prompts
from embeddinggemma.data.tables import columns, labels, opening, places, rows
from embeddinggemma.data.tables.columns import Plan, Row
from embeddinggemma.data.tables.denied import Denied
from embeddinggemma.data.tables.fields import Fields
from embeddinggemma.types import BadInput, Pair

Each = Callable[[Pair], None]
Say = Callable[[str], None]

_TASK = "retrieval"  # of a pair that names none
_MOST_PLANS = 1000  # sets of names in a file; more are keys that are values
_SHOWN = 5  # sets of names that are said
_FEW = 0.5  # share of a file's pairs below which each is looked up by its place
_BLOCK = 1 << 14  # pairs whose places are Python's numbers at a time


@dataclasses.dataclass
class Parser:
  """Makes pairs of rows; each set of names of columns is understood once."""

  fields: Fields
  plans: dict[tuple[str, ...], Plan] = dataclasses.field(default_factory=dict)

  def plan(self, row: Row) -> Plan:
    """The plan of a row's names; ValueError if they are not understood."""
    names = tuple(row)
    found = self.plans.get(names)
    if found is None:
      if len(self.plans) >= _MOST_PLANS:
        raise ValueError(
          f"the names of its columns differ from those of {_MOST_PLANS} rows"
          " before it; give every row the same"
        )
      found = self.plans[names] = columns.plan(row, self.fields)
    return found

  def __call__(
    self, row: Row, origin: str
  ) -> tuple[labels.Verdict, list[Pair]]:
    """The pairs of a row and the verdict of its label.

    Raises ValueError with the reason for a row that is none of pairs.
    """
    plan = self.plan(row)
    verdict: labels.Verdict = "positive"
    if plan.label:
      verdict = self._verdict(row, plan)
    query = self._query(row, plan)
    task = self._task(row, plan) if plan.task else _TASK
    texts = titles = ()
    if plan.negatives:
      items = [
        item for name in plan.negatives for item in _negatives(name, row)
      ]
      texts = tuple(text for text, _ in items)
      titles = tuple(title for _, title in items)
      titles = titles if any(titles) else ()
    own_title = _optional(plan.title, row) if plan.title else ""
    lang = _optional(plan.lang, row).strip() if plan.lang else ""
    return verdict, [
      Pair(query, text, texts, title or own_title, task, lang, origin, titles)
      for text, title in _positives(plan, row)
    ]

  def _query(self, row: Row, plan: Plan) -> str:
    found = columns.value(row, plan.query)
    if isinstance(found, dict | list):
      inside = columns.texts_in({plan.query: found})
      line = f"query:{inside[0] if inside else plan.query + '.KEY'}"
      raise ValueError(
        f"{plan.query!r} is not text but {type(found).__name__}; name the text in"
        f" it, as in {self.fields.with_(line)}"
      )
    return _text(plan.query, row)

  def _task(self, row: Row, plan: Plan) -> str:
    task = _optional(plan.task, row).strip() or _TASK
    try:
      prompts.task_named(task)
    except BadInput as error:
      line = self.fields.with_(f"ignore:{plan.task}")
      raise ValueError(f"{error}; or leave the column aside: {line}") from None
    return task

  def _verdict(self, row: Row, plan: Plan) -> labels.Verdict:
    given = columns.value(row, plan.label)
    try:
      return labels.verdict(given, self.fields.rule, plan.three)
    except ValueError as error:
      name = plan.label
      ignore = self.fields.with_(f"ignore:{name}")
      if labels.is_empty(given):
        raise ValueError(
          f"label {name!r} is empty; --skip_bad_rows leaves such rows out, and"
          f" {ignore} takes all as positives"
        ) from None
      if isinstance(given, list | dict):
        raise ValueError(
          f"label {name!r}: {error}; to leave it aside, write {ignore}"
        ) from None
      use = self.fields.with_(f"label:{name}{labels.example(given)}")
      raise ValueError(
        f"label {name!r}: {error}; say which rows are positives, as in {use},"
        f" or {ignore} if all are"
      ) from None


def _text(name: str, row: Row) -> str:
  found = columns.value(row, name)
  if found is None and name not in row:
    raise ValueError(f"no field {name!r}")
  return jsonl.checked(name, found)


def _optional(name: str, row: Row) -> str:
  return jsonl.optional_text(name, columns.value(row, name))


def _positives(plan: Plan, row: Row) -> list[tuple[str, str]]:
  """(text, title) of each positive; ValueError if there is none."""
  if len(plan.positives) == 1:
    name = plan.positives[0]
    found = columns.value(row, name)
    if isinstance(found, str):
      _no_list_as_text(name, found)
      return [(jsonl.checked(name, found), "")]
    if not isinstance(found, list | dict):
      return [(jsonl.checked(name, found), "")]
    items = _items(name, found)
  else:
    items = [
      item
      for name in plan.positives
      for item in _items(name, columns.value(row, name))
    ]
  if not items:
    raise ValueError(f"{' and '.join(map(repr, plan.positives))} is empty")
  return list(dict.fromkeys(items))


def _negatives(name: str, row: Row) -> list[tuple[str, str]]:
  given = columns.value(row, name)
  none = not given or labels.is_empty(given)
  return [] if none else _items(name, given)


def _items(name: str, given: Any) -> list[tuple[str, str]]:
  """The (text, title) in a cell: a text, {"text", "title"}, or a list of them.

  Null and white space are none; ValueError for anything else.
  """
  if given is None or (isinstance(given, str) and not given.strip()):
    return []
  if isinstance(given, str):
    _no_list_as_text(name, given)
    return [(jsonl.any_text(name, given), "")]
  if isinstance(given, dict):
    if isinstance(given.get("text"), list):
      return [_item(name, text) for text in given["text"]]
    return [_item(name, given)]
  if not isinstance(given, list | tuple):
    raise ValueError(f"{name!r} is neither text nor a list of texts")
  return [_item(name, item) for item in given]


def _item(name: str, given: Any) -> tuple[str, str]:
  if not isinstance(given, dict):
    return jsonl.checked(name, given), ""
  if "text" not in given:
    raise ValueError(f"{name!r} is neither text nor a list of texts")
  text = jsonl.checked(f"{name}.text", given["text"])
  return text, jsonl.optional_text(f"{name}.title", given.get("title"))


def _no_list_as_text(name: str, text: str) -> None:
  """ValueError for a list that became text on its way through a CSV."""
  listed = text.startswith(("['", '["', "[{")) and text.rstrip().endswith("]")
  if listed and columns.is_listed(name):
    raise ValueError(
      f"{name!r} holds a list as text; save the rows as JSONL or Parquet, which"
      " keep lists"
    )


# A bare Sequence: type checkers at run time read an item of Sequence[Pair].
class Pairs(Sequence):
  """The pairs of files, in their order; a pair is read when it is asked for."""

  def __init__(self, files: Sequence[Path], fields: Fields) -> None:
    self.files = tuple(files)
    self.tasks: list[str] = []  # in the order of their first pairs
    self._fields = fields
    self._parse = Parser(fields)
    self._file, self._sub = array.array("I"), array.array("I")
    self._number, self._offset = array.array("Q"), array.array("q")
    self._task, self._negatives = array.array("H"), array.array("I")
    self._labels: Denied | None = None

  def __len__(self) -> int:
    return len(self._file)

  def __iter__(self) -> Iterator[Pair]:
    return self.read(np.arange(len(self)))

  @overload
  def __getitem__(self, index: SupportsIndex) -> Pair: ...

  @overload
  def __getitem__(self, index: slice) -> Sequence[Pair]: ...

  def __getitem__(self, index: SupportsIndex | slice) -> Pair | Sequence[Pair]:
    return Part(self, np.arange(len(self)))[index]

  @property
  def labelled(self) -> bool:
    """Whether some rows have a label."""
    return self._labels is not None

  @property
  def most_negatives(self) -> int:
    """At least as many negatives as any pair has."""
    return Part(self, np.arange(len(self))).most_negatives

  def most_of(self, chosen: Int[np.ndarray, "_"]) -> int:
    """At least as many negatives as any pair of these places has."""
    own = int(np.asarray(self._negatives)[chosen].max(initial=0))
    return own + (self._labels.most() if self._labels else 0)

  def origin(self, place: int) -> str:
    """Where a pair comes from, as its `origin` says."""
    return rows.origin(self.files[self._file[place]], self._number[place])

  def task_codes(self) -> UInt16[np.ndarray, "n"]:
    """For each pair the place of its task in `tasks`."""
    return np.asarray(self._task)

  def by_task(self) -> "dict[str, Part]":
    """Task -> its pairs; the order of tasks is that of their first pairs."""
    return Part(self, np.arange(len(self))).by_task()

  def read(self, chosen: Int[np.ndarray, "_"]) -> Iterator[Pair]:
    """The pairs of these places, in this order.

    Ascending places are read in one pass through the files.
    """
    if (np.diff(chosen) > 0).all():
      yield from self._ascending(chosen)
      return
    for start in range(0, len(chosen), _BLOCK):
      unique, back = np.unique(
        chosen[start : start + _BLOCK], return_inverse=True
      )
      there = list(self._ascending(unique))
      yield from (there[place] for place in back.tolist())

  def scan(
    self, skipped: list[str] | None, say: Say, each: Each | None = None
  ) -> None:
    """Read all rows once, check them, and note where their pairs are.

    Args:
      skipped: gets a message for each bad row; None: the first one raises
        BadInput, as FILE:LINE: reason.
      say: called with notes about the files.
      each: called with each pair that is a positive, without the negatives that
        labels give its query.
    """
    uses: collections.Counter[Plan] = collections.Counter()
    neither = 0
    for place, path in enumerate(self.files):
      for read in places.reader_of(path)(path, self._fields, say):
        origin = rows.origin(path, read.number)
        try:
          verdict, found = self._parsed(read.row, origin)
        except ValueError as error:
          if skipped is None:
            raise BadInput(f"{origin}: {error}") from None
          skipped.append(f"{origin}: {error}")
          continue
        plan = self._parse.plan(read.row)  # type: ignore
        uses[plan] += 1
        if plan.label and self._labels is None:
          self._label_from_here()
        if verdict == "neither":
          neither += 1
        for sub, pair in enumerate(found):
          if verdict == "positive":
            self._add(pair, place, read, sub)
            if each is not None:
              each(pair)
          elif verdict == "negative":
            self._labels.add(pair)  # type: ignore
    if self._labels:
      self._labels.close()
    self._check_fields(uses)
    found = self.files, self._fields, uses, len(self), self._labels, neither
    for line in _lines(*found):
      say(line)

  def _parsed(
    self, row: Row | ValueError, origin: str
  ) -> tuple[labels.Verdict, list[Pair]]:
    if isinstance(row, ValueError):
      raise row
    return self._parse(row, origin)

  def _label_from_here(self) -> None:
    """Begin to use labels, with the positives that came without one."""
    self._labels = labelled = Denied()
    for pair in self._ascending(np.arange(len(self))):
      labelled.positive(pair)

  def _add(self, pair: Pair, place: int, read: rows.Read, sub: int) -> None:
    self._file.append(place)
    self._number.append(read.number)
    self._offset.append(read.offset)
    self._sub.append(sub)
    if pair.task not in self.tasks:
      self.tasks.append(pair.task)
    self._task.append(self.tasks.index(pair.task))
    self._negatives.append(len(pair.negatives))
    if self._labels is not None:
      self._labels.positive(pair)

  def _check_fields(self, uses: Iterable[Plan]) -> None:
    """BadInput for a column of --fields that no row has."""
    used = {name for plan in uses for name in plan.used}
    for role, names in self._fields.columns.items():
      for name in names:
        if role != "ignore" and used and name not in used:
          known = dict.fromkeys(
            key for names in self._parse.plans for key in names
          )
          raise BadInput(
            f"--fields gives {role!r} the column {name!r}, which no row has;"
            f" there are {', '.join(known)}"
          )

  def _ascending(self, chosen: Int[np.ndarray, "_"]) -> Iterator[Pair]:
    files = np.asarray(self._file)
    for place in np.unique(files[chosen]).tolist():
      own = chosen[files[chosen] == place]
      of_file = int((files == place).sum())
      offsets = np.asarray(self._offset)[own]
      seek = offsets[0] >= 0 and len(own) < _FEW * of_file
      found = self._sought(place, own) if seek else self._streamed(place, own)
      for pair in found:
        yield self._labels.with_own(pair) if self._labels else pair

  def _streamed(self, place: int, own: Int[np.ndarray, "_"]) -> Iterator[Pair]:
    """Pairs of one file, of which all is read up to the last of them."""
    path = self.files[place]
    wanted = self._wanted(own)
    number, _, sub = next(wanted)
    for read in places.reader_of(path)(path, self._fields, lambda line: None):
      if read.number != number:
        continue
      found = self._again(read.row, path, read.number)
      while number == read.number:
        yield _at(found, sub, path)
        number, _, sub = next(wanted, (0, 0, 0))
      if not number:
        return
    raise BadInput(_changed(path))

  def _sought(self, place: int, own: Int[np.ndarray, "_"]) -> Iterator[Pair]:
    """Pairs of one file of lines, each at its own place."""
    path = self.files[place]
    with opening.opened(path) as file:
      for number, offset, sub in self._wanted(own):
        file.seek(offset)
        row = rows.json_line(file.readline(), self._fields)
        yield _at(self._again(row, path, number), sub, path)

  def _wanted(
    self, own: Int[np.ndarray, "_"]
  ) -> Iterator[tuple[int, int, int]]:
    """(number, offset, which pair of the row) of pairs."""
    numbers = np.asarray(self._number)
    offsets = np.asarray(self._offset)
    subs = np.asarray(self._sub)
    for start in range(0, len(own), _BLOCK):
      part = own[start : start + _BLOCK]
      yield from zip(
        numbers[part].tolist(), offsets[part].tolist(), subs[part].tolist()
      )

  def _again(
    self, row: Row | ValueError, path: Path, number: int
  ) -> list[Pair]:
    try:
      return self._parsed(row, rows.origin(path, number))[1]
    except ValueError:
      raise BadInput(_changed(path)) from None


def _at(found: list[Pair], sub: int, path: Path) -> Pair:
  if sub >= len(found):
    raise BadInput(_changed(path))
  return found[sub]


def _changed(path: Path) -> str:
  return f"{path}: has changed while it was read; start again"


class Part(Sequence):
  """Some of the pairs of files, by their places, in an order of their own."""

  def __init__(self, base: Pairs, chosen: Int[np.ndarray, "_"]) -> None:
    self._base, self._chosen = base, chosen

  def __len__(self) -> int:
    return len(self._chosen)

  def __iter__(self) -> Iterator[Pair]:
    return self._base.read(self._chosen)

  @overload
  def __getitem__(self, index: SupportsIndex) -> Pair: ...

  @overload
  def __getitem__(self, index: slice) -> Sequence[Pair]: ...

  def __getitem__(self, index: SupportsIndex | slice) -> Pair | Sequence[Pair]:
    if isinstance(index, slice):
      return Part(self._base, self._chosen[index])
    return next(self._base.read(self._chosen[[operator.index(index)]]))

  @property
  def most_negatives(self) -> int:
    """At least as many negatives as any pair has."""
    return self._base.most_of(self._chosen)

  def origin(self, place: int) -> str:
    """Where a pair comes from, as its `origin` says."""
    return self._base.origin(int(self._chosen[place]))

  def by_task(self) -> "dict[str, Part]":
    """Task -> its pairs; the order of tasks is that of their first pairs."""
    tasks = self._base.task_codes()[self._chosen]
    codes, first = np.unique(tasks, return_index=True)
    return {
      self._base.tasks[code]: Part(self._base, self._chosen[tasks == code])
      for code in codes[np.argsort(first)].tolist()
    }


def _lines(
  files: Sequence[Path],
  fields: Fields,
  uses: "collections.Counter[Plan]",
  pairs: int,
  labelled: Denied | None,
  neither: int,
) -> list[str]:
  """What was read as what, where that is not said by the names themselves."""
  if all(plan.own for plan in uses):
    return []
  where = str(files[0]) + (f" and {len(files) - 1} more" if files[1:] else "")
  counts: collections.Counter[str] = collections.Counter()
  for plan, count in uses.items():
    counts[plan.said(fields)] += count
  most = counts.most_common(_SHOWN)
  lines = [f"{where}: {said} ({count} rows)" for said, count in most]
  if len(counts) > _SHOWN:
    rest = sum(counts.values()) - sum(count for _, count in most)
    lines.append(f"{where}: and {rest} rows of other columns")
  if labelled is not None:
    lines.append(
      f"{where}: {pairs} positives by their labels; of the others,"
      f" {labelled.used} are negatives of their query, {labelled.alone} left out"
      " since it has no positive"
      + (
        f", {labelled.contrary} since they are positives too"
        * bool(labelled.contrary)
      )
      + (f", {neither} as neither" * bool(neither))
    )
  return lines
