"""Pairs as people have them: formats, columns, labels, and what stops a run."""

import bz2
import csv
import decimal
import gzip
import json
import lzma
import os
import pathlib
import shlex
import sys

import pyarrow as pa
import pyarrow.feather
import pyarrow.parquet
import pytest

from embeddinggemma.cli import flags, main, training, verbs
from embeddinggemma.data import corpus, sources
from embeddinggemma.data.tables import fields as fields_lib
from embeddinggemma.training import prepare
from embeddinggemma.types import BadInput

ROWS = [
  {"query": f"what is {i}", "positive": f"it is {i} \u00fc \U0001f600"}
  for i in range(9)
]


def lines(*rows) -> bytes:
  return b"".join(json.dumps(row).encode() + b"\n" for row in rows)


def cells(delimiter: str, *rows) -> bytes:
  return "".join(delimiter.join(row) + "\n" for row in rows).encode()


def as_cells(delimiter: str) -> bytes:
  return cells(delimiter, ROWS[0].keys(), *(row.values() for row in ROWS))


def parquet(path: pathlib.Path, rows: list, **options) -> None:
  table = pa.Table.from_pylist(rows)
  pyarrow.parquet.write_table(table, path, **options)


def zstd(path: pathlib.Path, data: bytes) -> None:
  with (
    pa.OSFile(str(path), "wb") as file,
    pa.CompressedOutputStream(file, "zstd") as packed,
  ):
    packed.write(data)


def read(path, *rows, fields="", skip=False):
  """((query, positive, negatives) of each pair, what was said, skipped) of a
  file with these rows as JSONL, or as it is."""
  if rows:
    path.write_bytes(lines(*rows))
  said: list[str] = []
  pairs, skipped = sources.read_pairs(path, skip, fields, said.append)
  found = list(pairs)
  # One by one, in parts and backwards: each pair is where it was.
  assert [pairs[n] for n in range(len(pairs))] == found
  assert list(pairs[::-1])[::-1] == found
  assert list(pairs[1::2]) == found[1::2]
  return [tuple(pair[:3]) for pair in found], said, skipped


def refused(path, *rows, fields="") -> str:
  with pytest.raises(BadInput) as found:
    read(path, *rows, fields=fields)
  assert "\n" not in str(found.value)
  return str(found.value)


CELLS = [["query", "positive"], ["a, b", "c"], ["d", "e"]]
WRITERS = {
  "a.jsonl": lambda path: path.write_bytes(lines(*ROWS)),
  "a.ndjson": lambda path: path.write_bytes(lines(*ROWS)),
  "a.json": lambda path: path.write_text(json.dumps(ROWS, indent=2)),
  "b.json": lambda path: path.write_bytes(lines(*ROWS)),
  "a.jsonl.gz": lambda path: path.write_bytes(gzip.compress(lines(*ROWS))),
  "a.jsonl.bz2": lambda path: path.write_bytes(bz2.compress(lines(*ROWS))),
  "a.jsonl.xz": lambda path: path.write_bytes(lzma.compress(lines(*ROWS))),
  "a.jsonl.zst": lambda path: zstd(path, lines(*ROWS)),
  "a.json.gz": lambda path: path.write_bytes(
    gzip.compress(json.dumps(ROWS).encode())
  ),
  "a.csv": lambda path: path.write_bytes(as_cells(",")),
  "b.csv": lambda path: path.write_bytes(b"\xef\xbb\xbf" + as_cells(";")),
  "a.tsv": lambda path: path.write_bytes(as_cells("\t")),
  "a.csv.gz": lambda path: path.write_bytes(gzip.compress(as_cells(","))),
  "a.tsv.zst": lambda path: zstd(path, as_cells("\t")),
  "a.parquet": lambda path: parquet(path, ROWS, row_group_size=2),
  "a.feather": lambda path: pyarrow.feather.write_feather(
    pa.Table.from_pylist(ROWS), str(path)
  ),
}


@pytest.mark.parametrize("name", WRITERS)
def test_every_format_gives_the_same_pairs(tmp_path, name):
  path = tmp_path / name
  WRITERS[name](path)
  found, _, _ = read(path)
  assert found == [(r["query"], r["positive"], ()) for r in ROWS]
  # Also where only its folder is named.
  assert read(tmp_path)[0] == found


