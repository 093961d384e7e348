"""What BUILD.md says is one file and one line: added here from outside.

Each test puts one entry into one table and then works as a user does, so that a
list of names, or a branch, that is kept elsewhere fails it.
"""

import dataclasses
import json

import flax.linen as nn
import jax.numpy as jnp
import numpy as np
import pytest

from embeddinggemma import doctor
from embeddinggemma.cli import main
from embeddinggemma.evaluation import kinds, suite
from embeddinggemma.evaluation.kinds.task import EvalTask, Kind
from embeddinggemma.loading import assemble, load
from embeddinggemma.mining import teacher, teachers
from embeddinggemma.mining.teachers import kind
from embeddinggemma.model import pooling
from embeddinggemma.report import report
from embeddinggemma.types import BadInput


class Weighted(nn.Module):
  """The mean, each dimension times a weight that is learnt."""

  @nn.compact
  def __call__(self, tokens, segment_ids, num_texts):
    weights = self.param("weights", nn.initializers.ones, (2, tokens.shape[-1]))
    mean = pooling.mean(tokens, segment_ids, num_texts)
    return mean * jnp.prod(weights, axis=0, keepdims=True)


def largest(tokens, segment_ids, num_texts):
  """The largest value of a text's tokens in each dimension."""
  member = pooling.one_hot(segment_ids, num_texts) > 0
  own = jnp.where(member[..., None], tokens[:, :, None], -1e9)
  return jnp.max(own, axis=(0, 1))


def test_a_pooling_with_weights(monkeypatch, tmp_path, train_command, capsys):
  """Trained, saved, loaded, looked at by the doctor; no format holds it."""
  toy = pooling.Pooling(lambda config: Weighted(name=pooling.NAME), None)
  monkeypatch.setitem(pooling.POOLINGS, "weighted", toy)
  workdir = tmp_path / "run"
  argv = [*train_command(workdir), "--config.model.pooling=weighted"]
  assert main.call([*argv, "--config.steps=1"]) == 0
  model = load(workdir)
  weights = np.asarray(model.params["model"]["pooling"]["weights"])
  assert model.config.pooling == "weighted" and (weights != 1).any()
  assert doctor.quick(model) == []
  capsys.readouterr()
  argv = ["export", f"--model={workdir}", f"--output={tmp_path / 'out'}"]
  assert main.call([*argv, "--format=gguf"]) == 2
  said = capsys.readouterr().err
  assert "model.pooling='weighted'; it pools by the mean" in said


def test_a_pooling_without_weights(monkeypatch, trained):
  """The doctor compares with the same in NumPy."""
  toy = pooling.Pooling(lambda config: largest, lambda x: x.max(axis=0))
  monkeypatch.setitem(pooling.POOLINGS, "largest", toy)
  model = load(trained)
  config = dataclasses.replace(model.config, pooling="largest")
  model = assemble(config, model.params, model.tokenizer, "largest")
  assert doctor.quick(model) == []


def read_odd(path, name):
  """Odd one out: {"texts", "odd"} a row."""
  rows = [json.loads(line) for line in path.read_text().splitlines()]
  texts = tuple(text for row in rows for text in row["texts"])
  gold = tuple(row["odd"] for row in rows)
  return [EvalTask(name, "odd", "sts", texts, gold=gold)]


def score_odd(task, left, right):
  """`found`, and an `accuracy` that is another kind's main metric."""
  groups = left.reshape(len(task.gold), -1, left.shape[1])
  odd = np.argmin(np.einsum("nij,nkj->ni", groups, groups), axis=1)
  return {"accuracy": 0.5, "found": float(np.mean(odd == task.gold))}


def test_a_kind_of_evaluation_tasks(monkeypatch, tmp_path, trained):
  """The verb `evaluate` reads, scores, averages and tabulates it."""
  odd = Kind(
    lambda path, keys: {"texts", "odd"} <= keys(),
    read_odd,
    score_odd,
    ("found", "accuracy"),
    called="odd one out",
    rows="texts and odd",
  )
  monkeypatch.setitem(kinds.KINDS, "odd", odd)
  folder, output = tmp_path / "tasks", tmp_path / "scores.json"
  folder.mkdir()
  with pytest.raises(BadInput, match="classification or odd one out JSONL"):
    suite.read_suite(folder)
  file = folder / "test.jsonl"
  file.write_text('{"a": 1}\n')
  with pytest.raises(BadInput, match=r"or texts and odd$"):
    suite.read_suite(folder)
  file.write_text(json.dumps({"texts": ["river", "river", "x"], "odd": 2}))
  argv = ["evaluate", f"--model={trained}", f"--data={folder}"]
  assert main.call([*argv, f"--output={output}"]) == 0
  found = json.loads(output.read_text())
  assert found["summary"]["main"] == {"tasks": "found"}
  assert set(found["summary"]["types"]) == {"odd"}
  assert found["summary"]["mean_task"] == {"32": 1.0}
  assert found["quality"]["model + BM25"] == {}, "it is no search"
  header, _ = report._quality_rows(found["quality"])
  assert header == ["system", "tasks found"]


def test_a_teacher(monkeypatch, tmp_path, data_folder, capsys):
  """The verb `teach` asks it, and keeps what it says of itself.

  A recipe refuses one of another width than its loss before any work.
  """

  def encode(items):
    return np.array([[len(item.text), 1.0] for item in items], np.float32)

  def opened(config):
    about = {"teacher": "lengths", "seed": config.seed}
    return teacher.TeacherModel(about, 2, lambda items, own: encode)

  lengths = kind.Kind(lambda c: c.teacher == "lengths", opened)
  monkeypatch.setattr(teachers, "TEACHERS", (lengths, *teachers.TEACHERS))
  argv = ["teach", "--config=configs/teach.py", f"--data={data_folder}"]
  argv += [f"--output={tmp_path}", "--config.teacher=lengths"]
  assert main.call(argv) == 0
  vectors = teacher.open_vectors(tmp_path)
  assert vectors.width == 2 and vectors.about["width"] == 2
  argv = ["run", f"--config=configs/recipe.py:tiny,data={data_folder}"]
  argv += [f"--workdir={tmp_path / 'run'}", "--config.teach.teacher=lengths"]
  assert main.call(argv) == 2
  said = capsys.readouterr().err.splitlines()[-1]
  assert "has vectors of width 2, and prefinetune matches 512; set" in said
  assert not list(tmp_path.glob("run/*/stage.json"))
