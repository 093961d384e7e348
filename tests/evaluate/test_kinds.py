"""Each kind's files are read, named and scored; a broken row is FILE:LINE."""

import json
import re

import numpy as np
import pytest
from kind_files import beir, encoder, jsonl, settings

from embeddinggemma.cli import main
from embeddinggemma.evaluation import kinds, suite
from embeddinggemma.types import BadInput

CORPUS = {f"d{n}": f"text {n}" for n in range(4)}
QUERIES = {"q1-og": "apple", "q1-changed": "apple", "q2": "pear"}
QRELS = {"q1-og": {"d0": 1}, "q1-changed": {"d1": 1}, "q2": {"d2": 2}}
RANKED = [
  {"query-id": "q1-og", "corpus-ids": ["d0", "d3", "d0"]},
  {"query-id": "q2", "corpus-ids": ["d1", "d2"]},
]
TOLD = [{"query-id": key, "instruction": f"about {key}"} for key in QUERIES]
CHANGED = [{"query-id": "q1", "corpus-ids": ["d0"]}]
PAIRS = [
  {"sentence1": f"a {n}", "sentence2": f"b {n}", "label": n % 2}
  for n in range(6)
]
SUMMARIES = [
  {
    "text": f"long {n}",
    "human_summaries": [f"short {n}", f"brief {n}"],
    "machine_summaries": [f"m {n} {k}" for k in range(3)],
    "relevance": [1, 2.5, 4],
  }
  for n in range(3)
]
SEVERAL = [
  {"text": f"t {n}", "label": [str(n % 2), str(n % 3)]} for n in range(9)
]
LEVELS = [
  {"sentences": f"s {n}", "labels": [n % 2, f"fine {n % 3}"]} for n in range(8)
]
SETS = [
  {"sentences": [f"a {n}", f"b {n}", f"c {n}"], "labels": ["x", "y", "y"]}
  for n in range(3)
]
LISTS = [
  {"query": f"q {n}", "positive": [f"p {n}"], "negative": ["n", f"m {n}"]}
  for n in range(3)
]


@pytest.fixture
def folder(tmp_path):
  """A task of every kind that test_suite.py has none of."""
  jsonl(
    beir(tmp_path / "rank", CORPUS, QUERIES, QRELS) / "top_ranked.jsonl", RANKED
  )
  place = beir(tmp_path / "told", CORPUS, QUERIES, QRELS)
  jsonl(place / "instruction.jsonl", TOLD)
  place = beir(tmp_path / "follow", CORPUS, QUERIES, QRELS)
  jsonl(place / "instructions.jsonl", TOLD)
  jsonl(place / "qrel_diff.jsonl", CHANGED)
  jsonl(tmp_path / "lists" / "test.jsonl", LISTS)
  jsonl(tmp_path / "alike" / "test.jsonl", PAIRS)
  jsonl(tmp_path / "sums" / "test.jsonl", SUMMARIES)
  jsonl(tmp_path / "tags" / "test.jsonl", SEVERAL)
  jsonl(tmp_path / "tags" / "train.jsonl", SEVERAL)
  jsonl(tmp_path / "levels" / "test.jsonl", LEVELS)
  settings(tmp_path / "levels", max_documents_per_cluster=20)
  jsonl(tmp_path / "sets" / "test.jsonl", SETS)
  return tmp_path


