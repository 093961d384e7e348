"""Running text, tokenised once into shards for all language-model stages.

FOLDER/NN/tokens-00000.npy holds the tokens of a source's texts one after the
other, without BOS and EOS, and lengths-00000.npy the number of tokens of each
text. FOLDER/text.json is written last: a folder without it is incomplete.
"""

import hashlib
import itertools
import pathlib
import shutil
from collections.abc import Iterable, Iterator, Sequence
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Int, Integer

from embeddinggemma import cache
from embeddinggemma.data import jsonl
from embeddinggemma.data.tokenizer import NO_LIMIT, Tokenizer
from embeddinggemma.types import BadInput, Pair

ABOUT_FILE = "text.json"
SHARD_TOKENS = 2**26  # of a shard at most, unless a single text has more
_BATCH_TEXTS, _BATCH_CHARACTERS = 1024, 2**22  # limits of a tokenised batch


class Source(NamedTuple):
  """Texts that share one mixture weight, read once and lazily."""

  name: str
  weight: float
  texts: Iterable[tuple[str, str]]  # (origin for messages, text)


class _Shard(NamedTuple):
  """Tokens and text lengths of a part of a source."""

  tokens: Integer[np.ndarray, "tokens"]
  lengths: Int[np.ndarray, "texts"]


def write(
  sources: Iterable[Source],
  tokenizer: Tokenizer,
  directory: pathlib.Path,
  fewest: int,
) -> dict[str, Any]:
  """Tokenises the sources into shards; returns what text.json says.

  Texts of fewer than `fewest` tokens are left out and counted. BadInput names
  a source without texts, or without any that is long enough.
  """
  directory.mkdir(parents=True, exist_ok=True)
  (directory / ABOUT_FILE).unlink(missing_ok=True)
  digest = hashlib.sha256()
  tasks, short = [], 0
  for number, source in enumerate(sources):
    folder = directory / f"{number:02d}"
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir()
    kept = _Kept(source.name, fewest)
    shards = 0
    for shard in _shards(kept.of(_batches(source.texts), tokenizer)):
      for name, array in shard._asdict().items():
        path = folder / f"{name}-{shards:05d}.npy"
        cache.write_array(path, array)
        with path.open("rb") as file:
          digest.update(hashlib.file_digest(file, "sha256").digest())
      shards += 1
    kept.check()
    short += kept.short
    tasks.append(
      {
        "name": source.name,
        "weight": source.weight,
        "texts": kept.texts,
        "tokens": kept.tokens,
        "shards": shards,
      }
    )
  about = {"tokenizer": tokenizer.hash, "tasks": tasks, "short": short}
  digest.update(cache.key_of(about).encode())
  about = {"hash": digest.hexdigest(), **about}
  cache.write_json(directory / ABOUT_FILE, about)
  return about


class _Kept:
  """Tokenises the texts of a source and counts those that are kept."""

  def __init__(self, name: str, fewest: int):
    self.texts = self.tokens = self.short = 0
    self._name, self._fewest, self._longest = name, fewest, 0

  def of(
    self, batches: Iterable[list[str]], tokenizer: Tokenizer
  ) -> Iterator[list[Integer[np.ndarray, "_"]]]:
    """The tokens of the texts that are long enough, batch by batch."""
    dtype = np.uint16 if tokenizer.vocab_size <= 2**16 else np.int32
    for batch in batches:
      rows, _ = tokenizer.encode_batch(batch, NO_LIMIT)
      # BOS and EOS stand around windows.
      rows = [row[1:-1].astype(dtype) for row in rows]
      self._longest = max(self._longest, *map(len, rows))
      kept = [row for row in rows if len(row) >= self._fewest]
      self.short += len(rows) - len(kept)
      self.texts += len(kept)
      self.tokens += sum(map(len, kept))
      yield kept

  def check(self) -> None:
    """Raise BadInput unless at least one text was kept."""
    if self.texts:
      return
    if not self.short:
      raise BadInput(f"{self._name}: holds no text")
    raise BadInput(
      f"{self._name}: its longest text has {self._longest} of the"
      f" {self._fewest} tokens that a span and one more take; give longer texts,"
      " or denoisers of shorter spans"
    )


def _batches(texts: Iterable[tuple[str, str]]) -> Iterator[list[str]]:
  """The texts in batches limited by their number and their characters."""
  batch, size = [], 0
  for _, text in texts:
    batch.append(text)
    size += len(text)
    if len(batch) == _BATCH_TEXTS or size >= _BATCH_CHARACTERS:
      yield batch
      batch, size = [], 0
  if batch:
    yield batch


