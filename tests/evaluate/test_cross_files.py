"""Folders of XOR-Retrieve and XTREME-UP as released, whole and broken."""

import re

import pytest
from cross_files import (
  DEV,
  PASSAGES,
  TOPICS,
  question,
  write_jsonl,
  write_tsv,
  write_xor,
  write_xtreme,
)

from embeddinggemma.evaluation import suite
from embeddinggemma.evaluation.cross import passages, xor_retrieve, xtreme_up
from embeddinggemma.types import BadInput


def _texts(path):
  found = passages.checked(path, passages.tsv, lambda number, passage: None)
  return [
    t for block in found.blocks(2) for t in zip(block.titles, block.texts)
  ]


EXPECTED = [(title, text) for _, text, title in PASSAGES]


def test_passages_of_each_layout(tmp_path):
  path = tmp_path / "psgs_w100.tsv"
  assert _texts(write_tsv(path, PASSAGES)) == EXPECTED
  assert _texts(write_tsv(path, PASSAGES, header=None)) == EXPECTED
  turned = [(title, key, text) for key, text, title in PASSAGES]
  assert _texts(write_tsv(path, turned, ("title", "id", "text"))) == EXPECTED
  packed = tmp_path / "psgs_w100.tsv.gz"
  assert _texts(write_tsv(packed, PASSAGES)) == EXPECTED
  whole = path.read_bytes()
  path.write_bytes(b"\xef\xbb\xbf" + whole)
  assert _texts(path) == EXPECTED
  odd = [("1", "a\ttab and\nan end", "T"), ("2", "東京 é", "")]
  assert _texts(write_tsv(path, odd)) == [(t, text) for _, text, t in odd]


@pytest.mark.parametrize(
  ("text", "said"),
  [
    ("", ": no passages"),
    ("id\ttext\ttitle\n", ": no passages"),
    ("id\ttitle\tsection\ttext\n1\ta\tb\tc\n", ":1: the columns are id, title"),
    ("docid\ttext\ttitle\n", ":1: the columns are docid"),
    ("id\ttext\ttitle\n1\ta\tb\n2\tonly\n", ":3: 2 columns; expected id, text"),
    ("1\ta\tb\tc\n", ":1: 4 columns"),
    ('id\ttext\ttitle\n1\t"a\nb"\tT\n2\n', ":4: 1 columns"),
    ('id\ttext\ttitle\n1\t"' + "a" * 200_000, ":2: "),
  ],
)
def test_passages_that_are_broken_are_named(tmp_path, text, said):
  write_xor(tmp_path)
  (tmp_path / "psgs_w100.tsv").write_text(text)
  with pytest.raises(BadInput, match=re.escape(f"psgs_w100.tsv{said}")) as told:
    suite.read_suite(tmp_path)
  assert "\n" not in str(told.value)


def test_passages_that_are_not_utf8_or_not_whole_are_named(tmp_path):
  write_xor(tmp_path)
  path = tmp_path / "psgs_w100.tsv"
  path.write_bytes(path.read_bytes() + b"7\t\xff\tT\n")
  with pytest.raises(BadInput, match=r"psgs_w100.tsv:8: not UTF-8 \(byte 3\)"):
    suite.read_suite(tmp_path)
  path.unlink()
  packed = write_tsv(tmp_path / "psgs_w100.tsv.gz", PASSAGES * 500)
  packed.write_bytes(packed.read_bytes()[:-20])
  with pytest.raises(BadInput, match=r"psgs_w100.tsv.gz:.* damaged or cut off"):
    suite.read_suite(tmp_path)


def test_a_folder_of_xor_retrieve(tmp_path):
  """The development set is scored; its other files are not."""
  folder = write_xor(tmp_path / "suite" / "xor")
  row = question(0, "fi", ["x"])
  write_jsonl(folder / "xor_train_retrieve_eng_span.jsonl", [row])
  write_jsonl(folder / "xor_dev_retrieve_eng_span.jsonl", [row])
  del row["answers"]
  name = "xor_test_retrieve_eng_span_q_only_v1_1.jsonl"
  write_jsonl(folder / name, [row])
  (task,) = suite.read_suite(tmp_path / "suite")
  assert (task.name, task.kind) == ("xor", "XOR-Retrieve")
  assert task.task == "qa_xling" and task.documents == ()
  assert task.queries[0] == "river fi?" and len(task.queries) == 4
  assert task.source.split == "dev"
  (folder / "task.json").write_text('{"task": "retrieval"}')
  assert suite.read_suite(folder)[0].task == "retrieval"


