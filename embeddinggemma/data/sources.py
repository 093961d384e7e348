"""The user's own pairs: files of pairs in, a split without leaks out.

A pair trains the contrastive loss (paper, section 2.2). The side of the split
is decided by a hash and not drawn, so the same text lands on the same side in
every run and on every machine.
"""

import array
import collections
import contextlib
import hashlib
import json
import operator
import os
import shutil
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, SupportsIndex

import numpy as np
from absl import logging
from jaxtyping import Bool, Int, UInt8, UInt16, UInt64
from scipy import sparse
from scipy.sparse import csgraph

from embeddinggemma.data import beir, single_texts
from embeddinggemma.data.single_texts import Texts
from embeddinggemma.data.tables import columns, places, rows
from embeddinggemma.data.tables import fields as fields_lib
from embeddinggemma.data.tables.pairs import Pairs, Part, Say
from embeddinggemma.types import BadInput, Pair, SingleText

LARGE_COMPONENT = 0.01  # share of all pairs; larger components go to training
MAX_QUERIES = {"validation": 300, "test": 1000}  # of each task
MIN_DOCUMENTS = 5  # with fewer, every ranking looks perfect
_PREFIX = 32  # bytes of a text that mostly tell which is smaller
_PIECE = 1 << 22  # bytes that are hashed at a time

Held = UInt64[np.ndarray, "texts"]  # sorted numbers of texts
PairsAt = Callable[[Int[np.ndarray, "rows"]], Iterable[Pair]]


def read_pairs(
  path: Path,
  skip_bad_rows: bool = False,
  fields: str = "",
  say: Say | None = None,
  each: Callable[[Pair], None] | None = None,
) -> tuple[Pairs, list[str]]:
  """The pairs of a file, a folder or a data set of the Hub, checked.

  Args:
    path: see `tables.places` for which of its files are read.
    skip_bad_rows: return a message for each bad row; without it, the first one
      raises BadInput as FILE:LINE: reason.
    fields: which column is what, as --fields has it; "": by known names.
    say: called with lines on what was read as what.
    each: called with each pair in turn, while all are checked.

  Raises BadInput for a file, or columns, that are not understood.
  """
  wanted = fields_lib.parse(fields)
  found = places.find(path, wanted)
  say = say or (lambda line: None)
  for note in found.notes:
    say(note)
  pairs, skipped = Pairs(found.files, wanted), []
  pairs.scan(skipped if skip_bad_rows else None, say, each)
  if not pairs:
    why = f"; the first bad row: {skipped[0]}" if skipped else ""
    if pairs.labelled:
      why += (
        "; no label is that of a positive, say which are by --fields=label:..."
      )
    names = ", ".join(file.name for file in found.files[:3])
    raise BadInput(f"{path}: no usable pair in {names}{why}")
  return pairs, skipped


def texts_of(path: Path, fields: str = "") -> list[Path]:
  """The files of single texts at a path, beside or instead of pairs."""
  return single_texts.find(path, fields_lib.parse(fields))


def pairs_beside(
  path: Path, texts: Sequence[Path], fields: str, say: Say
) -> bool:
  """Whether a path with single texts has pairs; files that are none are said."""
  if has_pairs(path, fields):
    return True
  if others := places.others(path, texts):
    say(f"{path}: no pairs are found in {others}, which is not read")
  return False


def read_texts(
  files: Sequence[Path], skip_bad_rows: bool, say: Say
) -> tuple[Iterator[SingleText], list[str]]:
  """The single texts of files, and a list that gets a message for each bad row.

  Without `skip_bad_rows` the first bad row raises BadInput, as FILE:LINE:
  reason. `say` is called at the end with what was left aside.
  """
  skipped: list[str] = []

  def read() -> Iterator[SingleText]:
    others: set[str] = set()
    found = single_texts.read(files, skipped if skip_bad_rows else None, others)
    number = 0
    for text in found:
      number += 1
      yield text
    where = ", ".join(map(str, files))
    if not number:
      raise BadInput(
        f"{where}: no usable text; the first bad row: {skipped[0]}"
      )
    aside = f"; left aside: {', '.join(sorted(others))}" if others else ""
    say(f"{where}: {number} single texts{aside}")

  return read(), skipped


def read_file(path: Path, fields: str = "") -> Pairs:
  """The pairs of one file; BadInput for its first bad row.

  Args:
    fields: which column is what, as --fields has it; "": by known names.

  What was read as what is logged.
  """
  return read_pairs(path, fields=fields, say=logging.warning)[0]