def _shards(
  batches: Iterable[list[Integer[np.ndarray, "_"]]],
) -> Iterator[_Shard]:
  """Shards of whole texts, each as full as its limit allows."""
  waiting: list[np.ndarray] = []
  size = 0
  for row in itertools.chain.from_iterable(batches):
    if waiting and size + len(row) > SHARD_TOKENS:
      yield _shard(waiting)
      waiting, size = [], 0
    waiting.append(row)
    size += len(row)
  if waiting:
    yield _shard(waiting)


def _shard(rows: Sequence[Integer[np.ndarray, "_"]]) -> _Shard:
  return _Shard(np.concatenate(rows), np.array([len(row) for row in rows]))


def is_prepared(directory: pathlib.Path) -> bool:
  """Whether `write` has filled the folder completely."""
  return (directory / ABOUT_FILE).is_file()


def about(directory: pathlib.Path) -> dict[str, Any]:
  """The content of text.json; BadInput if the folder is incomplete."""
  found = cache.read_json(directory / ABOUT_FILE)
  if not found:
    raise BadInput(f"{directory}: holds no text.json; prepare the text again")
  return found


class Windows:
  """Prepared texts as windows of at most `max_tokens`, read lazily by row.

  A longer text is cut into as few windows as can hold it, of even size, so no
  token is lost; windows of fewer than `fewest` tokens are left out. Raises
  BadInput if no window is left, if the folder is incomplete, or if another
  tokenizer made it.
  """

  def __init__(
    self,
    directory: pathlib.Path,
    tokenizer: Tokenizer,
    max_tokens: int,
    fewest: int = 1,
  ):
    found = about(directory)
    if found["tokenizer"] != tokenizer.hash:
      raise BadInput(
        f"{directory} was prepared with another tokenizer; prepare the text"
        " again, or use the tokenizer.model beside it"
      )
    self.task_rows: dict[str, range] = {}
    self.weights = {task["name"]: task["weight"] for task in found["tasks"]}
    self._shards: list[np.ndarray] = []  # of tokens
    lengths, starts = [], []
    rows = tokens = 0  # before the task; before the shard
    for number, task in enumerate(found["tasks"]):
      first = rows
      for shard in _read(directory / f"{number:02d}", task):
        self._shards.append(shard.tokens)
        cut = _cut(shard.lengths, max_tokens)
        kept = cut >= fewest
        lengths.append(cut[kept])
        starts.append(tokens + (np.cumsum(cut) - cut)[kept])
        rows, tokens = rows + len(lengths[-1]), tokens + len(shard.tokens)
      if rows == first:
        raise BadInput(
          f"{directory}: {task['name']} has no text of the {fewest} tokens that"
          " a span and one more take; give longer texts, or denoisers of"
          " shorter spans"
        )
      self.task_rows[task["name"]] = range(first, rows)
    self.lengths = np.concatenate(lengths)  # of all windows
    # Tokens before each window, and before each shard, of all shards in order.
    self._starts = np.concatenate(starts)
    sizes = np.array([len(shard) for shard in self._shards])
    self._bounds = np.cumsum(sizes) - sizes

  def __len__(self) -> int:
    return len(self.lengths)

  def tokens(self, row: int) -> Int[np.ndarray, "n"]:
    """The tokens of a window, int32."""
    start = self._starts[row]
    shard = int(np.searchsorted(self._bounds, start, "right")) - 1
    first = start - self._bounds[shard]
    tokens = self._shards[shard][first : first + self.lengths[row]]
    return tokens.astype(np.int32)


def _read(folder: pathlib.Path, task: dict[str, Any]) -> Iterator[_Shard]:
  """The shards of a task, tokens memory-mapped; BadInput if any is missing."""
  texts = tokens = 0
  for number in range(task["shards"]):
    try:
      # A plain array over the map: a memmap's own slices are slow.
      mapped = np.load(folder / f"tokens-{number:05d}.npy", mmap_mode="r")
      lengths = np.load(folder / f"lengths-{number:05d}.npy")
    except (OSError, ValueError, EOFError):
      raise _damaged(folder) from None
    if lengths.sum() != len(mapped):
      raise _damaged(folder)
    texts, tokens = texts + len(lengths), tokens + len(mapped)
    yield _Shard(np.asarray(mapped), lengths)
  if (texts, tokens) != (task["texts"], task["tokens"]):
    raise _damaged(folder)