@pytest.mark.parametrize(
  ("row", "expected"),
  [
    ({"anchor": "q", "positive": "p", "negative": "n"}, ("p", ("n",))),
    ({"Anchor": "q", "Positive ": "p"}, ("p", ())),
    (
      {"anchor": "q", "positive": "p", "negative_2": "b", "negative_1": "a"},
      ("p", ("a", "b")),
    ),
    ({"anchor": "q", "positive": "p", "negative_1": None}, ("p", ())),
    ({"sentence1": "q", "sentence2": "p"}, ("p", ())),
    ({"question": "q", "answer": "p"}, ("p", ())),
    ({"question1": "q", "question2": "p"}, ("p", ())),
    ({"Query": "q", "pos": "p", "hardNegative 1": "n"}, ("p", ("n",))),
    ({"query": "q", "positive": "p", "operating_system": "x"}, ("p", ())),
    ({"query": "q", "pos": ["p"], "neg": ["a", "b"]}, ("p", ("a", "b"))),
    (
      {
        "query_id": "7",
        "query": "q",
        "positive_passages": [{"docid": "1", "title": "t", "text": "p"}],
        "negative_passages": [{"docid": "2", "title": "", "text": "n"}],
      },
      ("p", ("n",)),
    ),
    ({"query": "q", "positive": "p", "negatives": ["n"]}, ("p", ("n",))),
    ({"query": "q", "positive": "p", "hard_negative": "n"}, ("p", ("n",))),
    ({"question": "q", "answers": {"text": ["p"], "at": [0]}}, ("p", ())),
    (
      {"query": "q", "response": "p", "rejected_response": ["n"]},
      ("p", ("n",)),
    ),
    ({"prompt": "q", "chosen": "p", "rejected": "n"}, ("p", ("n",))),
    ({"anchor": "q", "entailment": "p", "contradiction": "n"}, ("p", ("n",))),
    ({"sentence_0": "q", "sentence_1": "p"}, ("p", ())),
    (
      {
        "task_description": "t",
        "user_query": "q",
        "positive_document": "p",
        "hard_negative_document": "n",
      },
      ("p", ("n",)),
    ),
    (
      {
        "question": "q",
        "answers": ["a"],
        "positive_ctxs": [{"title": "", "text": "p", "passage_id": "1"}],
        "negative_ctxs": [{"title": "", "text": "m", "passage_id": "2"}],
        "hard_negative_ctxs": [{"title": "", "text": "n", "passage_id": "3"}],
      },
      ("p", ("m", "n")),
    ),
  ],
)
def test_columns_are_known_by_the_names_that_people_use(
  tmp_path, row, expected
):
  found, said, _ = read(tmp_path / "a.jsonl", row)
  assert found == [("q", *expected)]
  assert said or set(row) <= {"query", "positive", "negative"}
  parquet(tmp_path / "b.parquet", [row])
  assert read(tmp_path / "b.parquet")[0] == found


def test_several_positives_are_a_pair_each_and_all_is_said(tmp_path):
  row = {"query": "q", "pos": ["a", "b"], "neg": ["c"], "pos_scores": [1, 2]}
  found, said, _ = read(tmp_path / "a.jsonl", row | {"id": 1})
  assert found == [("q", "a", ("c",)), ("q", "b", ("c",))]
  (line,) = said
  assert "positive from 'pos'; negative from 'neg'" in line
  assert "left aside: pos_scores, id (1 rows)" in line


def test_fields_name_columns_and_paths(tmp_path):
  row = {"frage": "q", "a": {"b": "p"}, "n": ["x"], "score": 3}
  fields = "query:frage,positive:a.b,negative:n,ignore:score"
  assert read(tmp_path / "a.jsonl", row, fields=fields)[0] == [
    ("q", "p", ("x",))
  ]


@pytest.mark.parametrize("name", ["a.tsv", "a.csv", "a.jsonl"])
def test_numbers_stand_for_the_columns_of_files_without_names(tmp_path, name):
  rows = [["what is a cat", "an animal", "a dog"], ["who", "me", "you"]]
  path = tmp_path / name
  if name == "a.jsonl":
    path.write_bytes(lines(*rows))
  else:
    path.write_bytes(cells("\t", *rows))
  fields = "query:1,positive:2,negative:3"
  found, _, _ = read(path, fields=fields)
  assert found == [(q, p, (n,)) for q, p, n in rows]
  assert fields in refused(path) or "query:1,positive:2" in refused(path)