def split_pairs(
  pairs: Sequence[Pair], *, held_out: float, salt: str
) -> tuple[list[Pair], list[Pair], list[Pair]]:
  """Train, validation and test, with no text on two sides.

  Pairs that share a query or a positive (normalised, over all tasks) are one
  component, and a component goes to one side by its salted hash. Validation
  and test each get about the share `held_out`. A component of more than 1% of
  the pairs is pinned to training. Of the training rows, negatives that equal
  a held-out text are removed. A small input may leave validation or test
  empty, which is logged; train never is.
  """
  keys = Keys(salt)
  for pair in pairs:
    keys.add(pair)
  side = keys.sides(held_out, lambda rows: (pairs[row] for row in rows))
  train, validation, test = (
    [pair for pair, own in zip(pairs, side.tolist()) if own == value]
    for value in (0, 1, 2)
  )
  held = keys.held_out_texts(side)
  return [without(pair, held) for pair in train], validation, test


class Keys:
  """What the split needs to know of pairs: hashes of their texts, no text.

  Texts are compared in the form of `beir.normalised`.
  """

  def __init__(self, salt: str) -> None:
    self._salt = salt
    self._texts = array.array("Q")  # of query and positive, by turns
    self._smallest = bytearray()  # the first bytes of the smaller of the two
    self._place = array.array("Q")  # the salted hash of that one

  def add(self, pair: Pair) -> None:
    """Note the texts of the next pair."""
    texts = beir.normalised(pair.query), beir.normalised(pair.positive)
    self._texts.extend(beir.text_number(text) for text in texts)
    name = min(texts)
    self._smallest += name.encode()[:_PREFIX].ljust(_PREFIX, b"\0")
    self._place.append(_place(name, self._salt))

  def sides(self, held_out: float, pairs_at: PairsAt) -> UInt8[np.ndarray, "n"]:
    """The side of each pair: 0 train, 1 validation, 2 test.

    Pairs that share a text are one component. It is named by its smallest text,
    and the hash of the name decides. `pairs_at` gives the pairs of ascending
    rows, where the beginnings of texts do not tell which is the smallest.
    """
    component = self._components()
    sizes = np.bincount(component)
    count = len(component)
    limit = max(LARGE_COMPONENT * count, min(5, held_out * count), 1)
    place = np.asarray(self._place)[self._first_rows(component, pairs_at)]
    place = place / 2.0**64
    side = np.where(place < held_out, 2, np.where(place < 2 * held_out, 1, 0))
    side[sizes > limit] = 0
    if side.all():
      side[:] = 0
    whole = side[component].astype(np.uint8)
    for value, label in (1, "validation"), (2, "test"):
      if not (whole == value).any():
        logging.warning("%d pairs are too few for a %s part", count, label)
    return whole

  def held_out_texts(self, side: UInt8[np.ndarray, "n"]) -> Held:
    """The texts of validation and test, by their numbers."""
    return np.unique(self._by_pair()[side > 0])

  def chosen(
    self, side: UInt8[np.ndarray, "n"], tasks: UInt16[np.ndarray, "n"]
  ) -> Bool[np.ndarray, "n"]:
    """The held-out pairs whose queries `beir.as_retrieval` would keep.

    Of each task, those are the queries with the smallest numbers.
    """
    queries = self._by_pair()[:, 0]
    kept = np.zeros(len(side), bool)
    for value, name in (1, "validation"), (2, "test"):
      for task in np.unique(tasks[side == value]):
        own = (side == value) & (tasks == task)
        few = np.unique(queries[own])[: MAX_QUERIES[name]]
        kept |= own & np.isin(queries, few)
    return kept

  def _by_pair(self) -> UInt64[np.ndarray, "n 2"]:
    return np.array(self._texts, np.uint64).reshape(-1, 2)

  def _components(self) -> Int[np.ndarray, "n"]:
    """The connected component of each pair, as a number from 0."""
    texts, nodes = np.unique(self._texts, return_inverse=True)
    query, positive = nodes.reshape(-1, 2).T
    edges = np.ones(len(query), bool)
    graph = sparse.coo_matrix(
      (edges, (query, positive)), shape=(len(texts), len(texts))
    )
    _, of_text = csgraph.connected_components(graph, directed=False)
    return of_text[query]

  def _first_rows(
    self, component: Int[np.ndarray, "n"], pairs_at: PairsAt
  ) -> Int[np.ndarray, "c"]:
    """For each component a row that holds its smallest text."""
    begin = np.frombuffer(self._smallest, f"S{_PREFIX}")
    place = np.asarray(self._place)
    order = np.lexsort((begin, component))
    of = component[order]
    first = order[np.flatnonzero(np.diff(of, prepend=-1))]
    # Rows that begin like the first of their component, with another text.
    other = place[order] != place[first][of]
    tied = order[other & (begin[order] == begin[first][of])]
    if not len(tied):
      return first
    rows = np.unique(np.concatenate([tied, first[component[tied]]]))
    least: dict[int, tuple[str, int]] = {}
    for row, pair in zip(rows.tolist(), pairs_at(rows)):
      number, found = int(component[row]), (_name(pair), row)
      least[number] = min(least.get(number, found), found)
    for number, (_, row) in least.items():
      first[number] = row
    return first