def test_a_file_of_questions_is_scored_with_the_passages_beside_it(tmp_path):
  write_xor(tmp_path)
  rows = [question(0, "fi", ["1900"])]
  name = "xor_train_retrieve_eng_span.jsonl"
  (task,) = suite.read_suite(write_jsonl(tmp_path / name, rows))
  assert task.kind == "XOR-Retrieve" and task.source.split == "train"
  (tmp_path / DEV).unlink()
  with pytest.raises(BadInput, match=f"no {DEV}, .*; to score {name}, name"):
    suite.read_suite(tmp_path)
  (tmp_path / name).rename(tmp_path / "mine.jsonl")
  assert suite.read_suite(tmp_path)[0].kind == "XOR-Retrieve"


def test_pairs_with_the_same_columns_stay_pairs(tmp_path):
  """Rows of id, question, answers and lang, without passages beside them."""
  rows = [question(n, "fi", [f"answer {n}"]) for n in range(3)]
  (task,) = suite.read_suite(write_jsonl(tmp_path / "faq.jsonl", rows))
  assert task.kind == "retrieval" and len(task.queries) == 3
  rows = [
    {"id": str(n), "question": t, "title": t, "context": f"a {t}"}
    for n, t in enumerate(TOPICS)
  ]
  (task,) = suite.read_suite(write_jsonl(tmp_path / "squad.jsonl", rows))
  assert task.kind == "retrieval" and len(task.queries) == len(TOPICS)


@pytest.mark.parametrize(
  ("rows", "said"),
  [
    (["{"], ":1: not JSON"),
    ([{"id": "1", "question": "q", "answers": ["a"]}], ":1: no field 'lang'"),
    ([question(0, "fi", ["a"]), question(0, "xx", ["a"])], ":2: unknown lang"),
    ([question(0, "fi", "1900")], ":1: 'answers' is not a list"),  # type: ignore
    ([question(0, "fi", [1900])], ":1: 'answers' is not text but int"),
    ([question(0, "fi", ["yes"])], ": no question has an answer other than"),
    ([question(0, "fi", [])], ": no question has an answer other than"),
    ([question(0, "fi", ["a"]) | {"id": 1.5}], ":1: 'id' is neither text nor"),
  ],
)
def test_questions_that_are_broken_are_named(tmp_path, rows, said):
  with pytest.raises(BadInput, match=re.escape(f"{DEV}{said}")):
    suite.read_suite(write_xor(tmp_path, rows))


def test_questions_without_answers_are_those_of_the_test_set(tmp_path):
  row = question(0, "fi", [])
  del row["answers"]
  write_xor(tmp_path)
  path = tmp_path / "xor_test_retrieve_eng_span_q_only_v1_1.jsonl"
  with pytest.raises(BadInput, match=r"jsonl:1: no field 'answers'; those of"):
    suite.read_suite(write_jsonl(path, [row]))


def test_questions_whose_answers_are_not_english_are_refused(tmp_path):
  write_xor(tmp_path)
  (tmp_path / DEV).rename(tmp_path / "xor_dev_full_v1_1.jsonl")
  with pytest.raises(BadInput, match=f"of XOR-Full, .*; use {DEV}"):
    suite.read_suite(tmp_path)


def test_passages_that_are_missing_or_twice_are_named(tmp_path):
  write_xor(tmp_path)
  write_tsv(tmp_path / "queries.tsv", [("1", "q")], None)
  assert len(suite.read_suite(tmp_path)) == 1, "w100 is in the other's name"
  write_tsv(tmp_path / "enwiki_20190201_w100.tsv", PASSAGES)
  with pytest.raises(BadInput, match=r"enwiki_20190201_w100.tsv and psgs_w100"):
    suite.read_suite(tmp_path)
  for path in tmp_path.glob("*.tsv"):
    path.unlink()
  with pytest.raises(
    BadInput, match=f"no passages beside {DEV}; put psgs_w100"
  ):
    suite.read_suite(tmp_path)