def test_one_line_of_json_with_lists_of_passages_is_a_row(tmp_path):
  row = {"query": "a", "pos": [{"text": "b", "k": 1}], "neg": []}
  (tmp_path / "a.json").write_bytes(lines(row))
  assert read(tmp_path / "a.json")[0] == [("a", "b", ())]


def test_an_array_of_arrays_is_rows(tmp_path):
  path = tmp_path / "a.json"
  path.write_text('[["a", "b"], ["c", "d"]]')
  assert len(read(path, fields="query:1,positive:2")[0]) == 2


def test_a_line_of_names_is_no_row_where_numbers_are_given(tmp_path):
  path = tmp_path / "a.tsv"
  path.write_bytes(as_cells("\t"))
  found, said, _ = read(path, fields="query:1,positive:2")
  assert len(found) == len(ROWS)
  assert any("first line holds names" in line for line in said)


@pytest.mark.parametrize(
  ("row", "parts"),
  [
    (
      {"text_a": "a", "text_b": "b"},
      ["query:text_a,positive:text_b", "str 'a'"],
    ),
    ({"query": "a", "posiitve": "b"}, ["no field 'positive'", "posiitve"]),
    (
      {"question": "a", "context": "b", "answer": "c"},
      ["query:question,positive:answer", "query:question,positive:context"],
    ),
    (
      {"query": "a", "positive": "b", "label": 1, "score": 0.3},
      ["--fields=label:label,ignore:score"],
    ),
    (
      {"query": "a", "positive": "b", "negtive": "c"},
      ["negative:negtive", "ignore:negtive"],
    ),
    (
      {"sentence1": "a", "sentence2": "b", "score": 4.2},
      ["label:score>=4", "ignore:score"],
    ),
    ({"query": "a", "positive": "b", "label": "x"}, ["label:label=x"]),
    ({"query": "a", "positive": "b", "label": None}, ["empty"]),
    ({"query": "a", "positive": "b", "score": [1.0]}, ["ignore:score"]),
    ({"query": "a", "positive": "b", "bm25-score": 1}, ["ignore:bm25-score"]),
    ({"query": "a", "positive": "b", "isRelevent": 1}, ["ignore:isRelevent"]),
    ({"query": "a", "positive": "b", "task": "chess"}, ["ignore:task"]),
    ({"query": "a", "pos": []}, ["'pos' is empty"]),
    ({"query": "a", "pos": ["b"], "neg": [None]}, ["not text but NoneType"]),
  ],
)
def test_what_is_not_understood_stops_with_the_line_to_write(
  tmp_path, row, parts
):
  said = refused(tmp_path / "a.jsonl", row)
  assert said.startswith(f"{tmp_path}/a.jsonl:1: ")
  for part in parts:
    assert part in said


def follow(path, said: str) -> list:
  """The pairs that are read with the first --fields that a message has."""
  words = shlex.split(said[said.index("--fields=") :].replace(";", " "))
  fields = words[0].removeprefix("--fields=").rstrip(",")
  try:
    return read(path, fields=fields)[0]
  except BadInput as error:  # the next thing to say
    assert str(error) != said
    return follow(path, str(error))


@pytest.mark.parametrize(
  ("row", "negatives"),
  [
    ({"query": "a", "positive": "b", "negtive": "c"}, ("c",)),
    ({"query": "a", "positive": "b", "a negative": "c"}, ("c",)),
    ({"query": "a", "positive": "b", "score": 0.9}, ()),
    ({"query": "a", "positive": "b", "label": "so so"}, ()),
    ({"the query": "a", "its > answer": "b"}, ()),
    ({"set": ["a", "b"]}, ()),
    ({"questions": {"id": [1, 2], "text": ["a", "b"]}}, ()),
    ({"id": "1", "translation": {"en": "a", "de": "b"}}, ()),
    ({"instruction": "a", "input": "", "output": "b"}, ()),
    ({"split": "train", "title": "a", "body": "b"}, ()),
    ({"query": {"id": 1, "text": "a"}, "positive": "b"}, ()),
    ({"query": "a", "positive": "b", "negative": "c", "negtive": "d"}, "dc"),
    ({"query": "a", "positive": "b", "distractors": ["c", "d"]}, "cd"),
    ({"query": "a", "positive": "b", "rejected": True}, ()),
    (
      {"query": "a", "pos": ["b"], "neg": {"bm25": ["c"], "dense": ["d"]}},
      "cd",
    ),
    (
      {
        "query": "a",
        "pos": [{"content": "b"}],
        "neg": [{"content": "c"}, {"content": "d"}],
      },
      "cd",
    ),
    (
      {
        "messages": [
          {"role": "user", "content": "a"},
          {"role": "assistant", "content": "b"},
        ],
        "rejected_messages": [
          [{"role": "assistant", "content": "c"}],
          [{"role": "assistant", "content": "d"}],
        ],
      },
      "cd",
    ),
  ],
)
def test_the_line_to_write_works_in_a_shell(tmp_path, row, negatives):
  said = refused(tmp_path / "a.jsonl", row)
  assert follow(tmp_path / "a.jsonl", said) == [("a", "b", tuple(negatives))]


