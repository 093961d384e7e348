"""Suites are recognised by their files, and scored once per dimension."""

import json
import zlib

import numpy as np
import pytest

from embeddinggemma import lexical
from embeddinggemma.data import sources
from embeddinggemma.evaluation import kinds, suite
from embeddinggemma.evaluation.kinds import retrieval
from embeddinggemma.types import BadInput, Pair

WORDS = ["apple", "river", "stone", "cloud", "tiger", "piano", "sugar", "train"]


def bag_of_words(texts, prompt_name, titles=()):
  """A model's stand-in: counts of hashed words, at unit length."""
  del prompt_name
  titles = titles or [""] * len(texts)
  vectors = np.full((len(texts), 64), 1e-3, np.float32)
  for row, title, text in zip(vectors, titles, texts, strict=True):
    for word in lexical.tokens(f"{title} {text}"):
      row[zlib.crc32(word.encode()) % 64] += 1
  return vectors / np.linalg.norm(vectors, axis=1, keepdims=True)


def _jsonl(path, rows):
  path.parent.mkdir(parents=True, exist_ok=True)
  path.write_text("".join(json.dumps(row) + "\n" for row in rows))


def _beir(folder, qrels="q1\td1\t1\nq2\td2\t2\nq2\td1\t0\n"):
  _jsonl(
    folder / "corpus.jsonl",
    [
      {"_id": "d1", "title": "Fruit", "text": "apple and sugar"},
      {"_id": "d2", "text": "river stone"},
      {"_id": "d3", "title": "", "text": ""},
    ],
  )
  queries = [("q1", "sugar apple"), ("q2", "a river"), ("q3", "unjudged")]
  _jsonl(folder / "queries.jsonl", [{"_id": k, "text": t} for k, t in queries])
  (folder / "qrels").mkdir(exist_ok=True)
  header = "query-id\tcorpus-id\tscore\n"
  (folder / "qrels" / "test.tsv").write_text(header + qrels)


def _sentences(path, scored):
  rows = []
  for number, word in enumerate(WORDS):
    other = word if number % 2 else "nothing alike"
    row = {"sentence1": f"the {word}", "sentence2": f"the {other}"}
    rows.append(row | ({"score": number % 2 * 4 + 0.5} if scored else {}))
  _jsonl(path, rows)


def _labelled(path, copies=6):
  rows = [
    {"text": f"{word} number {i}", "label": word}
    for word in WORDS[:3]
    for i in range(copies)
  ]
  _jsonl(path, rows)


@pytest.fixture
def folder(tmp_path):
  """One task of every kind."""
  _beir(tmp_path / "mbxp" / "python")
  _sentences(tmp_path / "stsb" / "de.jsonl", True)
  _sentences(tmp_path / "stsb" / "en.jsonl", True)
  _sentences(tmp_path / "tatoeba" / "test.jsonl", False)
  _labelled(tmp_path / "intents" / "labeled.jsonl")
  _labelled(tmp_path / "intents" / "test.jsonl", 3)
  _labelled(tmp_path / "topics" / "test.jsonl")
  pairs = [
    {"query": f"{word} q", "positive": f"{word} p", "task": "qa"}
    for word in WORDS
  ]
  _jsonl(tmp_path / "own" / "pairs.jsonl", pairs)
  return tmp_path


def test_every_kind_is_recognised(folder):
  found = {
    t.name: (t.kind, t.task, kinds.type_of(t)) for t in suite.read_suite(folder)
  }
  assert found == {
    "intents": ("classification", "classification", "classification"),
    "intents/clustering": ("clustering", "clustering", "clustering"),
    "mbxp/python": ("retrieval", "code", "code retrieval"),
    "own": ("retrieval", "qa", "question answering"),
    "stsb/de": ("sts", "sts", "sts"),
    "stsb/en": ("sts", "sts", "sts"),
    "tatoeba": ("bitext", "BitextMining", "bitext"),
    "topics": ("clustering", "clustering", "clustering"),
  }


@pytest.mark.parametrize(
  ("name", "task"),
  [("cosqa_python", "code"), ("jsquad", "qa"), ("x/heading", "heading")],
)
def test_folder_names_decide_prompts(tmp_path, name, task):
  _beir(tmp_path / name)
  assert suite.read_suite(tmp_path)[0].task == task


