"""XOR-Retrieve and XTREME-UP as mteb's own tasks score as our runner does."""

import json

import numpy as np
import pytest
from cross_files import (
  TOPICS,
  WIDTH,
  bag_of_words,
  question,
  write_xor,
  write_xtreme,
)

from embeddinggemma.cli import main
from embeddinggemma.evaluation import suite
from embeddinggemma.evaluation.cross import mteb_tasks
from embeddinggemma.types import BadInput

mteb = pytest.importorskip("mteb")


class BagOfWords:
  """The words of texts as a model of mteb's, which counts its documents."""

  def __init__(self):
    from mteb.models.model_meta import ModelMeta

    self.documents = 0
    self.mteb_model_meta = ModelMeta.create_empty(
      {"name": "own/words", "revision": "1"}
    )

  def encode(self, inputs, *, prompt_type=None, **options):
    """Texts as mteb hands them over: documents have a title and a body."""
    texts, titles = [], []
    for batch in inputs:
      bodies = batch.get("body") or batch["text"]
      texts += bodies
      titles += batch.get("title") or [""] * len(bodies)
    if prompt_type is not None and prompt_type.value == "document":
      self.documents += len(texts)
    return bag_of_words(texts, "", titles)

  def similarity(self, a, b):
    """Cosines."""
    return np.asarray(a) @ np.asarray(b).T

  def similarity_pairwise(self, a, b):
    """Cosines of rows."""
    return np.sum(np.asarray(a) * np.asarray(b), axis=1)


@pytest.fixture(autouse=True)
def own_cache(tmp_path, monkeypatch):
  """mteb's corpora are cached on disk: in the test's folder."""
  import datasets

  cache = tmp_path / "cache"
  monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", cache)


def _scored(folder, model):
  (task,) = mteb_tasks.tasks(folder)
  result = mteb.evaluate(
    model, task, cache=None, co2_tracker=False, show_progress_bar=False
  )
  return task, result.task_results[0]


@pytest.mark.parametrize("name", ["xor", "xtreme"])
def test_the_scores_are_those_of_our_runner(tmp_path, name):
  """By language and in the mean; each passage is encoded once for all."""
  write = {"xor": write_xor, "xtreme": write_xtreme}[name]
  folder = write(tmp_path / name)
  rows = [question(n, "fi", [str(1900 + n)]) for n in range(len(TOPICS))]
  if name == "xor":
    write_xor(folder, [*rows, question(0, "ru", ["1066"])])
  model = BagOfWords()
  task, found = _scored(folder, model)
  assert model.documents == len(TOPICS)
  ours = suite.evaluate(bag_of_words, suite.read_suite(folder), [WIDTH])
  ours = ours["tasks"][name][str(WIDTH)]
  (main, *_) = ours
  (rows,) = found.scores.values()
  assert len(rows) == len(set(task.hf_subsets)) > 1
  for row in rows:
    expected = ours[f"{main}/{row['hf_subset']}"]
    assert row["main_score"] == pytest.approx(expected, abs=1e-4)
    assert row[main.replace("@", "_at_")] == row["main_score"]
    assert row["languages"][1] == "eng-Latn"
  assert found.get_score() == pytest.approx(ours[main], abs=1e-4)


SUITES = {
  "xor": ("XORRetrieve", "XOR-Retrieve, recall@5kt"),
  "xtreme": (
    "XTREMEUPCrossLingualRetrieval",
    "XTREME-UP, cross-lingual retrieval",
  ),
}


@pytest.mark.parametrize("name", ["xor", "xtreme"])
def test_the_verb_gives_the_same_by_both_ways(tmp_path, trained, name):
  """Prompts, scores, and what stands beside the paper's."""
  folder = {"xor": write_xor, "xtreme": write_xtreme}[name](tmp_path / name)
  if name == "xor":
    rows = [question(n, "fi", [str(1900 + n)]) for n in range(len(TOPICS))]
    write_xor(folder, [*rows, question(0, "ru", ["1066"])])
  common = ["evaluate", f"--model={trained}", "--compare=paper"]
  ways = {
    "own": [f"--data={folder}"],
    "mteb": [f"--mteb={folder}", "--titles", f"--cache={tmp_path / 'cache'}"],
  }
  found = {}
  for way, flags in ways.items():
    output = tmp_path / f"{way}.json"
    assert main.call([*common, *flags, f"--output={output}"]) == 0
    found[way] = json.loads(output.read_text())
  task, compared = SUITES[name]
  row = found["mteb"]["tasks"][task]
  assert row["prompts"] == found["own"]["prompts"][name] != {}
  metric = found["own"]["summary"]["main"][name]
  score = found["own"]["quality"]["model"][name]["32"][metric]
  assert row["main_score"] == pytest.approx(score, abs=1e-4)
  beside = {
    way: result["compared"]["suites"][compared]["at"]["32"]
    for way, result in found.items()
  }
  values = {
    way: {task: one["ours"] for task, one in at["tasks"].items()}
    for way, at in beside.items()
  }
  assert values["mteb"] == pytest.approx(values["own"], abs=1e-2)
  for at in beside.values():
    told = [one["setting"] for one in at["differs"]]
    assert "prompt of query" not in told and "metric" not in told


def test_a_folder_of_neither_is_one_line(tmp_path, trained, capsys):
  argv = ["evaluate", f"--model={trained}", f"--mteb={tmp_path}"]
  assert main.call([*argv, f"--output={tmp_path / 'out.json'}"]) == 2
  said = capsys.readouterr().err.splitlines()[-1]
  assert "neither XOR-Retrieve nor XTREME-UP" in said


def test_the_metadata_are_complete():
  for task in mteb_tasks.classes():
    assert task.metadata.is_filled(), task.metadata.name
    task.metadata._validate_metadata()
    assert issubclass(task, mteb.AbsTask)
  xor, xtreme = mteb_tasks.classes()
  assert len(xor.metadata.eval_langs) == 7
  assert len(xtreme.metadata.eval_langs) == 20
  assert xor.metadata.main_score == "recall_at_5kt"
  assert xtreme.metadata.main_score == "mrr_at_10"


def test_the_revision_is_that_of_the_files(tmp_path):
  """mteb keeps results by it."""
  revision = lambda: mteb_tasks.tasks(tmp_path)[0].metadata.revision
  write_xor(tmp_path)
  first = revision()
  assert first == revision()
  path = tmp_path / "psgs_w100.tsv"
  path.write_text(path.read_text().replace("1904", "2004"))
  assert revision() != first
  assert mteb_tasks.classes()[0].metadata.revision == "v1.1"


def test_what_was_found_is_kept_where_predictions_are_asked_for(tmp_path):
  (task,) = mteb_tasks.tasks(write_xtreme(tmp_path / "xtreme"))
  mteb.evaluate(
    BagOfWords(),
    task,
    cache=None,
    prediction_folder=tmp_path / "out",
    co2_tracker=False,
    show_progress_bar=False,
  )
  path = tmp_path / "out" / task.prediction_file_name
  assert '"hi"' in path.read_text()


def test_another_folder_is_refused(tmp_path):
  with pytest.raises(BadInput, match="neither XOR-Retrieve nor XTREME-UP"):
    mteb_tasks.tasks(tmp_path)
