"""The user's own pairs: pairs.jsonl in, a split without leaks out.

A pair trains the contrastive loss (paper, section 2.2). The side of the split
is decided by a hash and not drawn, so the same text lands on the same side in
every run and on every machine.
"""

import collections
import hashlib
import shutil
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

from absl import logging

from embeddinggemma.data import beir, jsonl, prompts
from embeddinggemma.types import BadInput, Pair

LARGE_COMPONENT = 0.01  # share of all pairs; larger components go to training
MAX_QUERIES = {"validation": 300, "test": 1000}  # of each task
MIN_DOCUMENTS = 5  # with fewer, every ranking looks perfect


def read_pairs(
  directory: Path, skip_bad_rows: bool = False
) -> tuple[list[Pair], list[str]]:
  """Reads pairs.jsonl and */pairs.jsonl of a folder.

  Returns the pairs and, with skip_bad_rows, a message for each skipped line;
  without it the first bad line raises BadInput as FILE:LINE: reason.
  """
  pairs: list[Pair] = []
  skipped: list[str] = []
  for path in pair_files(directory):
    pairs += read_file(path, skipped if skip_bad_rows else None)
  if not pairs:
    raise BadInput(f"{directory}: no usable pair in its pairs.jsonl files")
  return pairs, skipped


def read_file(path: Path, skipped: list[str] | None = None) -> Iterator[Pair]:
  """The pairs of one file.

  A bad line raises BadInput, or its message is appended to `skipped` if given.
  """
  for origin, line in jsonl.read_lines(path):
    try:
      yield _parse_pair(line, origin)
    except (ValueError, BadInput) as error:
      if skipped is None:
        raise BadInput(f"{origin}: {error}") from None
      skipped.append(f"{origin}: {error}")


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
  names = _components(pairs)
  sizes = collections.Counter(names)
  limit = max(LARGE_COMPONENT * len(pairs), min(5, held_out * len(pairs)), 1)
  side = {
    name: 0 if size > limit else _side(name, held_out, salt)
    for name, size in sizes.items()
  }
  if not any(value == 0 for value in side.values()):
    side = dict.fromkeys(side, 0)
  sides: tuple[list[Pair], list[Pair], list[Pair]] = ([], [], [])
  for pair, name in zip(pairs, names, strict=True):
    sides[side[name]].append(pair)
  train, validation, test = sides
  for label, part in ("validation", validation), ("test", test):
    if not part:
      logging.warning("%d pairs are too few for a %s part", len(pairs), label)
  return _without_texts_of(train, [*validation, *test]), validation, test


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
  for name in "train", "validation", "test":
    shutil.rmtree(directory / name, ignore_errors=True)
    (directory / name).mkdir(parents=True)
  write_pairs(directory / "train", train)
  for name, part in ("validation", validation), ("test", test):
    for task, pairs in by_task(part).items():
      retrieval = beir.as_retrieval(pairs, MAX_QUERIES[name])
      if len(retrieval.corpus) < MIN_DOCUMENTS:
        logging.warning("%s/%s: too few documents to rank", name, task)
        continue
      beir.write_retrieval(directory / name / task, task, retrieval)


def write_pairs(directory: Path, pairs: Sequence[Pair]) -> None:
  """Write DIRECTORY/TASK/pairs.jsonl for each task."""
  for task, members in by_task(pairs).items():
    rows = [_pair_row(pair) for pair in members]
    jsonl.write_jsonl(directory / task / "pairs.jsonl", rows)


def content_hash(directory: Path) -> str:
  """SHA-256 over the sorted relative paths and bytes of a folder's files."""
  return _hash(directory, filter(Path.is_file, directory.rglob("*")))


def pairs_hash(directory: Path) -> str:
  """SHA-256 like `content_hash`, of only the files that `read_pairs` reads."""
  return _hash(directory, pair_files(directory))


def _hash(directory: Path, paths: Iterable[Path]) -> str:
  digest = hashlib.sha256()
  files = {path.relative_to(directory).as_posix(): path for path in paths}
  for name in sorted(files):
    data = files[name].read_bytes()
    digest.update(f"{len(name.encode())} {name} {len(data)} ".encode())
    digest.update(data)
  return digest.hexdigest()


def pair_files(directory: Path) -> list[Path]:
  """The pairs.jsonl and */pairs.jsonl of a folder; BadInput if none exists."""
  if not directory.is_dir():
    raise BadInput(f"{directory}: no such folder; give one of */pairs.jsonl")
  files = [directory / "pairs.jsonl", *sorted(directory.glob("*/pairs.jsonl"))]
  files = [path for path in files if path.is_file()]
  if not files:
    raise BadInput(f"{directory}: holds no pairs.jsonl and no */pairs.jsonl")
  return files


def has_pairs(directory: Path) -> bool:
  """Whether a folder holds a file of pairs."""
  try:
    return bool(pair_files(directory))
  except BadInput:
    return False


def _parse_pair(line: bytes, origin: str) -> Pair:
  row = jsonl.parse_row(line, ("query", "positive"), ("title", "task", "lang"))
  given = row.get("negative") or ()
  given = (given,) if isinstance(given, str | dict) else given
  if not isinstance(given, list | tuple):
    raise ValueError("'negative' is neither text nor a list of texts")
  negatives = [_parse_negative(item) for item in given]
  titles = tuple(title for _, title in negatives)
  task = row["task"].strip() or "retrieval"
  prompts.task_named(task)
  return Pair(
    query=row["query"],
    positive=row["positive"],
    negatives=tuple(text for text, _ in negatives),
    negative_titles=titles if any(titles) else (),
    title=row["title"],
    task=task,
    lang=row["lang"].strip(),
    origin=origin,
  )


def _parse_negative(item: Any) -> tuple[str, str]:
  """(text, title) of a negative: a text, or an object {"text", "title"?}."""
  if not isinstance(item, dict):
    return jsonl.checked("negative", item), ""
  if "text" not in item:
    raise ValueError("'negative' is neither text nor a list of texts")
  text = jsonl.checked("negative.text", item["text"])
  return text, jsonl.optional_text("negative.title", item.get("title"))


def _components(pairs: Sequence[Pair]) -> list[str]:
  """The connected component of each pair, named by its smallest text."""
  parent: dict[str, str] = {}

  def find(text: str) -> str:
    parent.setdefault(text, text)
    while parent[text] != text:
      parent[text] = parent[parent[text]]
      text = parent[text]
    return text

  queries = [beir.normalised(pair.query) for pair in pairs]
  for query, pair in zip(queries, pairs, strict=True):
    first, second = find(query), find(beir.normalised(pair.positive))
    parent[max(first, second)] = min(first, second)
  return [find(query) for query in queries]


def _side(name: str, held_out: float, salt: str) -> int:
  """The side that a component's hash selects: 0 train, 1 validation, 2 test."""
  digest = hashlib.blake2b(f"{salt}\0{name}".encode(), digest_size=8).digest()
  place = int.from_bytes(digest) / 2**64
  return 2 if place < held_out else 1 if place < 2 * held_out else 0


def _without_texts_of(
  train: Sequence[Pair], held_out: Sequence[Pair]
) -> list[Pair]:
  texts = {
    beir.normalised(text)
    for pair in held_out
    for text in (pair.query, pair.positive)
  }
  return [
    pair.keep_negatives(lambda n: beir.normalised(n) not in texts)
    for pair in train
  ]


def by_task(pairs: Sequence[Pair]) -> dict[str, list[Pair]]:
  """Task -> its pairs; the order of tasks is that of their first pairs."""
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
