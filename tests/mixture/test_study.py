"""The evidence: what is written stays, and each key has its own."""

import math
import pathlib
import sqlite3

import pytest

from embeddinggemma.mixture.study import STUDY_FILE, Study
from embeddinggemma.types import BadInput

WEIGHTS = {"code": 0.7, "qa": 0.3}


@pytest.fixture
def study(tmp_path):
  made = Study(tmp_path, {"data": "abc", "tasks": ["code", "qa"]})
  yield made
  made.close()


def reopened(directory: pathlib.Path, data: str = "abc") -> Study:
  return Study(directory, {"data": data, "tasks": ["code", "qa"]})


def test_a_trial_is_found_again(study, tmp_path):
  begun = study.begin(WEIGHTS, "given", 0.5)
  assert (begun.number, begun.feasible) == (1, False)
  assert begun.scores is None and math.isnan(begun.score)
  other = reopened(tmp_path)
  assert other.trials() == [begun]
  ended = study.end(begun, {"retrieval": 0.5, "sts": 0.7}, "", 12.5)
  assert ended.feasible and ended.score == pytest.approx(0.6)
  assert other.trials() == [ended]
  assert (ended.seconds, ended.suggest_seconds) == (12.5, 0.5)
  assert other.begin(WEIGHTS, "dirichlet", 0.0).number == 2
  assert other.trials()[0].folder.parent == other.trials()[1].folder.parent
  other.close()


def test_an_infeasible_trial_has_ended(study):
  trial = study.end(study.begin(WEIGHTS, "given", 0), {}, "loss is nan", 1.0)
  assert study.trials() == [trial]
  assert trial.scores == {} and not trial.feasible and math.isnan(trial.score)


def test_another_key_has_its_own_trials(study, tmp_path):
  first = study.begin(WEIGHTS, "given", 0)
  other = reopened(tmp_path, "changed")
  assert other.trials() == []
  assert other.others() == {"data": 1}
  second = other.begin(WEIGHTS, "given", 0)
  assert second.number == 1 and second.folder != first.folder
  other.end(second, {"sts": 0.1}, "", 1.0)
  assert study.trials() == [first]
  other.close()


def test_a_foreign_file_is_not_touched(tmp_path):
  path = tmp_path / STUDY_FILE
  path.write_text("a letter, or anything that is not a database" * 50)
  before = path.read_bytes()
  with pytest.raises(BadInput, match=r"study\.sqlite is no study .* move it"):
    reopened(tmp_path)
  assert path.read_bytes() == before


def test_a_later_version_is_not_touched(study, tmp_path):
  with sqlite3.connect(study.path) as connection:
    connection.execute("PRAGMA user_version = 9")
  with pytest.raises(BadInput, match="version 9, not 1"):
    reopened(tmp_path)
