"""Stages done once: found, redone, continued, and adopted when whole."""

import dataclasses
import json
import pathlib

import pytest

from embeddinggemma import cache
from embeddinggemma.types import BadInput


class Killed(Exception):
  """Stands for a process that ends here."""


def make(
  calls: list[str],
  inputs: int = 1,
  resumable: bool = False,
  fails: bool = False,
) -> cache.Task:
  """A step that notes its call and writes one file."""

  def work(directory: pathlib.Path) -> dict:
    calls.append(directory.name)
    (directory / "started").write_text("x")
    if fails:
      raise Killed
    (directory / "result").write_text(str(inputs))
    return {"checkpoint": "checkpoints/3", "hash": "abc", "loss": 1.5}

  return cache.Task("stage", {"value": inputs}, work, resumable)


@pytest.mark.parametrize("resumable", [False, True])
def test_done_once(tmp_path, resumable):
  calls: list[str] = []
  step = make(calls, resumable=resumable)
  first = cache.perform(step, tmp_path)
  second = cache.perform(step, tmp_path)
  assert len(calls) == 1
  assert (first.cached, second.cached) == (False, True)
  assert first.metrics == second.metrics == {"loss": 1.5}
  assert (second.checkpoint, second.hash) == ("checkpoints/3", "abc")
  assert second.seconds == first.seconds
  assert cache.is_done(step, tmp_path)
  assert not (tmp_path / "stage.partial").exists()


@pytest.mark.parametrize("resumable", [False, True])
def test_changed_inputs_start_anew(tmp_path, resumable):
  calls: list[str] = []
  first = cache.perform(make(calls, 1, resumable), tmp_path)
  (tmp_path / "stage" / "left over").write_text("x")
  changed = make(calls, 2, resumable)
  assert not cache.is_done(changed, tmp_path)
  second = cache.perform(changed, tmp_path)
  assert len(calls) == 2
  assert first.key != second.key
  assert (tmp_path / "stage" / "result").read_text() == "2"
  assert not (tmp_path / "stage" / "left over").exists()


def test_a_failure_keeps_the_old_and_leaves_nothing(tmp_path):
  calls: list[str] = []
  cache.perform(make(calls, 1), tmp_path)
  with pytest.raises(Killed):
    cache.perform(make(calls, 2, fails=True), tmp_path)
  assert [path.name for path in tmp_path.iterdir()] == ["stage"]
  assert cache.perform(make(calls, 1), tmp_path).cached


def test_a_killed_stage_is_redone(tmp_path):
  partial = tmp_path / "stage.partial"
  partial.mkdir()
  (partial / "half").write_text("x")
  calls: list[str] = []
  cache.perform(make(calls), tmp_path)
  assert calls == ["stage.partial"]
  assert not (tmp_path / "stage" / "half").exists()


def test_a_resumable_stage_goes_on_in_its_folder(tmp_path):
  calls: list[str] = []
  with pytest.raises(Killed):
    cache.perform(make(calls, resumable=True, fails=True), tmp_path)
  assert (tmp_path / "stage" / "started").exists()
  (tmp_path / "stage" / "mine").write_text("kept")
  assert not cache.perform(make(calls, resumable=True), tmp_path).cached
  assert calls == ["stage", "stage"]
  assert (tmp_path / "stage" / "mine").exists()


def test_seconds_add_up_over_interruptions(tmp_path, monkeypatch):
  clock = iter(range(0, 1000, 10))
  monkeypatch.setattr(cache.time, "perf_counter", lambda: next(clock))
  calls: list[str] = []
  for _ in range(2):
    with pytest.raises(Killed):
      cache.perform(make(calls, resumable=True, fails=True), tmp_path)
  assert cache.perform(make(calls, resumable=True), tmp_path).seconds == 30.0


def test_a_whole_partial_folder_takes_its_name(tmp_path):
  calls: list[str] = []
  step = make(calls)
  cache.perform(step, tmp_path)
  # Killed between the last write and the renaming.
  (tmp_path / "stage").rename(tmp_path / "stage.partial")
  assert cache.perform(step, tmp_path).cached
  assert len(calls) == 1
  assert (tmp_path / "stage" / "result").exists()


def test_writes_whole_or_not_at_all(tmp_path):
  path = tmp_path / "a.json"
  cache.write_json(path, {"a": 1})
  with pytest.raises(TypeError):
    cache.write_json(path, {"a": object()})
  assert json.loads(path.read_text()) == {"a": 1}
  assert cache.read_json(tmp_path / "none.json") == {}


def test_one_process_a_workdir(tmp_path):
  with cache.locked(tmp_path):
    with pytest.raises(BadInput, match="in use by another process"):
      with cache.locked(tmp_path):
        pass
  with cache.locked(tmp_path):
    pass


def test_a_folder_of_someone_else_is_not_replaced(
  tmp_path: pathlib.Path,
) -> None:
  (tmp_path / "stage").mkdir()
  (tmp_path / "stage" / "precious").write_text("x")
  step = cache.Task("stage", {"n": 1}, lambda directory: {})
  with pytest.raises(BadInput, match="stage is not of a run"):
    cache.perform(step, tmp_path)
  assert (tmp_path / "stage" / "precious").read_text() == "x"


def test_what_knew_only_the_weights_is_kept_and_other_identities_are_not(
  tmp_path,
):
  """Until now a task's inputs had no identity of the model that it used."""
  calls: list[str] = []

  def task(**identity):
    depends = {"base": "w", "of": identity}
    return dataclasses.replace(make(calls), inputs=depends)

  old = cache.perform(task(), tmp_path)
  assert cache.is_done(task(identity={"tokenizer": "a"}), tmp_path)
  assert cache.perform(task(identity={"tokenizer": "a"}), tmp_path).key == (
    old.key
  )
  assert len(calls) == 1
  other = tmp_path / "other"
  other.mkdir()
  cache.perform(task(identity={"tokenizer": "a"}), other)
  assert not cache.is_done(task(identity={"tokenizer": "b"}), other)
  cache.perform(task(identity={"tokenizer": "b"}), other)
  assert len(calls) == 3
