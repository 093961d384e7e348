"""Our runner on XOR-Retrieve and XTREME-UP: by blocks, by language, by verb."""

import json

import pytest
from cross_files import (
  PASSAGES,
  TOPICS,
  WIDTH,
  bag_of_words,
  question,
  write_tsv,
  write_xor,
  write_xtreme,
)

import embeddinggemma as eg
from embeddinggemma.cli import main
from embeddinggemma.evaluation import kinds, quality, suite
from embeddinggemma.evaluation.cross import search
from embeddinggemma.evaluation.scoring import nearest
from embeddinggemma.losses import matryoshka
from embeddinggemma.types import BadInput, Notice


@pytest.fixture
def both(tmp_path):
  """A suite of both benchmarks."""
  write_xor(tmp_path / "xor")
  write_xtreme(tmp_path / "retrieval_cross_lang")
  return tmp_path


def test_each_passage_is_encoded_once_and_by_blocks(both, monkeypatch):
  """For all languages and dimensions, and none of it is remembered."""
  monkeypatch.setattr(nearest, "BLOCK", 4)
  calls = []

  def encode(texts, prompt_name, titles=()):
    calls.append((prompt_name, len(texts), len(titles)))
    return bag_of_words(texts, prompt_name, titles)

  remembered = suite.remember(encode)
  tasks = suite.read_suite(both)
  found = suite.evaluate(remembered, tasks, [WIDTH, WIDTH // 2])
  blocks = [("document", 4, 4), ("document", 2, 2)]
  assert calls == [("qa_xling", 18, 0), *blocks, ("qa_xling", 4, 0), *blocks]
  assert len(remembered._known) == 2, "the questions of each"
  for task in tasks:
    left = bag_of_words(task.queries, "")
    block = next(iter(task.source.passages.blocks(100)))
    right = bag_of_words(block.texts, "", block.titles)
    whole = kinds.of(task).score(task, left, right)
    scores = found["tasks"][task.name][str(WIDTH)]
    assert scores == pytest.approx(whole.values)


def test_scores_by_language_family_and_in_the_means(both):
  tasks = suite.read_suite(both)
  found = suite.evaluate(bag_of_words, tasks, [WIDTH])
  assert found["main"] == {
    "xor": "recall@5kt",
    "retrieval_cross_lang": "mrr@10",
  }
  assert set(found["types"]) == {"XOR-Retrieve", "XTREME-UP"}
  ends = suite.intervals(
    suite.drawn(tasks, suite.scored(bag_of_words, tasks, [WIDTH]))
  )
  assert list(ends) == ["retrieval_cross_lang", "xor"]
  low, high = ends["xor"][str(WIDTH)]
  assert low < found["tasks"]["xor"][str(WIDTH)]["recall@5kt"] <= high <= 1
  xtreme = found["tasks"]["retrieval_cross_lang"][str(WIDTH)]
  assert xtreme["mrr@10"] == 1.0, "each question has its topic's word"
  parts = quality.parts(tasks, found["tasks"])
  assert list(parts) == ["retrieval_cross_lang", "xor"]
  families = parts["retrieval_cross_lang"]["families"]
  assert {name: row["members"] for name, row in families.items()} == {
    "Dravidian": ["ta"],
    "Indo-European": ["hi"],
    "Sino-Tibetan": ["brx"],
  }
  xor = parts["xor"]
  assert xor["mean"]["members"] == ["fi", "ja", "ru"]
  assert xor["mean"]["questions"] == 4
  assert xor["languages"]["fi"] == {
    "name": "Finnish (fi)",
    "questions": 2,
    "scores": {str(WIDTH): {"recall@5kt": 0.5, "recall@2kt": 0.5}},
  }
  assert suite.by_words(tasks)["BM25 plain"] == {}, "words of other languages"
  assert quality.parts(tasks[:0], {}) == {}


def test_the_right_answer_is_found_by_its_passage(tmp_path):
  """Of long passages, so that the first ones fill the 2,000 words."""
  filler = "w " * 2100
  rows = [(key, f"{text} {filler}", title) for key, text, title in PASSAGES]
  asked = [question(n, "fi", [str(1900 + n)]) for n in range(len(TOPICS))]
  write_xor(tmp_path, [*asked, question(0, "ru", ["1905"])])
  write_tsv(tmp_path / "psgs_w100.tsv", rows)
  found = suite.evaluate(bag_of_words, suite.read_suite(tmp_path), [WIDTH])
  scores = found["tasks"][tmp_path.name][str(WIDTH)]
  assert scores["recall@2kt/fi"] == 1.0 and scores["recall@2kt/ru"] == 0.0
  assert scores["recall@2kt"] == 0.5


def test_passages_that_are_too_short_are_warned_of(tmp_path):
  """The nearest may be much shorter than the mean."""
  rows = [*PASSAGES, ("7", "w " * 200_000, "long")]
  write_xor(tmp_path, [question(0, "fi", ["1900"])])
  write_tsv(tmp_path / "psgs_w100.tsv", rows)
  (task,) = suite.read_suite(tmp_path)
  assert task.source.depth < len(rows)
  with pytest.warns(Notice, match="1 times the nearest 1 passages"):
    suite.evaluate(bag_of_words, [task], [WIDTH])


def test_a_search_that_keeps_too_much_is_refused(both, monkeypatch):
  monkeypatch.setattr(search, "MOST_BYTES", 12 * 6 * 2)
  tasks = suite.read_suite(both / "xor")
  refused = pytest.raises(BadInput, match="give at most 1 questions at once")
  with refused:
    suite.evaluate(bag_of_words, tasks, [WIDTH, WIDTH // 2])


def test_a_file_that_changes_while_it_is_searched_is_noticed(both):
  (task,) = suite.read_suite(both / "xor")
  write_tsv(both / "xor" / "psgs_w100.tsv", PASSAGES[:3])
  with pytest.raises(BadInput, match="had 6 passages and now has 3"):
    suite.evaluate(bag_of_words, [task], [WIDTH])


def test_how_far_it_is_is_said(both):
  said = []
  suite.evaluate(bag_of_words, suite.read_suite(both), [WIDTH], said.append)
  assert said == [
    "retrieval_cross_lang: 6 of 6 passages",
    "xor: 6 of 6 passages",
  ]


def test_the_verb_shows_a_table_by_family(both, trained, capsys):
  output = both / "scores.json"
  argv = ["evaluate", f"--model={trained}", f"--data={both}"]
  assert main.call([*argv, f"--output={output}"]) == 0
  found = json.loads(output.read_text())
  assert found["summary"]["main"]["xor"] == "recall@5kt"
  scores = found["quality"]["model"]["xor"]["32"]
  assert scores["recall@5kt"] == found["summary"]["types"]["XOR-Retrieve"]["32"]
  assert found["parts"]["xor"]["mean"]["scores"]["32"] == {
    "recall@5kt": scores["recall@5kt"],
    "recall@2kt": scores["recall@2kt"],
  }
  said = "".join(capsys.readouterr())
  for name in "Indo-European of 1", "Finnish (fi)", "mean of 3", "Boro (brx)":
    assert name in said, name
  assert "note: xor: " in said
  assert found["truncated"]["xor"]["queries"]["of"] == 4
  assert found["prompts"]["xor"] == {
    "query": "task: question answering | query: ",
    "document": "title: none | text: ",
  }


def test_a_task_that_fails_costs_only_its_own(
  both, trained, capsys, monkeypatch
):
  dims = matryoshka.dims_of(32)
  monkeypatch.setattr(search, "MOST_BYTES", 4 * 6 * len(dims) * 12)
  output = both / "scores.json"
  argv = ["evaluate", f"--model={trained}", f"--data={both}"]
  assert main.call([*argv, f"--output={output}"]) == 1
  found = json.loads(output.read_text())
  assert list(found["failed"]) == ["retrieval_cross_lang"]
  assert list(found["quality"]["model"]) == ["xor"]
  for means in found["summary"], found["summary"]["intervals"]:
    assert means["mean_task"] == means["mean_type"] == {}
    assert list(means["types"]) == ["XOR-Retrieve"]
  said = capsys.readouterr().err
  assert "failed: retrieval_cross_lang: 18 questions" in said
  with pytest.warns(Notice, match="retrieval_cross_lang has no scores: 18"):
    eg.evaluate(eg.load(trained), both)
  monkeypatch.setattr(search, "MOST_BYTES", 1)
  assert main.call([*argv, f"--output={output}"]) == 2
  assert "passages each" in capsys.readouterr().err.splitlines()[-1]


def test_a_file_that_is_missing_is_one_line(both, trained, capsys):
  (both / "xor" / "psgs_w100.tsv").unlink()
  argv = ["evaluate", f"--model={trained}", f"--data={both}"]
  assert main.call([*argv, f"--output={both / 'scores.json'}"]) == 2
  assert "no passages beside" in capsys.readouterr().err.splitlines()[-1]