def without(pair: Pair, held: Held) -> Pair:
  """The pair without negatives that equal a held-out text."""
  if not pair.negatives:
    return pair
  return pair.keep_negatives(lambda text: not is_held(text, held))


def is_held(text: str, held: Held) -> bool:
  """Whether a text is one of validation or test."""
  number = np.uint64(beir.text_number(text))
  at = np.searchsorted(held, number)
  return bool(at < len(held) and held[at] == number)


def write_split(
  directory: Path, pairs: Pairs, keys: Keys, held_out: float
) -> Held:
  """Split pairs and write them, in one pass and without holding their texts.

  The files are those of `split_pairs` and `write_corpus`. Only held-out pairs
  that will be ranked are in memory, some thousands a task. Returns the texts of
  validation and test.
  """
  side = keys.sides(held_out, pairs.read)
  held, kept = keys.held_out_texts(side), keys.chosen(side, pairs.task_codes())
  parts: dict[int, list[Pair]] = {1: [], 2: []}
  clear(directory)
  with contextlib.ExitStack() as stack:
    writers = _Writers(directory / "train", stack)
    for pair, own, ranked in zip(pairs, side.tolist(), kept.tolist()):
      if own == 0:
        writers.write(without(pair, held))
      elif ranked:
        parts[own].append(pair)
  _write_held_out(directory, "validation", parts[1])
  _write_held_out(directory, "test", parts[2])
  return held


def write_texts(
  directory: Path, texts: Iterable[SingleText], held: Held
) -> tuple[int, int]:
  """Write train/texts.jsonl, without texts that validation or test have.

  Returns how many were written, and how many were left out.
  """
  path = directory / "train" / single_texts.FILE
  written = left_out = 0
  with path.open("w", encoding="utf-8", newline="\n") as file:
    for text in texts:
      if is_held(text.text, held):
        left_out += 1
      else:
        single_texts.write_row(file, text)
        written += 1
  return written, left_out


def write_corpus(
  directory: Path,
  train: Sequence[Pair],
  validation: Sequence[Pair],
  test: Sequence[Pair],
) -> None:
  """Write train/TASK/pairs.jsonl and {validation,test}/TASK as BEIR folders.

  The three folders are replaced, and their bytes depend on the input alone. A
  held-out task of fewer than five documents is left out, which is logged.
  """
  clear(directory)
  write_pairs(directory / "train", train)
  _write_held_out(directory, "validation", validation)
  _write_held_out(directory, "test", test)


def clear(directory: Path) -> None:
  """Leave empty folders for the three parts of a corpus."""
  for name in "train", "validation", "test":
    shutil.rmtree(directory / name, ignore_errors=True)
    (directory / name).mkdir(parents=True)


def _write_held_out(directory: Path, name: str, part: Sequence[Pair]) -> None:
  for task, pairs in by_task(part).items():
    retrieval = beir.as_retrieval(pairs, MAX_QUERIES[name])
    if len(retrieval.corpus) < MIN_DOCUMENTS:
      logging.warning("%s/%s: too few documents to rank", name, task)
      continue
    beir.write_retrieval(directory / name / task, task, retrieval)


def write_pairs(directory: Path, pairs: Iterable[Pair]) -> None:
  """Write DIRECTORY/TASK/pairs.jsonl for each task."""
  with contextlib.ExitStack() as stack:
    writers = _Writers(directory, stack)
    for pair in pairs:
      writers.write(pair)