def _damaged(folder: pathlib.Path) -> BadInput:
  return BadInput(f"{folder}: shards are missing or damaged; prepare it again")


def _cut(
  lengths: Int[np.ndarray, "texts"], max_tokens: int
) -> Int[np.ndarray, "windows"]:
  """The lengths of all windows, text by text."""
  counts = -(-lengths // max_tokens)
  last = np.cumsum(counts)
  number = np.arange(last[-1]) - np.repeat(last - counts, counts)
  size, left = np.divmod(np.repeat(lengths, counts), np.repeat(counts, counts))
  return size + (number < left)


def pair_texts(pairs: Iterable[Pair]) -> Iterator[tuple[str, str]]:
  """The distinct texts of both sides of pairs, in order of first occurrence."""
  seen: set[str] = set()
  for pair in pairs:
    for text in sides(pair):
      if text not in seen:
        seen.add(text)
        yield pair.origin, text


def sides(pair: Pair) -> tuple[str, str]:
  """Both texts of a pair, the positive below its title."""
  return pair.query, _titled(pair.title, pair.positive)


def read_texts(
  path: pathlib.Path, skip_bad_rows: bool, skipped: list[str]
) -> Iterator[tuple[str, str]]:
  """(FILE:LINE, text) of a file or of all files in a folder, read lazily.

  A *.jsonl holds objects {"text", "title"?}, a *.txt a text a line. A folder is
  read recursively without its hidden files. Blank lines of a *.txt are ignored.
  The first bad row raises BadInput, or with skip_bad_rows its message is
  appended to `skipped`. Raises BadInput if there is no text at all.
  """
  return _texts(path, text_files(path), skip_bad_rows, skipped)


def _texts(
  path: pathlib.Path,
  files: Sequence[pathlib.Path],
  skip_bad_rows: bool,
  skipped: list[str],
) -> Iterator[tuple[str, str]]:
  empty = True
  for file in files:
    parse = _parse_row if file.suffix == ".jsonl" else _parse_line
    for origin, line in _lines(file):
      try:
        text = parse(line)
      except ValueError as error:
        if not skip_bad_rows:
          raise BadInput(f"{origin}: {error}") from None
        skipped.append(f"{origin}: {error}")
        continue
      if text:
        empty = False
        yield origin, text
  if empty:
    raise BadInput(f"{path}: no usable text in its *.jsonl and *.txt files")


def _lines(file: pathlib.Path) -> Iterator[tuple[str, bytes]]:
  try:
    yield from jsonl.read_lines(file)
  except OSError as error:
    raise BadInput(f"cannot read {file}: {error.strerror}") from None


def _parse_row(line: bytes) -> str:
  row = jsonl.parse_row(line, ("text",), ("title",))
  return _titled(row["title"], row["text"])


def _parse_line(line: bytes) -> str:
  try:
    text = jsonl.without_end(line).decode("utf-8")
    return jsonl.optional_text("text", text)
  except UnicodeDecodeError as error:
    raise ValueError(f"not UTF-8 (byte {error.start + 1})") from None


def _titled(title: str, text: str) -> str:
  return f"{title}\n{text}" if title else text


def text_files(path: pathlib.Path) -> list[pathlib.Path]:
  """The *.jsonl and *.txt that `read_texts` reads; BadInput if there are none.

  Sorted by their place in the folder.
  """
  if not path.exists():
    raise BadInput(f"{path} does not exist; give a folder of *.jsonl or *.txt")
  hidden = lambda p: any(x.startswith(".") for x in p.relative_to(path).parts)
  found = [path] if path.is_file() else path.rglob("*")
  files = sorted(
    file
    for file in found
    if file.suffix in (".jsonl", ".txt") and file.is_file() and not hidden(file)
  )
  if not files:
    raise BadInput(f"{path}: holds no *.jsonl and no *.txt")
  return files


def fingerprint(path: pathlib.Path) -> str:
  """A hash that changes when a file that `read_texts` reads changes.

  Files are compared by size and time of modification, not by content, since
  there may be terabytes of them.
  """
  root = path if path.is_dir() else path.parent
  stats = [
    (file.relative_to(root).as_posix(), *_stat(file))
    for file in text_files(path)
  ]
  return cache.key_of({"files": stats})


def _stat(file: pathlib.Path) -> tuple[int, int]:
  stat = file.stat()
  return stat.st_size, stat.st_mtime_ns