def test_task_json_comes_first(tmp_path):
  _beir(tmp_path / "python")
  (tmp_path / "python" / "task.json").write_text('{"task": "qa"}')
  assert suite.read_suite(tmp_path)[0].task == "qa"
  for text in "{", "{}", "[]":
    (tmp_path / "python" / "task.json").write_text(text)
    with pytest.raises(BadInput, match=r"task.json: expected"):
      suite.read_suite(tmp_path)
  (tmp_path / "python" / "task.json").write_text('{"task": "chess"}')
  with pytest.raises(BadInput, match="unknown task 'chess'"):
    suite.read_suite(tmp_path)


def test_one_folder_is_a_suite(tmp_path):
  _beir(tmp_path / "v1.2")
  assert [t.name for t in suite.read_suite(tmp_path / "v1.2")] == ["v1.2"]


@pytest.mark.parametrize(
  ("name", "rows", "reason"),
  [
    ("test", [{"a": 1}], "no known format"),
    ("test", [{"query": "a", "positive": "b"}], "a file named pairs.jsonl"),
    ("test", [{"text": "a", "label": "x"}], "two different labels"),
    ("test", [{"text": "a", "label": 1.5}], ":1: 'label' is neither"),
    (
      "test",
      [{"sentence1": "a", "sentence2": "b", "score": "1"}],
      ":1: 'score' is not a finite number",
    ),
    (
      "test",
      [{"sentence1": "a", "sentence2": "b", "score": 1}],
      "all scores are equal",
    ),
    ("pairs", [{"query": "a"}], ":1: no field 'positive'"),
  ],
)
def test_what_cannot_be_scored_is_named(tmp_path, name, rows, reason):
  _jsonl(tmp_path / "x" / f"{name}.jsonl", rows)
  with pytest.raises(BadInput, match=rf"x/{name}.jsonl.*{reason}"):
    suite.read_suite(tmp_path)


@pytest.mark.parametrize(
  ("qrels", "reason"),
  [
    ("q1\td1\n", "tsv:2: expected query-id"),
    ("q1\td9\t1\n", "tsv:2: no text has the id 'd9'"),
    ("q9\td1\t1\n", "tsv:2: no text has the id 'q9'"),
    ("q1\td1\t0\n", "no query has a relevant document"),
  ],
)
def test_broken_judgements_are_named(tmp_path, qrels, reason):
  _beir(tmp_path / "x", qrels)
  with pytest.raises(BadInput, match=reason):
    suite.read_suite(tmp_path)


def test_missing_parts_are_named(tmp_path):
  with pytest.raises(BadInput, match="no such folder"):
    suite.read_suite(tmp_path / "missing")
  with pytest.raises(BadInput, match="no evaluation task"):
    suite.read_suite(tmp_path)
  _beir(tmp_path / "x")
  (tmp_path / "x" / "qrels" / "test.tsv").unlink()
  with pytest.raises(BadInput, match=r"no qrels/test.tsv"):
    suite.read_suite(tmp_path)
  _jsonl(tmp_path / "x" / "corpus.jsonl", [{"_id": "d1"}])
  with pytest.raises(BadInput, match=r"corpus.jsonl:1: 'text' is missing"):
    suite.read_suite(tmp_path)


def test_evaluate_encodes_each_side_once_for_all_dimensions(folder):
  calls = []

  def encode(texts, prompt_name, titles=()):
    calls.append((prompt_name, len(texts), len(titles)))
    return bag_of_words(texts, prompt_name, titles)

  found = suite.read_suite(folder)
  result = suite.evaluate(encode, found, [64, 32])
  assert sorted(calls) == sorted(
    [
      *[("code", 2, 0), ("document", 3, 3), ("qa", 8, 0), ("document", 8, 8)],
      *[("sts", 8, 0)] * 4,
      *[("BitextMining", 8, 0)] * 2,
      *[("classification", 9, 0), ("classification", 18, 0)],
      *[("clustering", 9, 0), ("clustering", 18, 0)],
    ]
  )
  assert result == suite.evaluate(bag_of_words, found, [64, 32])
  assert json.loads(json.dumps(result)) == result
  assert result["tasks"]["mbxp/python"]["64"]["ndcg@10"] == 1.0
  probed = {"accuracy": 1.0, "f1": 1.0, "f1_weighted": 1.0}
  assert result["tasks"]["intents"]["64"] == probed
  assert result["main"]["tatoeba"] == "f1"
  assert result["types"]["sts"]["32"] == pytest.approx(
    result["tasks"]["stsb/de"]["32"]["spearman"]
  )
  means = [by_dim["64"] for by_dim in result["types"].values()]
  assert result["mean_type"]["64"] == pytest.approx(np.mean(means))


