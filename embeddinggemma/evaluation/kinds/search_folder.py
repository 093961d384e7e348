"""What a folder of the BEIR layout has beside corpus, queries and judgements.

The files and fields are those of mteb's data sets: candidates in top_ranked.jsonl
as {"query-id", "corpus-ids"}, instructions in instruction.jsonl as {"query-id",
"instruction"} or in the queries' own field, and in qrel_diff.jsonl the documents
that a changed instruction makes irrelevant, as {"query-id", "corpus-ids"}.
"""

from collections.abc import Iterator, Mapping
from pathlib import Path

from embeddinggemma.data import beir, jsonl
from embeddinggemma.evaluation.kinds import rows
from embeddinggemma.types import BadInput

RANKED, CHANGED = "top_ranked.jsonl", "qrel_diff.jsonl"
INSTRUCTIONS = ("instruction.jsonl", "instructions.jsonl")
QUERIES = "queries.jsonl"


def has(folder: Path, *names: str) -> bool:
  """Whether a folder of the BEIR layout has any of the files as well."""
  return (folder / "corpus.jsonl").exists() and any(
    (folder / name).is_file() for name in names
  )


def instructed(folder: Path) -> bool:
  """Whether the queries of a folder come with instructions."""
  if has(folder, *INSTRUCTIONS, CHANGED):
    return True
  if not has(folder, QUERIES):
    return False
  return bool(rows.first(folder / QUERIES).get("instruction"))


def candidates(
  folder: Path, data: beir.Retrieval
) -> tuple[tuple[int, ...], ...]:
  """Per judged query, the documents to be ranked; none for one without a line.

  They are in the order in which equal scores are ranked, by falling id, as
  trec_eval has it. BadInput names the line of an unknown document.
  """
  path = folder / RANKED
  places = {key: place for place, key in enumerate(data.corpus)}
  found: dict[str, tuple[int, ...]] = {}
  for origin, query, documents in _lists(path, data.corpus):
    if query in found:
      raise BadInput(f"{origin}: query {query!r} has a line already")
    ordered = sorted(set(documents), reverse=True)
    found[query] = tuple(places[key] for key in ordered)
  if not any(found.get(query) for query in data.qrels):
    raise BadInput(f"{path}: no judged query has a candidate")
  return tuple(found.get(query, ()) for query in data.qrels)


def changed(
  folder: Path, data: beir.Retrieval
) -> tuple[tuple[int, int, tuple[int, ...]], ...]:
  """(query with the original instruction, with the changed one, documents).

  Their ids end in -og and -changed. BadInput names the line of a query that is
  not judged under both.
  """
  path = folder / CHANGED
  if not path.is_file():
    return ()
  queries = {key: place for place, key in enumerate(data.qrels)}
  places = {key: place for place, key in enumerate(data.corpus)}
  found = []
  for origin, query, documents in _lists(path, data.corpus):
    pair = f"{query}-og", f"{query}-changed"
    for key in pair:
      if key not in queries:
        raise BadInput(f"{origin}: no judged query has the id {key!r}")
    if documents:
      ids = tuple(places[key] for key in documents)
      found.append((queries[pair[0]], queries[pair[1]], ids))
  if not found:
    raise BadInput(f"{path}: no query has a changed document")
  return tuple(found)


def _lists(
  path: Path, corpus: Mapping[str, object]
) -> Iterator[tuple[str, str, list[str]]]:
  """(FILE:LINE, query id, document ids) of a file of lists."""
  for origin, row in jsonl.read_rows(path, ("query-id",)):
    documents = rows.texts(origin, row, "corpus-ids")
    for key in documents:
      if key not in corpus:
        raise BadInput(f"{origin}: no text has the id {key!r}")
    yield origin, row["query-id"], documents


def with_instructions(folder: Path, data: beir.Retrieval) -> tuple[str, ...]:
  """The judged queries, each with its instruction after it, as in mteb."""
  file = next((n for n in INSTRUCTIONS if (folder / n).is_file()), QUERIES)
  path, key = folder / file, "_id" if file == QUERIES else "query-id"
  told: dict[str, str] = {}
  for origin, row in jsonl.read_rows(path, (key,)):
    value = row.get("instruction")
    try:
      told[row[key]] = jsonl.optional_text("instruction", value)
    except ValueError as error:
      raise BadInput(f"{origin}: {error}") from None
  for query in data.qrels:
    if query not in told:
      raise BadInput(f"{path}: query {query!r} has no instruction")
  return tuple(
    f"{data.queries[query]} {told[query]}"
    if told[query]
    else data.queries[query]
    for query in data.qrels
  )