@pytest.mark.parametrize(
  ("name", "data", "expected"),
  [
    ("a.csv", b"query,doc,label\na,b,3\na,c,0\n", ("a", "b", ("c",))),
    (
      "a.csv",
      b"sentence_A,sentence_B,relatedness_score\na,b,4.5\n",
      ("a", "b", ()),
    ),
    ("a.jsonl", b'["a", "b", "n"]\n', ("a", "b", ("n",))),
    ("a.csv", b"MSRvid\t5.0\ta man\tthe man\n", ("a man", "the man", ())),
    ("a.tsv", b'query\tdoc\n"a" b\t"c" d\n', ('"a" b', '"c" d', ())),
    (
      "a.jsonl",
      b'{"query": "a", "positive": "b", "label": NaN}\n',
      ("a", "b", ()),
    ),
  ],
)
def test_the_line_to_write_reads_a_file(tmp_path, name, data, expected):
  (tmp_path / name).write_bytes(data)
  assert follow(tmp_path / name, refused(tmp_path / name)) == [expected]


def test_rows_that_a_quote_may_have_joined_are_said(tmp_path):
  path = tmp_path / "a.tsv"
  path.write_bytes(b'query\tpositive\na\t"b\nc\td"\n')
  found, said, _ = read(path)
  assert found == [("a", "b\nc\td", ())]
  assert "in 1 rows; if they are text, write --fields=quote:none" in said[0]
  assert len(read(path, fields="quote:none")[0]) == 2


def test_names_that_fields_cannot_hold_are_said(tmp_path):
  row = {"query": "a", "positive": "b", "negative, hard": "c"}
  said = refused(tmp_path / "a.jsonl", row)
  assert "column 'negative, hard' (str 'c') may matter" in said
  said = refused(tmp_path / "a.jsonl", fields="negative:negative, hard")
  assert "rename a column whose name has a comma" in said
  row = {"query": "a", "positive": "b", "score_>=_high": 1}
  assert "ignore:score_>=_high" in refused(tmp_path / "a.jsonl", row)


def test_a_line_that_names_the_separator_is_followed(tmp_path):
  path = tmp_path / "a.csv"
  path.write_bytes(b"\xef\xbb\xbfsep=;\r\n" + cells(";", *CELLS))
  assert read(path)[0] == [("a, b", "c", ()), ("d", "e", ())]
  path.write_bytes(b"sep=~\nquery~positive\na~b\nc\n")
  assert refused(path).startswith(f"{path}:4: ")


def test_labels_and_negatives_of_pandas_and_sql(tmp_path):
  table = pa.table(
    {
      "query": ["a", "a"],
      "positive": ["b", "c"],
      "label": [decimal.Decimal("1.00"), decimal.Decimal("0.00")],
    }
  )
  pyarrow.parquet.write_table(table, tmp_path / "a.parquet")
  assert read(tmp_path / "a.parquet")[0] == [("a", "b", ("c",))]
  row = {"query": "a", "positive": "b", "negative": float("nan")}
  assert read(tmp_path / "a.jsonl", row)[0] == [("a", "b", ())]


def test_blank_lines_are_no_rows(tmp_path):
  path = tmp_path / "a.jsonl"
  path.write_bytes(
    b"\n" + lines(*ROWS[:2]) + b" \r\n" + lines(*ROWS[2:]) + b"\n"
  )
  assert len(read(path)[0]) == len(ROWS)
  path.write_bytes(b"\n\n{\n")
  assert refused(path).startswith(f"{path}:3: ")