def test_unscorable_kinds_and_dimensions_raise(folder):
  found = suite.read_suite(folder)
  with pytest.raises(BadInput, match="dim=65: the model has"):
    suite.evaluate(bag_of_words, found, [65])
  odd = suite.EvalTask("odd", "poetry", "sts", ("a",))
  with pytest.raises(ValueError, match="no metric for kind 'poetry'"):
    suite.evaluate(bag_of_words, [odd], [64])


def test_a_text_does_not_answer_itself():
  pairs = [
    Pair(q, p, (), "", "sts", "", "")
    for q, p in [("a b", "a c"), ("a c", "a d"), ("x", "X")]
  ]
  task = retrieval.from_pairs("own", "sts", pairs)
  places = dict(zip(task.queries, task.same, strict=True))
  assert task.documents[places["a c"]] == "a c"
  assert places["a b"] == -1
  assert places["x"] == -1  # it is the right answer


def test_baselines_and_hybrid(folder):
  found = suite.read_suite(folder)
  systems = suite.by_words(found)
  assert list(systems) == ["BM25 plain", "BM25 stemmed", "char TF-IDF"]
  for by_task in systems.values():
    assert list(by_task) == ["mbxp/python", "own"]
    assert by_task["own"][""].values["ndcg@10"] == 1.0
  encode = suite.remember(bag_of_words)
  hybrid = lambda: suite.values(suite.fused(encode, found, 64))
  both = hybrid()
  assert both["own"]["64"]["ndcg@10"] == 1.0
  assert both == hybrid()


def test_remember_asks_the_model_once():
  calls = []

  def encode(texts, prompt_name, titles=()):
    calls.append(prompt_name)
    return bag_of_words(texts, prompt_name, titles)

  remembered = suite.remember(encode)
  first = remembered(["a"], "sts")
  assert remembered(["a"], "sts") is first
  remembered(["a"], "qa")
  remembered(["a"], "sts", ["title"])
  assert calls == ["sts", "qa", "sts"]


def test_a_written_corpus_is_a_suite(tmp_path):
  pairs = [Pair(f"{w} q", f"{w} p", (), "", "qa", "", "") for w in WORDS]
  sources.write_corpus(tmp_path, [], [], pairs)
  found = suite.read_suite(tmp_path / "test")
  assert [(t.name, t.task, len(t.queries)) for t in found] == [("qa", "qa", 8)]


@pytest.mark.parametrize(
  ("name", "data", "fields"),
  [
    ("faq.csv", "question,answer\nq1,d1\nq2,d2\n", ""),
    ("faq.jsonl", '["q1", "d1"]\n["q2", "d2"]\n', "query:1,positive:2"),
    ("faq.tsv", "a\tb\nq1\td1\nq2\td2\n", "query:a,positive:b"),
    (
      "faq.jsonl",
      '{"query": "q1", "positive": "d1"}\n{"query": "q2", "positive": "d2"}\n',
      "",
    ),
  ],
)
def test_a_file_of_pairs_is_read_as_training_reads_it(
  tmp_path, name, data, fields
):
  path = tmp_path / name
  path.write_text(data)
  (task,) = suite.read_suite(path, fields)
  assert task.name == "faq"
  assert sorted(task.queries) == ["q1", "q2"]
  assert sorted(task.documents) == ["d1", "d2"]
  with pytest.raises(BadInput, match=r"name the file itself|but list"):
    suite.read_suite(tmp_path)


def test_other_tasks_may_be_one_file_too(tmp_path):
  rows = [{"sentence1": "a", "sentence2": "b", "score": i} for i in range(2)]
  _jsonl(tmp_path / "near.jsonl", rows)
  (task,) = suite.read_suite(tmp_path / "near.jsonl")
  assert (task.name, task.kind) == ("near", "sts")
  _jsonl(tmp_path / "x" / "pairs.jsonl", [{"query": "a", "positive": "b"}])
  (task,) = suite.read_suite(tmp_path / "x" / "pairs.jsonl")
  assert task.name == "x"
