"""The stages of a model, from parent to child, as recipe.json keeps them."""

import json

import pytest

from embeddinggemma import checkpoint
from embeddinggemma.lineage import stages

TRAINED = {
  "stage": "prefinetune",
  "config": {"steps": 5, "batch_size": 8, "max_length": 64, "lora": None},
  "data": {
    "source": "/home/ann/pairs",
    "hash": "ab",
    "tasks": {"qa": 3},
    "sources": [{"name": "pairs", "licence": "mit"}],
    "skipped": ["/home/ann/pairs:3: no text"],
  },
  "command": [
    "/x/embeddinggemma/__main__.py",
    "train",
    "--workdir=/home/ann/w",
  ],
  "versions": {"embeddinggemma": "0.1.0", "jax": "0.10", "python": "3.11"},
}


def files(recipe):
  return {"recipe.json": json.dumps(recipe).encode()}


def test_a_stage_holds_names_and_counts():
  [found] = stages.of(TRAINED)
  assert found == {
    "stage": "prefinetune",
    "steps": 5,
    "batch_size": 8,
    "max_length": 64,
    "data": {
      "hash": "ab",
      "tasks": {"qa": 3},
      "sources": [{"name": "pairs", "licence": "mit"}],
    },
    "command": "embeddinggemma train --workdir=w",
    "versions": {"embeddinggemma": "0.1.0", "jax": "0.10"},
  }
  assert "/home/ann" not in json.dumps(found)


def test_a_child_has_its_parent_s_stages_and_its_own():
  kept = checkpoint.descent(files(TRAINED))
  child = {"stage": "finetune", **kept}
  names = [stage["stage"] for stage in stages.of(child)]
  assert names == ["prefinetune", "finetune"]
  assert checkpoint.descent({}) == {}


def test_those_of_several_parents_are_there_once():
  one = stages.of({"stage": "finetune", **stages.entry(stages.of(TRAINED))})
  two = stages.of({"stage": "qat", **stages.entry(stages.of(TRAINED))})
  found = stages.entry(one, two, [])[stages.TRAINED]
  names = [stage["stage"] for stage in found]
  assert names == ["prefinetune", "finetune", "qat"]
  assert stages.entry([], []) == {}


def test_running_text_has_tasks_in_a_list():
  tasks = [
    {"name": "text", "texts": 7, "tokens": 90, "weight": 1.0},
    {"name": "code", "texts": 2, "tokens": 10, "weight": 1.0},
  ]
  [found] = stages.of({"stage": "pretrain", "data": {"tasks": tasks}})
  assert found["data"] == {"tasks": {"text": 7, "code": 2}, "tokens": 100}


@pytest.mark.parametrize(
  "damaged", [None, 3, {}, "x", [1, None, {}, {"stage": 3}, []]]
)
def test_what_is_damaged_is_left_out(damaged):
  assert stages.read(damaged) == []
  recipe = {"stage": "qat", "trained": damaged, "data": damaged}
  [found] = stages.of({**recipe, "config": damaged, "versions": damaged})
  assert found["stage"] == "qat" and stages.sources(found) == []
  odd = {"stage": "x", "data": {"sources": damaged, "tasks": damaged}}
  assert stages.sources(odd) == [] and stages.counts(odd, "tasks") == {}


def test_whether_all_stages_are_known():
  assert stages.is_whole({}) and stages.is_whole(TRAINED)
  parent = {"stage": "finetune", "parents": {"init": "ab"}}
  assert not stages.is_whole(parent)
  assert stages.is_whole({**parent, "trained": [{"stage": "import"}]})
  table = {"init": "lsa", "init_from": ""}
  assert stages.is_whole({**parent, "config": table})


def test_a_training_keeps_what_its_data_say(trained):
  """On disk: sources, languages and what is held out; no path."""
  recipe = checkpoint.recipe_of(checkpoint.read_files(checkpoint.find(trained)))
  [stage] = stages.of(recipe)
  assert stages.is_whole(recipe)
  [source] = stages.sources(stage)
  assert list(source) == ["name"]  # the fixture's folder says no more
  assert stages.counts(stage, "tasks") == recipe["data"]["tasks"]
  assert stages.data(stage)["held_out"]["by"].startswith("equal texts")