def test_what_is_no_file_is_said(tmp_path):
  os.mkfifo(tmp_path / "a.jsonl")
  assert "cat " in refused(tmp_path / "a.jsonl")
  assert "it holds a.jsonl (not a file)" in refused(tmp_path)
  (tmp_path / "b.jsonl").symlink_to("gone")
  assert "a link to gone, which is not there" in refused(tmp_path / "b.jsonl")
  assert "no such folder or file" in refused(tmp_path / "c.jsonl")


def test_a_late_row_of_other_columns_is_seen(tmp_path):
  rows = [*ROWS, {"query": "a", "positive": "b", "is_relevent": 0}]
  said = refused(tmp_path / "a.jsonl", *rows)
  assert said.startswith(f"{tmp_path}/a.jsonl:10: column 'is_relevent'")
  rows[-1] = {"query": "what is 1", "positive": "no", "label": 0}
  found, said, _ = read(tmp_path / "a.jsonl", *rows)
  assert found[1] == ("what is 1", ROWS[1]["positive"], ("no",))
  assert "label from 'label'" in said[1]


@pytest.mark.parametrize(
  ("yes", "no", "fields"),
  [
    (1, 0, ""),
    (True, False, ""),
    (1.0, 0.0, ""),
    ("1", "0", ""),
    ("duplicate", "not_duplicate", ""),
    ("entailment", "contradiction", ""),
    (4.5, 3.9, "label:label>=4"),
    ("0", "1", "label:label=0"),
    ("Yes!", "Nope", "label:label=yes!"),
  ],
)
def test_a_pair_that_a_label_denies_is_a_negative(tmp_path, yes, no, fields):
  row = lambda q, p, label: {"sentence1": q, "sentence2": p, "label": label}
  rows = [
    row("a", "no", no),
    row("a", "yes", yes),
    row("A ", "Yes", no),  # the same query and text: it is a positive too
    row("lonely", "no", no),
    row("a", "too", yes),
  ]
  found, said, _ = read(tmp_path / "a.jsonl", *rows, fields=fields)
  assert found == [("a", "yes", ("no",)), ("a", "too", ("no",))]
  assert said[1].endswith(
    "2 positives by their labels; of the others, 1 are negatives of their query,"
    " 1 left out since it has no positive, 1 since they are positives too"
  )


def test_numbers_of_snli_are_three_classes(tmp_path):
  row = lambda p, label: {"premise": "a", "hypothesis": p, "label": label}
  rows = [row("yes", 0), row("maybe", 1), row("no", 2), row("odd", -1)]
  found, said, _ = read(tmp_path / "a.jsonl", *rows)
  assert found == [("a", "yes", ("no",))]
  assert "0 or entailment is a positive" in said[0]
  assert said[1].endswith(", 2 as neither")


def test_names_of_classes_in_an_arrow_file_win_over_numbers(tmp_path):
  features = {"label": {"names": ["equivalent", "not_equivalent"]}}
  about = json.dumps({"info": {"features": features}})
  table = pa.table(
    {"sentence1": ["a", "a"], "sentence2": ["yes", "no"], "label": [0, 1]}
  ).replace_schema_metadata({"huggingface": about})
  pyarrow.parquet.write_table(table, tmp_path / "a.parquet")
  assert read(tmp_path / "a.parquet")[0] == [("a", "yes", ("no",))]


def test_a_corpus_of_labels_keeps_their_negatives(tmp_path):
  rows = [
    {"query": f"q {i}", "positive": f"{kind} {i}", "label": kind == "yes"}
    for i in range(60)
    for kind in ("no", "yes")
  ]
  (tmp_path / "a.csv").write_bytes(
    cells(",", rows[0], *(map(str, row.values()) for row in rows))
  )
  about = corpus.write(str(tmp_path), False, tmp_path / "out")
  train = list(corpus.read_train(tmp_path / "out"))
  assert 40 < len(train) == about["tasks"]["retrieval"] < 60
  for pair in train:
    assert pair.negatives == (pair.positive.replace("yes", "no"),)


BAD = {
  "a.csv": (b"query,positive\na,b\nc\nd,\xff\ne,f\n", [3, 4], 2),
  "b.csv": (b'query,positive\na,"b\nb"\nc,"d"e\nf,g\n', [4], 2),
  "c.csv": (b"query,positive\na,b\0\nc,d\n", [2], 1),
  "d.csv": (b'query,positive\na,b\n"c,d\n', [3], 1),
  "a.json": (
    b'[{"query":"a","positive":"b"},\n{"query":1,"positive":"b"}]',
    [2],
    1,
  ),
  "a.jsonl": (
    lines(ROWS[0], {"query": " "}) + b'{"query": "a", "query": "b"}\n',
    [2, 3],
    1,
  ),
}


