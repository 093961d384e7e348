"""Which prompts were used, and what the right ones are worth."""

import dataclasses
import json

import numpy as np
import pytest

from embeddinggemma.cli import main
from embeddinggemma.data import prompts
from embeddinggemma.evaluation import prompting
from embeddinggemma.loading import load
from embeddinggemma.report import prompting as report


@pytest.fixture(scope="module")
def model(trained):
  return load(trained)


@pytest.fixture
def folder(tmp_path):
  """A search with titles, and clustering."""
  beir = tmp_path / "data" / "search"
  (beir / "qrels").mkdir(parents=True)
  words = ["river", "stone", "cloud", "tiger"]
  rows = {
    "corpus.jsonl": [
      {"_id": w, "title": w, "text": f"about the {w}"} for w in words
    ],
    "queries.jsonl": [{"_id": w, "text": f"what is a {w}"} for w in words],
    "../topics/test.jsonl": [
      {"text": f"{w} number {n}", "label": w} for w in words for n in range(4)
    ],
  }
  (tmp_path / "data" / "topics").mkdir()
  for name, found in rows.items():
    text = "".join(json.dumps(row) + "\n" for row in found)
    (beir / name).write_text(text)
  qrels = "".join(f"{w}\t{w}\t1\n" for w in words)
  (beir / "qrels" / "test.tsv").write_text(
    f"query-id\tcorpus-id\tscore\n{qrels}"
  )
  return tmp_path / "data"


@pytest.mark.parametrize(
  ("right", "wrong"),
  [
    ("code", "task: clustering | query: "),
    ("document", "task: clustering | query: "),
    ("clustering", "task: search result | query: "),
  ],
)
def test_the_wrong_prompt_is_of_another_kind_of_task(model, right, wrong):
  assert prompting.wrong(model, right) == wrong


def test_encoders_of_no_prompt_and_of_a_wrong_one(model):
  """Titles stand before texts, since no prompt has a place for them."""
  texts, titles = ["the river", "a stone"], ["Water", ""]
  joined = ["Water the river", "a stone"]
  found = prompting.without(model)(texts, "document", titles)
  np.testing.assert_array_equal(found, model.encode(joined))
  found = prompting.with_wrong(model)(texts, "document", titles)
  right = model.encode(joined, prompt="task: clustering | query: ")
  np.testing.assert_array_equal(found, right)


def test_a_model_without_prompts_has_a_wrong_one_too(model):
  bare = dataclasses.replace(model, prompts=dict.fromkeys(prompts.PROMPTS, ""))
  assert bare.prompt("query") == ""
  assert prompting.wrong(bare, "query") in prompts.PROMPTS.values()


def test_the_verb_scores_three_ways(trained, model, folder, tmp_path, capsys):
  output = tmp_path / "scores.json"
  argv = ["evaluate", f"--model={trained}", f"--data={folder}"]
  assert main.call([*argv, "--prompts=check", f"--output={output}"]) == 0
  wrote = json.loads(output.read_text())
  assert wrote["prompts"] == {
    "search": {
      "query": "task: search result | query: ",
      "document": "title: none | text: ",
    },
    "topics": {"query": "task: clustering | query: "},
  }
  checked = wrote[prompting.CHECKED]
  assert list(checked) == ["right", "none", "of another task"]
  means = wrote["summary"]["mean_task"], wrote["summary"]["mean_type"]
  assert checked["right"]["mean_task"] == pytest.approx(means[0]["32"])
  assert checked["right"]["mean_type"] == pytest.approx(means[1]["32"])
  said = capsys.readouterr().err
  for words in (
    "'task: clustering | query: '",
    "'title: none | text: '",
    "mean over types",
    "prompts: without them ",
  ):
    assert words in said
  texts = [f"{w} number {n}" for w in ("river", "stone") for n in range(4)]
  plain = prompting.without(model)(texts, "clustering")
  assert abs(plain - model.encode(texts, "Clustering")).max() > 1e-4


def test_they_are_compared_at_the_dimension_that_is_scored(
  trained, folder, tmp_path
):
  output = tmp_path / "scores.json"
  argv = ["evaluate", f"--model={trained}", f"--data={folder}", "--dim=8"]
  assert main.call([*argv, "--prompts=check", f"--output={output}"]) == 0
  wrote = json.loads(output.read_text())
  right = wrote[prompting.CHECKED]["right"]
  assert right["mean_task"] == pytest.approx(wrote["summary"]["mean_task"]["8"])


def means(right, none, wrong):
  values = {"right": right, "none": none, "of another task": wrong}
  return {
    kind: {"mean_task": value, "mean_type": value, "tasks": {"a": value}}
    for kind, value in values.items()
  }


def test_what_prompts_are_worth_is_said():
  assert list(report.verdict(means(0.5, 0.4, 0.25))) == [
    "prompts: without them -10.00 points in the mean over tasks, with another"
    " task's -25.00"
  ]
  for little in (means(0.5, 0.5, 0.3), means(0.5, 0.2, 0.51)):
    assert "was the model trained with them?" in list(report.verdict(little))[1]
