"""Search tasks in the BEIR layout: corpus, queries, relevance judgements."""

import collections
import csv
import hashlib
import json
from collections.abc import Hashable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple, TypeVar

from absl import logging

from embeddinggemma.data import jsonl
from embeddinggemma.types import BadInput, Pair

K = TypeVar("K", bound=Hashable)
V = TypeVar("V")


class Retrieval(NamedTuple):
  """Pairs seen as a search task; ids are hashes of the normalised texts."""

  corpus: Mapping[str, tuple[str, str]]  # id -> (title, text)
  queries: Mapping[str, str]
  qrels: Mapping[str, Mapping[str, int]]  # query id -> document id -> relevance


def normalised(text: str) -> str:
  """The text in the form in which duplicates are compared.

  It is case-folded, with each run of white space as one space.
  """
  return " ".join(text.casefold().split())


def text_id(text: str) -> str:
  """An id that equal texts share, whatever their case and spacing."""
  return f"{text_number(text):016x}"


def text_number(text: str) -> int:
  """The same id as a number of 64 bits."""
  data = normalised(text).encode()
  return int.from_bytes(hashlib.blake2b(data, digest_size=8).digest())


def as_retrieval(pairs: Sequence[Pair], max_queries: int) -> Retrieval:
  """Turn pairs into a search task whose documents are their positives.

  Equal texts become one entry, so all positives of a query are relevant to it.
  Of more than `max_queries` distinct queries, those with the smallest hashes
  are kept, with their documents.
  """
  chosen = sorted({text_id(pair.query) for pair in pairs})[:max_queries]
  kept = set(chosen)
  corpus: dict[str, tuple[str, str]] = {}
  queries: dict[str, str] = {}
  qrels: dict[str, dict[str, int]] = collections.defaultdict(dict)
  for pair in pairs:
    query, document = text_id(pair.query), text_id(pair.positive)
    if query in kept:
      queries.setdefault(query, pair.query)
      corpus.setdefault(document, (pair.title, pair.positive))
      qrels[query][document] = 1
  return Retrieval(corpus, queries, dict(qrels))


def write_retrieval(folder: Path, task: str, data: Retrieval) -> None:
  """Writes a BEIR folder and the task.json that names its prompts."""
  documents = [
    {"_id": key, "title": title, "text": text}
    for key, (title, text) in data.corpus.items()
  ]
  queries = [{"_id": key, "text": text} for key, text in data.queries.items()]
  jsonl.write_jsonl(folder / "corpus.jsonl", documents)
  jsonl.write_jsonl(folder / "queries.jsonl", queries)
  lines = ["query-id\tcorpus-id\tscore"]
  for query, relevant in data.qrels.items():
    lines += [f"{query}\t{key}\t{score}" for key, score in relevant.items()]
  (folder / "qrels").mkdir(exist_ok=True)
  jsonl.write_text(folder / "qrels" / "test.tsv", "\n".join(lines) + "\n")
  jsonl.write_text(folder / "task.json", json.dumps({"task": task}) + "\n")


def read_retrieval(folder: Path) -> Retrieval:
  """Reads corpus.jsonl, queries.jsonl and qrels/test.tsv (or dev.tsv).

  Only judged queries are kept. A line that repeats another is left out, which
  is logged. BadInput names the line of a broken row, of a judgement whose query
  or document does not exist, and both lines of an id that has two texts.
  """
  path = folder / "corpus.jsonl"
  corpus = _distinct(
    path, _documents(path), "document {!r} has a text or title"
  )
  path = folder / "queries.jsonl"
  rows = enumerate(jsonl.read_rows(path, ("_id", "text")), 1)
  texts = ((number, row["_id"], row["text"]) for number, (_, row) in rows)
  queries = _distinct(path, texts, "query {!r} has a text")
  qrels = _read_qrels(_qrels_file(folder), queries, corpus)
  if not any(max(scores.values()) > 0 for scores in qrels.values()):
    raise BadInput(f"{folder}: no query has a relevant document")
  return Retrieval(corpus, {key: queries[key] for key in qrels}, qrels)


def _distinct(
  path: Path, rows: Iterable[tuple[int, K, V]], named: str
) -> dict[K, V]:
  """Key -> value of rows (line, key, value), in the order of the lines.

  `named` is what a message says of a key and its value. Raises BadInput for a
  key with two values.
  """
  found: dict[K, V] = {}
  lines: dict[K, int] = {}
  repeated = 0
  for number, key, value in rows:
    if key not in found:
      found[key], lines[key] = value, number
    elif found[key] == value:
      repeated += 1
    else:
      raise BadInput(
        f"{path}:{number}: {named.format(key)} that differs from line"
        f" {lines[key]}; keep one of the two lines, or change an id"
      )
  if repeated:
    logging.warning("%s: left out what is there twice: %d", path, repeated)
  return found


def _documents(path: Path) -> Iterator[tuple[int, str, tuple[str, str]]]:
  """(line, id, (title, text)) of a corpus file.

  A text may be empty, as in public collections.
  """
  for number, (origin, row) in enumerate(jsonl.read_rows(path, ("_id",)), 1):
    if "text" not in row:
      raise BadInput(f"{origin}: 'text' is missing")
    try:
      title = jsonl.optional_text("title", row.get("title"))
      empty = row["text"] is None
      text = "" if empty else jsonl.any_text("text", row["text"])
    except ValueError as error:
      raise BadInput(f"{origin}: {error}") from None
    yield number, row["_id"], (title, text)


def _qrels_file(folder: Path) -> Path:
  for name in "test.tsv", "dev.tsv":
    if (folder / "qrels" / name).is_file():
      return folder / "qrels" / name
  raise BadInput(f"{folder}: no qrels/test.tsv beside corpus.jsonl")


def _read_qrels(
  path: Path, queries: Mapping[str, str], corpus: Mapping[str, object]
) -> dict[str, dict[str, int]]:
  rows = _judgements(path, queries, corpus)
  qrels: dict[str, dict[str, int]] = collections.defaultdict(dict)
  named = "(query, document) {!r} has a grade"
  for (query, document), grade in _distinct(path, rows, named).items():
    qrels[query][document] = grade
  return dict(qrels)


def _judgements(
  path: Path, queries: Mapping[str, str], corpus: Mapping[str, object]
) -> Iterator[tuple[int, tuple[str, str], int]]:
  """(line, (query id, document id), grade) of a qrels file."""
  with path.open(encoding="utf-8", newline="") as file:
    rows = csv.reader(file, delimiter="\t", quoting=csv.QUOTE_NONE)
    for number, row in enumerate(rows, 1):
      try:
        query, document, score = row
        grade = int(score)
      except ValueError:
        if number == 1:
          continue  # the header
        raise BadInput(
          f"{path}:{number}: expected query-id, corpus-id and a whole number"
        ) from None
      for key, known in (query, queries), (document, corpus):
        if key not in known:
          raise BadInput(f"{path}:{number}: no text has the id {key!r}")
      yield number, (query, document), grade