@pytest.mark.parametrize("name", BAD)
def test_bad_rows_have_a_place_or_are_skipped(tmp_path, name):
  data, places, good = BAD[name]
  path = tmp_path / name
  path.write_bytes(data)
  of = " row " if name == "a.json" else ""
  assert refused(path).startswith(f"{path}:{of}{places[0]}: ")
  found, _, skipped = read(path, skip=True)
  assert len(found) == good
  assert [line.split(": ")[0] for line in skipped] == [
    f"{path}:{of}{n}".split(": ")[0] for n in places
  ]


def test_nulls_in_parquet_have_a_row(tmp_path):
  parquet(tmp_path / "a.parquet", [*ROWS, {"query": None, "positive": "p"}])
  said = refused(tmp_path / "a.parquet")
  assert said.endswith("a.parquet: row 10: 'query' is not text but NoneType")


@pytest.mark.parametrize(
  ("name", "data", "part"),
  [
    ("a.csv", b"", "the file is empty"),
    ("a.csv", b"query,positive\n", "no usable pair"),
    ("a.csv", "query,positive\na,b\n".encode("utf-16"), "iconv -f UTF-16"),
    ("a.csv", b"query,positive,n\xe4chstes\na,b,c\n", "not UTF-8"),
    ("a.csv", b"query,query,positive\na,b,c\n", "two columns"),
    ("a.csv", b"query,pos\na,\"['x', 'y']\"\n", "a list as text"),
    ("a.jsonl", b"", "no usable pair"),
    ("a.jsonl", b"[1]\n", "not a JSON object but list"),
    ("a.json", b"[]", "no usable pair"),
    ("a.json", b'[{"query": "a"', "row 1: not JSON"),
    (
      "a.json",
      b'[{"query":"a","positive":"b"}',
      "row 2: the array does not end",
    ),
    ("a.json", b'[{"query":"a","positive":"b"}] x', "more text follows"),
    ("a.json", b'{\n"query": "a"\n}', "jq -c . "),
    (
      "a.json",
      b'{"rows": [{"a": 1, "b": 2}, {"a": 1, "b": 2}]}',
      "'rows' holds",
    ),
    ("a.jsonl.gz", gzip.compress(lines(*ROWS))[:-9], "cut off"),
    ("a.jsonl.gz", lines(*ROWS), "rename it to a.jsonl"),
    ("a.jsonl.gz", bz2.compress(b"x"), "rename it to a.jsonl.bz2"),
    ("a.jsonl", gzip.compress(lines(*ROWS)), "rename it to a.jsonl.gz"),
    ("a.csv", b"PK\x03\x04", "zip archive"),
    ("a.jsonl", b"\xfe\xff\0{", "iconv -f UTF-16"),
    ("a.jsonl.zst", b"\xffnothing", "damaged"),
    ("a.jsonl", b'{"query": "a", "positive": "b"},\n', "the comma at its end"),
    ("a.json", b'{"query": ["a", "b"], "pos": ["c", "d"]}', "of columns"),
    ("a.tsv", b"1\t2\t3\n4\t5\t6\n", "replace ids by their texts"),
    ("a.tsv", b"query-id\tcorpus-id\tscore\nq\td\t1\n", "ids must be"),
    ("a.csv", b"text\na\n", "a pair needs two columns of texts"),
    ("a.csv", b"query,doc,label\na,b,0\n", "no label is that of a positive"),
    ("a.csv", b"# mine\nquery,doc\na,b\n", "one column (# mine)"),
    ("a.csv", b'{"query": "a", "doc": "b"}\n', "rename it to .jsonl"),
    ("a.jsonl", b'[{"query": "a", "doc": "b"}]\n', "rename the file to .json"),
    ("a.jsonl", b'{\n"query": "a"\n}\n', "rename the file to .json"),
    ("a.parquet", b"PAR1 nothing PAR1", "cannot be read"),
    ("a.arrow", b"nothing", "cannot be read"),
    ("a.xlsx", b"PK", "known: JSONL"),
  ],
)
def test_damaged_and_unknown_files_are_one_line(tmp_path, name, data, part):
  (tmp_path / name).write_bytes(data)
  said = refused(tmp_path / name)
  assert part in said
  assert name in said