def test_every_kind_is_recognised_and_scored(folder):
  tasks = suite.read_suite(folder)
  search = {"query": "query", "document": "document"}
  both = lambda name: {"query": name, "document": name}
  assert {t.name: (t.kind, suite.prompts_of(t)) for t in tasks} == {
    "alike": ("pair classification", both("PairClassification")),
    "follow": ("instruction retrieval", search),
    "levels": ("clustering", {"query": "clustering"}),
    "lists": ("reranking", both("Reranking")),
    "rank": ("reranking", both("Reranking")),
    "sets": ("clustering", {"query": "clustering"}),
    "sums": ("summarization", both("Summarization")),
    "tags": ("multilabel classification", both("MultilabelClassification")),
    "told": ("instruction retrieval", both("InstructionRetrieval")),
  }
  scored = suite.scored(encoder("chance"), tasks, [16, 8])
  found = suite.summarise(tasks, suite.values(scored))
  assert found["main"] == {
    "alike": "max_ap",
    "follow": "p-mrr",
    "levels": "v_measure",
    "lists": "map@1000",
    "rank": "map@1000",
    "sets": "v_measure",
    "sums": "cosine_spearman",
    "tags": "accuracy",
    "told": "ndcg@10",
  }
  for task in tasks:
    scores = found["tasks"][task.name]["8"]
    assert kinds.main_of(task) in scores
    assert set(scores) <= set(kinds.of(task).metrics)
  rows = suite.drawn(tasks, scored)
  by_task = suite.intervals(rows)
  assert set(by_task) == {
    "alike",
    "lists",
    "rank",
    "sums",
    "tags",
    "told",
  }
  ends = suite.summary_intervals(tasks, scored, rows)
  assert ends["fixed"] == ["follow", "levels", "sets"]  # one pair, k-means
  for name, by_dim in by_task.items():
    main = found["main"][name]
    for dim, (low, high) in by_dim.items():
      assert low <= found["tasks"][name][dim][main] <= high
  low, high = ends["mean_task"]["16"]
  assert low < found["mean_task"]["16"] < high
  assert set(ends["types"]) == {
    "reranking",
    "instruction retrieval",
    "pair classification",
    "summarization",
    "multilabel classification",
  }
  for each in found, ends, by_task:
    assert json.loads(json.dumps(each)) == each


def test_every_published_prompt_is_known_by_the_model(folder, trained):
  """The verb reads, scores, notes and tabulates all of them."""
  output = folder / "scores.json"
  argv = ["evaluate", f"--model={trained}", f"--data={folder}"]
  assert main.call([*argv, f"--output={output}"]) == 0
  found = json.loads(output.read_text())
  assert found["prompts"]["lists"]["document"].startswith("task: search")
  assert found["protocols"]["tags"]["n_experiments"] == 10
  assert found["notes"]["rank"] == ["1 of 3 queries have no candidates: 0 each"]
  low, high = found["intervals"]["model"]["lists"]["32"]
  assert (
    0 <= low <= found["quality"]["model"]["lists"]["32"]["map@1000"] <= high
  )
  assert high <= 1


def test_task_json_names_prompts_and_the_main_metric(folder):
  settings(folder / "lists", task="qa", main_score="ndcg_at_10")
  settings(folder / "alike", main_score="cosine_f1")
  settings(folder / "told", task="code")
  tasks = {t.name: t for t in suite.read_suite(folder)}
  assert kinds.main_of(tasks["lists"]) == "ndcg@10"
  assert kinds.main_of(tasks["alike"]) == "cosine_f1"
  prompts = {"query": "qa", "document": "document"}
  assert suite.prompts_of(tasks["lists"]) == prompts
  assert suite.prompts_of(tasks["told"])["query"] == "code"
  found = suite.evaluate(encoder("chance"), list(tasks.values()), [16])
  score = found["tasks"]["lists"]["16"]["ndcg@10"]
  assert found["types"]["reranking"]["16"] == pytest.approx(
    (score + found["tasks"]["rank"]["16"]["map@1000"]) / 2
  )


@pytest.mark.parametrize(
  ("folder_name", "named", "said"),
  [
    (
      "lists",
      {"main_score": "accuracy"},
      "'main_score' is 'accuracy'; lists has",
    ),
    ("told", {"main_score": "p-MRR"}, "p-MRR needs qrel_diff.jsonl"),
    ("tags", {"seed": -1}, "'seed' is -1; expected a whole number from 0"),
    (
      "tags",
      {"samples_per_label": 0},
      "is 0; expected a whole number from 1, or",
    ),
    (
      "tags",
      {"n_experiment": 3},
      "unknown setting 'n_experiment'; did you mean",
    ),
    ("tags", {"n_clusters": 3}, "'n_clusters' is no setting of these files"),
    ("levels", {"max_depth": "x"}, "'max_depth' is \"x\"; expected a whole"),
    ("levels", {"seed": True}, "'seed' is true; expected"),
    (
      "levels",
      {"max_document_to_embed": 4, "max_fraction_of_documents_to_embed": 1},
      "give one of",
    ),
    (
      "levels",
      {"max_document_to_embed": 1},
      "fewer than two labels; embed more",
    ),
    ("levels", {"task": 3}, 'expected {"task": NAME}'),
  ],
)
def test_a_setting_that_cannot_be_is_one_line(folder, folder_name, named, said):
  settings(folder / folder_name, **named)
  with pytest.raises(BadInput, match=re.escape(said)) as error:
    suite.read_suite(folder)
  assert "\n" not in str(error.value)
  assert f"/{folder_name}" in str(error.value)


