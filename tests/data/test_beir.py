"""What is in a BEIR folder twice is said, and two things of one name refused."""

import json

import pytest

from embeddinggemma.data import beir, jsonl
from embeddinggemma.types import BadInput

CORPUS = [{"_id": "d1", "title": "T", "text": "one"}, {"_id": "d2", "text": ""}]
QUERIES = [{"_id": "q1", "text": "first"}, {"_id": "q2", "text": "second"}]
QRELS = ["q1\td1\t1", "q2\td2\t2"]


def _write(folder, corpus=(), queries=(), qrels=()):
  """A folder with some lines more than it needs."""
  (folder / "qrels").mkdir()
  lines = lambda rows: "".join(json.dumps(row) + "\n" for row in rows)
  (folder / "corpus.jsonl").write_text(lines([*CORPUS, *corpus]))
  (folder / "queries.jsonl").write_text(lines([*QUERIES, *queries]))
  judged = ["query-id\tcorpus-id\tscore", *QRELS, *qrels]
  (folder / "qrels" / "test.tsv").write_text("\n".join(judged) + "\n")
  return folder


def test_what_is_there_twice_counts_once_and_is_said(tmp_path, caplog):
  folder = _write(
    tmp_path, [CORPUS[0], CORPUS[1], CORPUS[0]], [QUERIES[1]], [QRELS[0]]
  )
  data = beir.read_retrieval(folder)
  assert data.corpus == {"d1": ("T", "one"), "d2": ("", "")}
  assert data.qrels == {"q1": {"d1": 1}, "q2": {"d2": 2}}
  said = [record.getMessage() for record in caplog.records]
  assert [line.rsplit("/", 1)[1] for line in said] == [
    "corpus.jsonl: left out what is there twice: 3",
    "queries.jsonl: left out what is there twice: 1",
    "test.tsv: left out what is there twice: 1",
  ]


@pytest.mark.parametrize(
  ("more", "reason"),
  [
    (
      {"corpus": [{"_id": "d1", "text": "one"}]},
      r"corpus.jsonl:3: document 'd1' has a text or title that differs from line 1;",
    ),
    (
      {"corpus": [{"_id": "d2", "title": "U", "text": ""}]},
      r"corpus.jsonl:3: document 'd2' has a text or title that differs from line 2",
    ),
    (
      {"queries": [{"_id": "q2", "text": "Second"}]},
      r"queries.jsonl:3: query 'q2' has a text that differs from line 2; keep one",
    ),
    (
      {"qrels": ["q2\td2\t1"]},
      r"test.tsv:4: \(query, document\) \('q2', 'd2'\) has a grade",
    ),
  ],
)
def test_one_name_of_two_things_names_both_lines(tmp_path, more, reason):
  with pytest.raises(BadInput, match=reason):
    beir.read_retrieval(_write(tmp_path, **more))


def test_a_field_of_two_values_is_refused():
  parse = lambda line: jsonl.parse_row(line, ("text",), ("title",))
  with pytest.raises(
    ValueError, match="the field 'text' comes twice, with two"
  ):
    parse(b'{"text": "a", "text": "b"}')
  with pytest.raises(ValueError, match="the field 'title' comes twice"):
    parse(b'{"text": "a", "title": "b", "title": null}')
  same = {"text": "a", "title": ""}
  assert parse(b'{"text": "a", "text": "a"}') == same
  # What nobody reads may be as it is.
  odd = b'{"text": "a", "m": {"text": 1, "text": 2}, "n": 1, "n": 2}'
  assert parse(odd)["text"] == "a"
