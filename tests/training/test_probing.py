"""Figures of learning in a training, as a user sees them."""

import json
import pathlib
import shutil

import numpy as np
import pytest

from embeddinggemma import checkpoint
from embeddinggemma.cli import main
from embeddinggemma.data import loader
from embeddinggemma.losses import collapse
from embeddinggemma.training import fit, hooks, run

SMALL = [
  "--config.model.num_layers=1",
  "--config.batch_size=16",
  "--config.loss.matryoshka=(32, 8)",
]
TIMES = ("seconds", "tokens_per_s", "data_wait_s")


def command(data: pathlib.Path, workdir: pathlib.Path, *flags: str):
  config = f"--config=configs/prefinetune.py:tiny,data={data}"
  return ["train", config, f"--workdir={workdir}", *SMALL, *flags]


def rows_of(workdir: pathlib.Path) -> list[dict]:
  lines = (workdir / "metrics.jsonl").read_text().splitlines()
  rows = [json.loads(line) for line in lines]
  return [{k: v for k, v in r.items() if k not in TIMES} for r in rows]


def hash_in(workdir: pathlib.Path) -> str:
  return checkpoint.hash_of(checkpoint.find(workdir))


@pytest.fixture(scope="module")
def probed(data_folder, tmp_path_factory) -> pathlib.Path:
  """Five steps that are looked at every two."""
  workdir = tmp_path_factory.mktemp("probed")
  flags = ["--config.steps=5", "--config.every_probe=2"]
  assert main.call(command(data_folder, workdir, *flags)) == 0
  return workdir


def test_every_so_many_steps_have_figures(probed, data_folder, capsys):
  rows = rows_of(probed)
  looked = [row["step"] for row in rows if "effective_rank/query" in row]
  assert looked == [1, 2, 4]
  for row in rows:
    assert "accuracy" in row and "seen" not in row
    if row["step"] in looked:
      assert 1 <= row["effective_rank/positive"] <= 15
      assert -4.5 < row["uniformity/query"] <= 0
      assert -1 <= row["mean_cosine/query"] <= 1
      assert 0 <= row["alignment"] <= 4
      for term in ("contrastive", "spread_out"):
        parts = [row[f"gradient/{term}/{dim}"] for dim in (32, 8)]
        assert 0 < row[f"gradient/{term}"] <= sum(parts)


def test_weights_and_losses_are_those_without(
  probed, data_folder, tmp_path, capsys
):
  flags = ["--config.steps=5", "--config.every_probe=0"]
  assert main.call(command(data_folder, tmp_path / "w", *flags)) == 0
  assert "learned: in-batch accuracy" in capsys.readouterr().err
  assert hash_in(tmp_path / "w") == hash_in(probed)
  for plain, row in zip(rows_of(tmp_path / "w"), rows_of(probed), strict=True):
    assert plain == {name: row[name] for name in plain}


def test_a_workdir_of_before_goes_on_with_the_same_figures(
  probed, data_folder, tmp_path, capsys
):
  flags = ["--config.steps=5", "--config.every_checkpoint=3"]
  workdir = tmp_path / "w"
  old = command(data_folder, workdir, *flags, "--config.every_probe=0")
  assert main.call(old) == 0
  shutil.rmtree(workdir / "checkpoints" / "5")
  path = workdir / "config.json"
  tree = json.loads(path.read_text())
  del tree["every_probe"]  # no key of an earlier version
  path.write_text(json.dumps(tree))
  new = command(data_folder, workdir, *flags, "--config.every_probe=2")
  assert main.call(new) == 0
  said = capsys.readouterr().err
  assert "continues at step 3" in said and "learned: " in said
  assert hash_in(workdir) == hash_in(probed)
  assert rows_of(workdir)[3:] == rows_of(probed)[3:]


def info_of(step: int, cosine: float) -> fit.StepInfo:
  """A step of which different texts have this mean cosine."""
  metrics = {"loss": 1.0, "accuracy": 0.1, "effective_rank/query": 9.0}
  metrics |= {"mean_cosine/query": cosine, "distinct/query": 32.0}
  loaded = loader.Loaded(None, "qa", np.arange(2), 8, 16)
  return fit.StepInfo(step, metrics, loaded, 0.1, 0.0)


def test_a_collapse_is_said_once_and_stands_in_the_metrics(tmp_path):
  """The second call goes on from step 3, as after a kill."""
  said: list[str] = []
  for start, steps in ((0, (1, 2, 3, 4)), (3, (4, 5))):
    log = hooks.MetricsLog(tmp_path, start, collapse.Alarm(), said.append)
    for step in steps:
      log(info_of(step, 0.2 if step == 1 else 0.99))
    log.close()
  assert len(said) == 1 and said[0].startswith("warning: the vectors collapse")
  rows = hooks.read_metrics(tmp_path / hooks.METRICS)
  assert [row["step"] for row in rows if "collapse" in row] == [3]
  assert run.summary_of(rows)["collapsed_at"] == 3


def test_a_period_below_zero_is_refused(data_folder, tmp_path, capsys):
  flags = ["--config.steps=5", "--config.every_probe=-1"]
  assert main.call(command(data_folder, tmp_path / "w", *flags)) == 2
  assert "every_probe=-1 must be at least 0" in capsys.readouterr().err