def test_keys_of_others_in_task_json_are_left_alone(folder):
  settings(folder / "alike", task="nli", source="made", licence="CC0")
  assert [t.task for t in suite.read_suite(folder / "alike")] == ["nli"]


def _with(rows, place, **fields):
  """The rows, one of them with other fields; None takes a field away."""
  changed = {**rows[place], **fields}
  kept = {key: value for key, value in changed.items() if value is not None}
  return [*rows[:place], kept, *rows[place + 1 :]]


@pytest.mark.parametrize(
  ("path", "rows", "said"),
  [
    ("rank/top_ranked.jsonl", _with(RANKED, 1, **{"corpus-ids": "d1"}), ":2: 'corpus-ids' is not a list"),
    ("rank/top_ranked.jsonl", _with(RANKED, 1, **{"corpus-ids": ["d9"]}), ":2: no text has the id 'd9'"),
    ("rank/top_ranked.jsonl", [*RANKED, RANKED[0]], ":3: query 'q1-og' has a line already"),
    ("rank/top_ranked.jsonl", [], "no judged query has a candidate"),
    ("told/instruction.jsonl", TOLD[:2], "query 'q2' has no instruction"),
    ("told/instruction.jsonl", _with(TOLD, 0, instruction=3), ":1: 'instruction' is not text"),
    ("follow/qrel_diff.jsonl", [{"query-id": "q2", "corpus-ids": ["d0"]}], ":1: no judged query has the id 'q2-og'"),
    ("follow/qrel_diff.jsonl", [{"query-id": "q1", "corpus-ids": []}], "no query has a changed document"),
    ("lists/test.jsonl", _with(LISTS, 2, negative="n"), ":3: 'negative' is not a list"),
    ("lists/test.jsonl", _with(LISTS, 2, positive=[4]), ":3: 'positive' is not text"),
    ("lists/test.jsonl", [{**row, "negative": []} for row in LISTS], "no query has both"),
    ("alike/test.jsonl", _with(PAIRS, 3, label=2), ":4: 'label' is neither 1"),
    ("alike/test.jsonl", _with(PAIRS, 3, label="1"), ":4: 'label' is neither 1"),
    ("alike/test.jsonl", _with(PAIRS, 3, label=None), ":4: 'label' is neither 1"),
    ("alike/test.jsonl", PAIRS[::2], "needs pairs of label 0 and pairs of label 1"),
    ("sums/test.jsonl", _with(SUMMARIES, 1, relevance=[1, 2]), ":2: 3 machine_summaries have 2 values"),
    ("sums/test.jsonl", _with(SUMMARIES, 1, relevance=[1, 2, "3"]), ":2: 'relevance' is not a finite number"),
    ("sums/test.jsonl", _with(SUMMARIES, 1, relevance=4), ":2: 'relevance' is not a list"),
    ("sums/test.jsonl", _with(SUMMARIES, 1, human_summaries=[]), ":2: 'human_summaries' has no text"),
    ("sums/test.jsonl", [{**row, "relevance": [1, 1, 1]} for row in SUMMARIES], "no text has summaries of different"),
    ("tags/test.jsonl", _with(SEVERAL, 4, label="x"), ":5: 'label' is not a list, as in the first"),
    ("tags/test.jsonl", _with(SEVERAL, 4, label=[1.5]), ":5: 'label' is neither text nor a whole"),
    ("tags/train.jsonl", SEVERAL[:3], "is fitted on 3 texts, and looks at the nearest 5"),
    ("levels/test.jsonl", _with(LEVELS, 2, labels=[]), ":3: 'labels' is empty"),
    ("levels/test.jsonl", _with(LEVELS, 2, labels=[None]), ":3: 'labels' is neither text nor a whole"),
    ("levels/test.jsonl", LEVELS[::2], "two different labels"),
    ("sets/test.jsonl", _with(SETS, 1, labels=["x"]), ":2: 'labels' is no list with a label a sentence"),
    ("sets/test.jsonl", _with(SETS, 1, sentences="x"), ":2: 'sentences' is not a list"),
    ("sets/test.jsonl", [{**row, "labels": [1, 1, 1]} for row in SETS], "no set has two different labels"),
  ],
)  # fmt: skip
def test_what_cannot_be_scored_is_named(folder, path, rows, said):
  jsonl(folder / path, rows)
  with pytest.raises(BadInput, match=re.escape(said)) as error:
    suite.read_suite(folder)
  assert path in str(error.value) and "\n" not in str(error.value)


