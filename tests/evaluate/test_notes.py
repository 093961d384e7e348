"""What scores say less than they seem to is said beside them."""

import json
import pathlib

import pytest

from embeddinggemma.cli import main
from embeddinggemma.evaluation import quality, suite
from embeddinggemma.evaluation.kinds.task import EvalTask


def _jsonl(path: pathlib.Path, rows: list[dict]) -> None:
  path.parent.mkdir(parents=True, exist_ok=True)
  path.write_text("".join(json.dumps(row) + "\n" for row in rows))


def retrieval(documents: int, gold: list[dict[int, int]], own=()) -> EvalTask:
  return EvalTask(
    "t",
    "retrieval",
    "qa",
    tuple(f"q{n}" for n in range(len(gold))),
    tuple(f"d{n}" for n in range(documents)),
    ("",) * documents,
    tuple(gold),
    tuple(own) or (-1,) * len(gold),
  )


@pytest.mark.parametrize(
  ("task", "said"),
  [
    (retrieval(101, [{0: 1}, {1: 1}]), []),
    (retrieval(101, [{0: 1}] * 2, (1, 2)), ["100 documents: recall@100"]),
    (retrieval(100, [{0: 1}] * 2), ["100 documents: recall@100 is always 1"]),
    (retrieval(10, [{0: 1}] * 2), ["recall@10 and recall@100 are always 1"]),
    (retrieval(11, [{0: 1}]), ["11 documents", "one query: no mean"]),
    (retrieval(1, [{0: 1}] * 2), ["every document is right: any model"]),
    (retrieval(2, [{0: 1, 1: 2}] * 2), ["every document is right"]),
    (
      EvalTask("t", "bitext", "bitext", ("a", "b"), ("c", "c")),
      ["one translation: any model finds one of them"],
    ),
    (EvalTask("t", "bitext", "bitext", ("a", "b"), ("c", "d")), []),
    (EvalTask("t", "sts", "sts", ("a", "b"), ("c", "d"), (), (1, 2)), ["two"]),
    (
      EvalTask("t", "clustering", "clustering", ("a", "b"), gold=("x", "y")),
      ["each text has a label of its own"],
    ),
    (
      EvalTask(
        "t",
        "classification",
        "classification",
        ("a", "b", "c"),
        ("a", "d"),
        (),
        (("x", "y"), ("x", "z", "y")),
      ),
      ["1 of 3 texts are among those", "1 of 3 texts have a label that it"],
    ),
  ],
)
def test_what_any_model_would_score_is_noted(task, said):
  found = quality.notes([task]).get("t", [])
  assert len(found) == len(said)
  assert all(part in line for part, line in zip(said, found, strict=True))


def test_one_document_is_said_in_the_table_and_its_json(
  trained, tmp_path, capsys
):
  data = tmp_path / "data" / "faq"
  _jsonl(data / "corpus.jsonl", [{"_id": "d", "text": "the only document"}])
  queries = [{"_id": f"q{n}", "text": f"question {n}"} for n in range(3)]
  _jsonl(data / "queries.jsonl", queries)
  (data / "qrels").mkdir()
  lines = "".join(f"q{n}\td\t1\n" for n in range(3))
  (data / "qrels" / "test.tsv").write_text(
    f"query-id\tcorpus-id\tscore\n{lines}"
  )
  argv = ["evaluate", f"--model={trained}", f"--data={tmp_path / 'data'}"]
  assert main.call([*argv, f"--output={tmp_path / 'out.json'}"]) == 0
  note = "every document is right: any model scores 1"
  assert f"note: faq: {note}" in "".join(capsys.readouterr())
  found = json.loads((tmp_path / "out.json").read_text())
  assert found["notes"] == {"faq": [note]}


def test_an_ordinary_suite_has_no_notes(data_folder):
  found = quality.notes(suite.read_suite(data_folder))
  assert all("recall@100" in line for lines in found.values() for line in lines)