class _Writers:
  """The open files DIRECTORY/TASK/pairs.jsonl, one for each task."""

  def __init__(self, directory: Path, stack: contextlib.ExitStack) -> None:
    self._directory, self._stack = directory, stack
    self._files: dict[str, Any] = {}

  def write(self, pair: Pair) -> None:
    """Append a pair to the file of its task."""
    if pair.task not in self._files:
      path = self._directory / pair.task / "pairs.jsonl"
      path.parent.mkdir(parents=True, exist_ok=True)
      file = path.open("w", encoding="utf-8", newline="\n")
      self._files[pair.task] = self._stack.enter_context(file)
    row = json.dumps(_pair_row(pair), ensure_ascii=False)
    self._files[pair.task].write(row + "\n")


def content_hash(directory: Path) -> str:
  """SHA-256 over the sorted relative paths and bytes of a folder's files."""
  return _hash(directory, filter(Path.is_file, directory.rglob("*")))


def pairs_hash(path: Path, fields: str = "") -> str:
  """SHA-256 like `content_hash`, of only the files that `read_pairs` reads."""
  found = places.find(path, fields_lib.parse(fields))
  return _hash(found.root, found.files)


def texts_hash(path: Path, files: Sequence[Path]) -> str:
  """The same of files of single texts at a path."""
  return _hash(path if path.is_dir() else path.parent, files)


def _hash(directory: Path, paths: Iterable[Path]) -> str:
  digest = hashlib.sha256()
  files = {path.relative_to(directory).as_posix(): path for path in paths}
  for name in sorted(files):
    try:
      with files[name].open("rb") as file:
        size = os.fstat(file.fileno()).st_size
        digest.update(f"{len(name.encode())} {name} {size} ".encode())
        while piece := file.read(_PIECE):
          digest.update(piece)
    except OSError as error:
      raise BadInput(f"cannot read {files[name]}: {error.strerror}") from None
  return digest.hexdigest()


def has_pairs(path: Path, fields: str = "") -> bool:
  """Whether a path holds files of pairs, by their names and first rows.

  A pairs.jsonl is one by its name; of any other file, the columns of the first
  row decide, so that JSONL with a text a line is none.
  """
  try:
    wanted = fields_lib.parse(fields)
    found = places.find(path, wanted)
    if found.files[0].name == "pairs.jsonl":
      return True
    read = places.reader_of(found.files[0])(
      found.files[0], wanted, lambda line: None
    )
    first = next(read, rows.Read(0, -1, ValueError()))
    if isinstance(first.row, ValueError):
      return False
    columns.plan(first.row, wanted)
  except (BadInput, ValueError):
    return False
  return True


def _name(pair: Pair) -> str:
  return min(beir.normalised(pair.query), beir.normalised(pair.positive))


def _place(name: str, salt: str) -> int:
  """Where the hash of a component lies in the 64 bits."""
  digest = hashlib.blake2b(f"{salt}\0{name}".encode(), digest_size=8).digest()
  return int.from_bytes(digest)


def by_task(pairs: Sequence[Pair]) -> Mapping[str, Sequence[Pair]]:
  """Task -> its pairs; the order of tasks is that of their first pairs."""
  if isinstance(pairs, Pairs | Part):
    return pairs.by_task()
  groups: dict[str, list[Pair]] = collections.defaultdict(list)
  for pair in pairs:
    groups[pair.task].append(pair)
  return groups


def _pair_row(pair: Pair) -> dict[str, Any]:
  titled = zip(pair.negatives, pair.negative_titles)
  row = {
    "query": pair.query,
    "positive": pair.positive,
    "negative": [{"text": text, "title": title} for text, title in titled]
    or list(pair.negatives),
    "title": pair.title,
    "task": pair.task,
    "lang": pair.lang,
  }
  return {key: value for key, value in row.items() if value}


def most_negatives(pairs: Sequence[Pair]) -> int:
  """At least as many negatives as any of the pairs has."""
  if isinstance(pairs, Pairs | Part):
    return pairs.most_negatives
  return max((len(pair.negatives) for pair in pairs), default=0)


def origins(pairs: Sequence[Pair] | Texts) -> Sequence[str]:
  """Where each of the pairs, or of single texts, comes from."""
  if isinstance(pairs, Pairs | Part | Texts):
    return _Origins(pairs)
  return [pair.origin for pair in pairs]


# A bare Sequence, as `Pairs` is.
class _Origins(Sequence):
  """The origins of pairs or texts that stay in their files."""

  def __init__(self, pairs: Pairs | Part | Texts) -> None:
    self._pairs = pairs

  def __len__(self) -> int:
    return len(self._pairs)

  def __getitem__(self, row: SupportsIndex) -> str:  # type: ignore
    return self._pairs.origin(operator.index(row))