def test_lists_of_labels_need_others_to_be_fitted_on(folder):
  (folder / "tags" / "train.jsonl").unlink()
  with pytest.raises(BadInput, match=r"is a list, and there is no train.jsonl"):
    suite.read_suite(folder)


def test_pairs_with_lists_of_negatives_stay_pairs(tmp_path):
  rows = [{"query": f"q{n}", "positive": "p", "negative": ["n"]} for n in "ab"]
  (task,) = suite.read_suite(jsonl(tmp_path / "faq.jsonl", rows))
  assert task.kind == "retrieval"
  (task,) = suite.read_suite(jsonl(tmp_path / "x" / "pairs.jsonl", rows).parent)
  assert task.kind == "retrieval"


def test_of_equal_scores_the_last_id_is_first(folder):
  """trec_eval's rule, so that a model that sees nothing gains nothing."""
  tasks = {t.name: t for t in suite.read_suite(folder)}
  rank, lists = tasks["rank"], tasks["lists"]
  assert rank.candidates == ((3, 0), (), (2, 1))
  assert lists.candidates == ((2, 1, 0), (5, 4, 3), (8, 7, 6))
  found = suite.evaluate(encoder("collapsed"), [rank, lists], [16])["tasks"]
  assert found["lists"]["16"]["map@1000"] == pytest.approx(1 / 3)
  assert found["rank"]["16"]["mrr@10"] == pytest.approx((1 / 2 + 1) / 3)


def test_bitext_counts_equal_translations_as_one_where_that_is_asked(tmp_path):
  rows = [
    {"sentence1": f"s {n}", "sentence2": text}
    for n, text in enumerate(["same", "same", "other"])
  ]
  jsonl(tmp_path / "x" / "test.jsonl", rows)
  known = dict(zip(["s 0", "s 1", "s 2", "same", "other"], [0, 0, 1, 0, 1]))
  encode = lambda texts, prompt_name, titles=(): np.eye(2, dtype=np.float32)[
    [known[text] for text in texts]
  ]
  (task,) = suite.read_suite(tmp_path)
  assert "1 of 3 translations equal an earlier" in kinds.of(task).notes(task)[0]
  found = suite.evaluate(encode, [task], [2])["tasks"]["x"]["2"]
  assert found["accuracy"] == pytest.approx(2 / 3)
  settings(tmp_path / "x", equal_translations_are_one=True)
  (task,) = suite.read_suite(tmp_path)
  assert kinds.of(task).notes(task) == []
  assert suite.evaluate(encode, [task], [2])["tasks"]["x"]["2"]["f1"] == 1


def test_a_collapsed_model_scores_without_noise(folder):
  found = suite.evaluate(encoder("collapsed"), suite.read_suite(folder), [16])
  scores = {name: by_dim["16"] for name, by_dim in found["tasks"].items()}
  assert scores["alike"]["max_ap"] == 0.5
  assert scores["alike"]["max_f1"] == scores["alike"]["max_accuracy"] == 0
  assert scores["sums"]["cosine_spearman"] == 0
  assert scores["follow"]["p-mrr"] == 0
  assert scores["sets"]["v_measure"] == scores["levels"]["v_measure"] == 0
