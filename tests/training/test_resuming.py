"""Training again where something was trained: goes on, or says what to type."""

import json
import pathlib
import re
import shlex
import shutil

import pytest

from embeddinggemma import checkpoint
from embeddinggemma.cli import main

CONSTANT = (
  "--config.optimizer.end_factor=1.0",
  "--config.optimizer.warmup_steps=1",
)


@pytest.fixture
def fails(capsys):
  """Runs a command that is bad input, and returns the error."""

  def run(*argv: str) -> str:
    capsys.readouterr()
    assert main.call([*argv]) == 2
    return capsys.readouterr().err.splitlines()[-1]

  return run


@pytest.fixture(scope="module")
def constant(train_command, tmp_path_factory) -> pathlib.Path:
  """Two steps at a constant learning rate."""
  workdir = tmp_path_factory.mktemp("constant")
  assert main.call([*train_command(workdir), *CONSTANT]) == 0
  return workdir


@pytest.fixture
def begun(constant, tmp_path) -> pathlib.Path:
  return shutil.copytree(constant, tmp_path / "has begun")


def hash_in(workdir: pathlib.Path, step: int) -> str:
  place = workdir / "checkpoints" / str(step)
  return checkpoint.content_hash(checkpoint.read_params(place))


def files_of(folder: pathlib.Path) -> dict[str, bytes]:
  return {
    str(path.relative_to(folder)): path.read_bytes()
    for path in folder.rglob("*")
    if path.is_file()
  }


def test_more_steps_go_on_as_if_they_had_been_asked_for_at_once(
  begun, train_command, tmp_path, capsys
):
  longer = [*CONSTANT, "--config.steps=5"]
  assert main.call([*train_command(begun), *longer]) == 0
  said = capsys.readouterr().err
  assert "with another schedule (steps=2 there, 5 now)" in said
  assert "continues at step 2" in said
  whole = tmp_path / "whole"
  assert main.call([*train_command(whole), *longer]) == 0
  assert hash_in(begun, 5) == hash_in(whole, 5)
  rows = [
    [json.loads(line)["loss"] for line in path.read_text().splitlines()]
    for path in (begun / "metrics.jsonl", whole / "metrics.jsonl")
  ]
  assert rows[0] == rows[1] and len(rows[0]) == 5
  assert json.loads((begun / "config.json").read_text())["steps"] == 5


def test_fewer_steps_than_were_taken_are_refused(begun, train_command, fails):
  said = fails(*train_command(begun), *CONSTANT, "--config.steps=1")
  assert "step 2 is there already, beyond steps=1" in said


def test_more_steps_of_a_falling_rate_name_the_ways_on(
  trained, train_command, fails, capsys
):
  before = files_of(trained)
  said = fails(*train_command(trained), "--config.steps=4")
  assert files_of(trained) == before
  assert "steps=2 there, 4 now" in said
  assert "the 2 steps that were taken had another learning rate" in said
  assert "--config.optimizer.end_factor=1 from its start" in said
  assert f"add --config.init_from={trained} --workdir={trained}-2" in said


def test_within_the_warm_up_any_later_schedule_goes_on(
  train_command, tmp_path, capsys
):
  warm = [*train_command(tmp_path / "w"), "--config.optimizer.warmup_steps=3"]
  assert (
    main.call([*warm, "--config.steps=4", "--config.every_checkpoint=2"]) == 0
  )
  shutil.rmtree(tmp_path / "w" / "checkpoints" / "4")
  assert main.call([*warm, "--config.steps=6"]) == 0
  assert "continues at step 2" in capsys.readouterr().err


@pytest.mark.parametrize(
  "changed",
  ["optimizer.lr=0.001", "seed=3", "batch_size=8", "loss.temperature=0.1"],
)
def test_the_line_that_a_stop_names_works(
  begun, train_command, fails, capsys, changed
):
  argv = [*train_command(begun), *CONSTANT, f"--config.{changed}"]
  said = fails(*argv)
  line = re.search(r"weights, add (--config.init_from=.+?); to train", said)
  assert line, said
  assert main.call([*argv, *shlex.split(line[1])]) == 0
  assert f"starts from {begun}" in capsys.readouterr().err


def test_another_model_is_no_way_on(begun, train_command, fails):
  said = fails(*train_command(begun), *CONSTANT, "--config.model.num_layers=2")
  assert "to train from the start, add --workdir=" in said
  assert "its weights are no start for this" in said and "num_layers" in said
  assert "to train on from its weights" not in said


def test_changed_data_name_the_way_on(
  small_pairs, write_pairs, train_command, tmp_path, fails
):
  data = write_pairs(tmp_path / "data", small_pairs(60))
  command = lambda workdir: [
    a.replace("data=", f"data={data}#").split("#")[0] if "data=" in a else a
    for a in train_command(workdir)
  ]
  workdir = tmp_path / "w"
  assert main.call(command(workdir)) == 0
  before = hash_in(workdir, 2)
  write_pairs(data, small_pairs(61))
  said = fails(*command(workdir))
  assert "was trained on other data, or the data's files have changed" in said
  line = re.search(r"add (--config.init_from=\S+) (--workdir=\S+);", said)
  assert hash_in(workdir, 2) == before
  assert main.call([*command(workdir), *line.groups()]) == 0


def test_what_left_no_checkpoint_is_begun_again(
  begun, train_command, tmp_path, capsys
):
  """As after a first try that ran out of memory."""
  shutil.rmtree(begun / "checkpoints")
  argv = [*train_command(begun), *CONSTANT, "--config.batch_size=24"]
  assert main.call(argv) == 0
  said = capsys.readouterr().err
  assert "has no checkpoint of its former config (batch_size=" in said
  assert "starts from random weights" in said or "starts from" in said
  assert len((begun / "metrics.jsonl").read_text().splitlines()) == 2
