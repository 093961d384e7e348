"""Distillation alone, on texts without a partner, as a user asks for it."""

import dataclasses
import json
import pathlib
import shutil

import numpy as np
import pytest

from embeddinggemma import checkpoint
from embeddinggemma.cli import main
from embeddinggemma.mining import teacher
from embeddinggemma.training import prepare, stages
from embeddinggemma.training.stages import pairs
from embeddinggemma.types import BadInput

DISTIL = [
  "--config.loss.contrastive=0",
  "--config.loss.score_matching=1",
  "--config.loss.distill=1",
  "--config.loss.teacher_width=24",
]


def last_error(capsys) -> str:
  return capsys.readouterr().err.splitlines()[-1]


def train(data: pathlib.Path, workdir: pathlib.Path, *flags: str) -> list[str]:
  return [
    "train",
    f"--config=configs/prefinetune.py:tiny,data={data}",
    f"--workdir={workdir}",
    "--config.steps=4",
    "--config.model.num_layers=1",
    "--config.batch_size=16",
    *flags,
  ]


def rows_of(workdir: pathlib.Path) -> list[dict]:
  lines = (workdir / "metrics.jsonl").read_text().splitlines()
  return [json.loads(line) for line in lines]


@pytest.fixture(scope="module")
def texts(tmp_path_factory, small_pairs) -> pathlib.Path:
  """A folder of single texts with the prompts of their roles."""
  folder = tmp_path_factory.mktemp("texts")
  rows = [
    row
    for n, pair in enumerate(small_pairs(60))
    for row in (
      {"text": pair["query"], "prompt": "query"},
      {"text": pair["positive"], "title": f"Row {n}"},
    )
  ]
  lines = "".join(json.dumps(row) + "\n" for row in rows)
  (folder / "texts.jsonl").write_text(lines)
  return folder


@pytest.fixture(scope="module")
def both(texts, tmp_path_factory, write_pairs, small_pairs) -> pathlib.Path:
  """The same beside other pairs."""
  folder = tmp_path_factory.mktemp("both")
  write_pairs(folder, small_pairs(160)[60:])
  shutil.copy(texts / "texts.jsonl", folder)
  return folder


def teach(data: pathlib.Path, output: pathlib.Path) -> pathlib.Path:
  argv = ["teach", "--config=configs/teach.py", f"--data={data}"]
  assert main.call([*argv, f"--output={output}", "--config.width=24"]) == 0
  return output


@pytest.fixture(scope="module")
def taught(both, tmp_path_factory) -> pathlib.Path:
  """The vectors of all texts, pairs or single."""
  return teach(both, tmp_path_factory.mktemp("taught"))


def test_texts_alone_are_distilled_and_go_on(texts, taught, tmp_path, capsys):
  flags = [*DISTIL, f"--config.teacher={taught}"]
  whole, halves = tmp_path / "whole", tmp_path / "halves"
  assert main.call(train(texts, whole, *flags)) == 0
  assert "0 pairs, 0 tasks, 120 single texts" in capsys.readouterr().err
  rows = rows_of(whole)
  for row in rows:
    assert row["task"] == "texts" and len(row["rows"]) <= 16
    assert row["score_matching"] > 0 and row["distill"] > 0
    assert "accuracy" not in row and "contrastive" not in row
    assert row["without_negatives"] == 0
  recipe = checkpoint.recipe_of(checkpoint.read_files(checkpoint.find(whole)))
  assert recipe["data"]["texts"] == 120
  saving = [*flags, "--config.every_checkpoint=2"]
  assert main.call(train(texts, halves, *saving)) == 0
  shutil.rmtree(halves / "checkpoints" / "4")
  assert main.call(train(texts, halves, *saving)) == 0
  assert "continues at step 2" in capsys.readouterr().err
  hashes = [checkpoint.hash_of(checkpoint.find(x)) for x in (whole, halves)]
  assert hashes[0] == hashes[1]
  # Two texts have one other each, whose share is all of any distribution.
  config = stages.build(json.loads((whole / "config.json").read_bytes()))
  made = prepare.inputs_in(config, whole / "inputs")
  pairs.examine(config, made, lambda line: pytest.fail(line))
  loss = dataclasses.replace(config.loss, distill=0.0)
  few = dataclasses.replace(config, batch_size=2, loss=loss)
  with pytest.raises(BadInput, match="no text has two others to be compared"):
    pairs.examine(few, made, print)


@pytest.mark.slow
def test_texts_and_pairs_are_read_by_turns(both, taught, tmp_path, capsys):
  """A weight of 0 leaves the texts out; so does a loss that needs pairs."""
  flags = [*DISTIL, f"--config.teacher={taught}"]
  assert main.call(train(both, tmp_path / "both", *flags)) == 0
  rows = rows_of(tmp_path / "both")
  assert {row["task"] for row in rows} >= {"texts", "qa"}
  for row in rows:
    assert ("accuracy" in row) == (row["task"] != "texts")
  none = [*flags, "--config.data.texts_weight=0", "--config.steps=3"]
  assert main.call(train(both, tmp_path / "none", *none)) == 0
  assert "texts" not in {row["task"] for row in rows_of(tmp_path / "none")}
  capsys.readouterr()
  argv = train(both, tmp_path / "pairs", *flags, "--config.loss.contrastive=1")
  assert main.call([*argv, "--config.steps=2"]) == 0
  said = " ".join(capsys.readouterr().err.split())
  assert "texts.jsonl holds single texts and no pairs" in said
  assert "texts" not in {row["task"] for row in rows_of(tmp_path / "pairs")}


def test_a_teacher_of_pairs_and_texts_has_each(texts, both, taught, tmp_path):
  few = teacher.open_vectors(teach(texts, tmp_path / "few"))
  item = teacher.Item("query", "where is the river river river", "")
  keys = teacher.keys_of([item])
  assert len(few.keys) == 120 and np.isfinite(few.rows(keys)).all()
  all_of = teacher.open_vectors(taught)
  assert len(all_of.keys) == 320 and np.isin(few.keys, all_of.keys).all()


def test_the_batches_are_shown(texts, capsys):
  argv = train(texts, pathlib.Path("unused"), "--config.loss.contrastive=0")
  argv = ["prepare", *argv[1:2], *argv[3:], "--config.loss.score_matching=1"]
  assert main.call([*argv, "--show=0:1"]) == 0
  said = capsys.readouterr().out
  assert "task texts" in said and "texts.jsonl:" in said
  assert "task: search result | query: where is" in said or "title: Row" in said


@pytest.mark.parametrize(
  ("flags", "message"),
  [
    ([], "from which only distillation alone learns"),
    (["--config.loss.contrastive=0"], "nothing teaches"),
    (DISTIL, "loss.distill=1.0, loss.score_matching=1.0 needs a teacher"),
  ],
)
def test_what_cannot_be_is_one_line(flags, message, texts, tmp_path, capsys):
  workdir = tmp_path / "w"
  assert main.call(train(texts, workdir, *flags)) == 2
  assert message in last_error(capsys)
  assert not (workdir / "checkpoints").exists()