def test_a_zst_that_ends_too_early_is_seen(tmp_path):
  zstd(tmp_path / "a.jsonl.zst", lines(*ROWS * 50))
  whole = (tmp_path / "a.jsonl.zst").read_bytes()
  (tmp_path / "a.jsonl.zst").write_bytes(whole[:-20])
  assert "cut off" in refused(tmp_path / "a.jsonl.zst")


def files(folder, *names) -> pathlib.Path:
  for name in names:
    path = folder / name
    path.parent.mkdir(parents=True, exist_ok=True)
    if path.suffix == ".parquet":
      parquet(path, ROWS)
    else:
      path.write_bytes(as_cells(",") if ".csv" in name else lines(*ROWS))
  return folder


@pytest.mark.parametrize(
  ("names", "count", "unread"),
  [
    (["pairs.jsonl", "a/pairs.jsonl"], 2, ""),
    (["pairs.jsonl", "b.csv"], 1, "b.csv"),
    (["pairs.csv"], 1, ""),
    (["de/pairs.csv", "en/pairs.csv"], 2, ""),
    (["train.csv", "test.csv", "dev.csv"], 1, "dev.csv, test.csv"),
    (
      [
        "data/train-00000-of-00002.parquet",
        "data/train-00001-of-00002.parquet",
      ],
      2,
      "",
    ),
    (["data/train-0.parquet", "data/test-0.parquet"], 1, "data/test-0.parquet"),
    (
      ["train/0001.parquet", "train/0002.parquet", "test/0001.parquet"],
      2,
      "test",
    ),
    (["faq.jsonl", "faq_more/.hidden.jsonl"], 1, ""),
    (["faq.jsonl", "test.jsonl"], 1, "test.jsonl"),
    (["test.parquet"], 1, ""),
  ],
)
def test_one_rule_says_which_files_of_a_folder_are_read(
  tmp_path, names, count, unread
):
  found, said, _ = read(files(tmp_path, *names))
  assert len(found) == count * len(ROWS)
  assert (unread in said[0] and "is not" in said[0]) if unread else said == []


@pytest.mark.parametrize(
  "names",
  [
    ["a.csv", "b.csv"],
    ["train.csv", "train.jsonl"],
    ["en/train.csv", "de/train.csv"],
    ["train.csv", "more.csv"],
    ["dev.csv", "test.csv"],
  ],
)
def test_an_unclear_folder_stops_with_its_files(tmp_path, names):
  said = refused(files(tmp_path, *names))
  for name in names:
    assert name in said
  assert "name one, such as" in said


def test_a_folder_of_nothing_says_what_it_holds(tmp_path):
  (tmp_path / "notes.txt").write_text("x")
  said = refused(tmp_path)
  assert "holds no pairs.jsonl" in said
  assert "it holds notes.txt" in said


def test_a_column_of_fields_that_no_row_has_is_named(tmp_path):
  said = refused(tmp_path / "a.jsonl", *ROWS, fields="negative:negs")
  assert "'negs', which no row has; there are query, positive" in said


@pytest.mark.parametrize(
  "text",
  [
    "question",
    "quer:a",
    "query:",
    "query:a,query:b",
    "label:a>=x",
    "query:a,positive:a",
  ],
)
def test_fields_of_no_sense_are_refused(text):
  with pytest.raises(BadInput, match="--fields"):
    fields_lib.parse(text)


def test_quotes_can_be_text(tmp_path):
  path = tmp_path / "a.tsv"
  path.write_bytes(b'query\tpositive\n"so" he said\tb\n')
  assert "quote:none" in refused(path)
  found, _, _ = read(path, fields="query:query,positive:positive,quote:none")
  assert found == [('"so" he said', "b", ())]


def test_the_hash_follows_what_is_read(tmp_path):
  path = files(tmp_path, "train.csv", "test.csv")
  first = corpus.fingerprint(str(path))
  (tmp_path / "test.csv").write_text("other")
  assert corpus.fingerprint(str(path)) == first
  assert corpus.fingerprint(str(path), "query:query,positive:positive") != first
  (tmp_path / "train.csv").write_bytes(as_cells(",") + b"x,y\n")
  assert corpus.fingerprint(str(path)) != first