def test_a_folder_of_xtreme_up(tmp_path):
  """The test is scored; train and validation are not, nor read as tasks."""
  folder = write_xtreme(tmp_path / "retrieval_cross_lang")
  row = {"id": "x0", "title": "", "context": "", "question": "q"}
  write_jsonl(folder / "train" / "hi.jsonl", [row])
  write_jsonl(folder / "validation" / "hi.jsonl", [row])
  topics = [{"text": topic, "label": topic} for topic in TOPICS]
  write_jsonl(folder / "mine" / "test.jsonl", topics)
  task, mine = suite.read_suite(tmp_path)
  assert (mine.name, mine.kind) == ("retrieval_cross_lang/mine", "clustering")
  assert (task.name, task.kind) == ("retrieval_cross_lang", "XTREME-UP")
  assert len(task.queries) == 3 * len(TOPICS)
  assert task.source.right[:2] == ((0,), (1,))
  with pytest.raises(BadInput, match=r"name the folder that has index.jsonl"):
    suite.read_suite(folder / "test" / "hi.jsonl")


def test_ids_may_be_numbers_and_passages_may_come_twice(tmp_path):
  """A passage that is twice in the index takes two places, as in v1.0."""
  write_jsonl(
    tmp_path / "index.jsonl",
    [
      *({"id": n, "title": None, "context": f"c{n}"} for n in (7, 8, 7)),
      "",
      {"id": "9", "context": ""},
    ],
  )
  rows = [{"id": n, "question": "q"} for n in (7, "9")]
  write_jsonl(tmp_path / "validation" / "hi.jsonl", rows)
  source = xtreme_up.read(tmp_path)
  assert source.right == ((0, 2), (3,))
  assert source.split == "validation"
  assert any("those of validation" in note for note in source.notes)


def test_questions_without_a_passage_count_0_and_are_noted(tmp_path):
  write_xtreme(tmp_path, ("hi", "ta"))
  rows = [{"id": "gone", "question": "q"}, {"id": "x0", "question": "q"}]
  write_jsonl(tmp_path / "test" / "hi.jsonl", rows)
  source = xtreme_up.read(tmp_path)
  assert source.right[:2] == ((), (0,))
  said = "questions without a passage in index.jsonl, which count 0: hi 1"
  assert said in source.notes


@pytest.mark.parametrize(
  ("name", "rows", "said"),
  [
    (
      "test/hi.jsonl",
      [{"id": "no", "question": "q"}],
      "hi.jsonl:1: no passage",
    ),
    (
      "test/hi.jsonl",
      [{"id": "x0", "query": "q"}],
      "hi.jsonl:1: no field 'que",
    ),
    ("test/xx.jsonl", [{"id": "x0", "question": "q"}], "unknown language 'xx'"),
    ("test/hi.jsonl", ["[1]"], "hi.jsonl:1: not a JSON object"),
    (
      "index.jsonl",
      [{"id": "x0", "passage": "p"}],
      "index.jsonl:1: no field 'c",
    ),
    ("index.jsonl", [], "index.jsonl: no passages"),
    ("index.jsonl", [{"context": "p"}], "index.jsonl:1: no field 'id'"),
  ],
)
def test_files_of_xtreme_up_that_are_broken_are_named(
  tmp_path, name, rows, said
):
  write_xtreme(tmp_path)
  write_jsonl(tmp_path / name, rows)
  with pytest.raises(BadInput, match=re.escape(said)):
    suite.read_suite(tmp_path)


def test_parts_of_xtreme_up_that_are_missing_are_named(tmp_path):
  folder = write_xtreme(tmp_path / "retrieval_cross_lang")
  (folder / "index.jsonl").unlink()
  with pytest.raises(BadInput, match=r"lang: no index.jsonl, which holds"):
    suite.read_suite(tmp_path)
  write_xtreme(folder)
  for path in (folder / "test").iterdir():
    path.unlink()
  with pytest.raises(BadInput, match=r"lang: no test/LANGUAGE.jsonl"):
    suite.read_suite(tmp_path)


def test_what_a_score_says_less_is_noted(tmp_path):
  rows = [question(0, "fi", ["", "1900"]), question(1, "hi", ["1901"])]
  rows += [question(2, "ru", ["yes"])]
  notes = xor_retrieve.read(write_xor(tmp_path, rows)).notes
  assert [line for line in notes if "punkt_tab" not in line] == [
    "the mean is over 1 of the paper's 7 languages; without ar, bn, ja, ko, ru,"
    " te",
    "not in the mean, as in the paper: hi",
    "questions of yes or no, left out as published: 1",
    "questions with an empty answer, which any passage holds: 1",
    "5,000 words hold all passages: any model has the same recall@5kt",
  ]