def test_running_text_is_not_taken_for_pairs(tmp_path):
  (tmp_path / "a.jsonl").write_bytes(lines({"text": "a"}))
  assert not sources.has_pairs(tmp_path)
  (tmp_path / "a.jsonl").write_bytes(lines({"anchor": "a", "positive": "b"}))
  assert sources.has_pairs(tmp_path)


def test_a_data_set_that_was_saved_is_read(tmp_path):
  datasets = pytest.importorskip("datasets")
  made = datasets.Dataset.from_list(ROWS)
  made.save_to_disk(tmp_path / "one", num_shards=2)
  expected = [(r["query"], r["positive"], ()) for r in ROWS]
  assert read(tmp_path / "one")[0] == expected
  both = datasets.DatasetDict(train=made, test=made.select(range(2)))
  both.save_to_disk(tmp_path / "both")
  found, said, _ = read(tmp_path / "both")
  assert found == expected
  assert said == [f"{tmp_path}/both: of its splits train is read, test is not"]
  made.select([3, 1]).save_to_disk(tmp_path / "some")
  assert read(tmp_path / "some")[0] == [expected[3], expected[1]]


def test_a_name_of_the_hub_is_one_line_without_a_network(monkeypatch):
  pytest.importorskip("datasets")
  monkeypatch.setenv("HF_HUB_OFFLINE", "1")
  said = refused(pathlib.Path("nobody/no-such-data-set"))
  assert said.startswith("nobody/no-such-data-set: no such folder or file")


def test_verbs_read_a_table_and_say_how(tmp_path, capsys):
  rows = [
    [f"where is {i}?", f"{i} is in row {i}, {kind}", label]
    for i in range(40)
    for kind, label in (("really", "good"), ("not at all", "bad"))
  ]
  with (tmp_path / "faq.csv").open("w", newline="") as file:
    csv.writer(file).writerows([["Question", "Text", "verdict"], *rows])
  argv = [
    "prepare",
    f"--config=configs/finetune.py:tiny,data={tmp_path / 'faq.csv'}",
    "--config.negatives=1",
    "--show=0:1",
  ]
  fields = "query:Question,positive:Text"
  assert main.call(argv) == 2
  assert "no field 'positive'; found: Question, Text, verdict" in (
    capsys.readouterr().err
  )
  labelled = f"{fields},label:verdict=good"
  assert main.call([*argv, f"--fields={labelled}"]) == 0
  said = " ".join(capsys.readouterr().err.split())
  assert "label from 'verdict' (=good is a positive)" in said
  assert "40 positives by their labels; of the others, 40 are negatives" in said
  mine = [
    "mine",
    "--config=configs/mine.py",
    f"--data={tmp_path / 'faq.csv'}",
    f"--output={tmp_path / 'mined'}",
    "--config.search=stemmed",
  ]
  assert main.call([*mine, f"--fields={labelled}"]) == 0
  pairs, _ = sources.read_pairs(tmp_path / "mined")
  assert pairs[3].negatives == ("3 is in row 3, not at all",)


def test_mapping_and_path_decide_the_inputs_of_a_training(tmp_path):
  (tmp_path / "faq.csv").write_bytes(as_cells(","))
  keys = []
  for fields in "", "query:positive,positive:query":
    argv = [
      f"--config=configs/finetune.py:tiny,data={tmp_path / 'faq.csv'}",
      f"--workdir={tmp_path}",
      f"--fields={fields}" if fields else "--noskip_bad_rows",
    ]
    values, _ = flags.parse("train", verbs.VERBS["train"], argv)
    config = training.train_config(values)
    keys.append(prepare.dependencies(config))
  assert keys[0] != keys[1]
  assert "fields" not in keys[0]["data"]


@pytest.mark.parametrize(
  ("package", "name"),
  [
    ("pyarrow", "a.parquet"),
    ("pyarrow", "a.jsonl.zst"),
    ("datasets", "owner/name"),
  ],
)
def test_what_is_not_installed_is_one_line(
  tmp_path, monkeypatch, package, name
):
  monkeypatch.setitem(sys.modules, package, None)  # as if it were not there
  path = pathlib.Path(name) if package == "datasets" else tmp_path / name
  if package == "pyarrow":
    path.write_bytes(b"\x28\xb5\x2f\xfd")
  assert f"pip install {package}" in refused(path)
