"""A stage of training is one file: a toy one, added from outside the package."""

import dataclasses
import json
import pathlib

import jax.numpy as jnp
import pytest

from embeddinggemma.cli import main
from embeddinggemma.training import stages
from embeddinggemma.training.stages import common, pairs

CONFIG = """
from embeddinggemma.config import sibling

def get_config(arg=None):
  config = sibling({finetune!r}, "finetune").get_config(arg)
  config.stage = "centre"
  config.pull = 0.5
  return config
"""


@dataclasses.dataclass(frozen=True)
class CentreConfig(pairs.PairConfig):
  """Finetuning whose batches are also pulled towards their centre."""

  pull: float = dataclasses.field(default=0.0, kw_only=True)


def centre(config: CentreConfig, mesh):
  """The contrastive loss, and how far the vectors are from their mean."""
  whole = pairs.finetune(config, mesh)

  def objective(params, batch):
    loss, metrics = whole.objective(params, batch)
    up = params["model"]["up"]
    return loss + config.pull * jnp.var(up), metrics | {"pull": jnp.var(up)}

  return common.stage(config, pairs.init(config), objective)


@pytest.fixture
def toy(monkeypatch, tmp_path):
  """A config file of the toy stage, which is in the table while a test runs."""
  kind = pairs.KIND._replace(config=CentreConfig, make=centre)
  monkeypatch.setitem(stages.KINDS, "centre", kind)
  finetune = pathlib.Path(__file__).parents[2] / "configs" / "any"
  path = tmp_path / "centre.py"
  path.write_text(CONFIG.format(finetune=str(finetune)))
  return path


def test_a_stage_is_one_file_and_one_config(toy, data_folder, tmp_path, capsys):
  workdir = tmp_path / "w"
  argv = [
    "train",
    f"--config={toy}:tiny,data={data_folder}",
    f"--workdir={workdir}",
    "--config.steps=2",
    "--config.model.num_layers=1",
    "--config.negatives=0",
  ]
  assert main.call(argv) == 0
  rows = (workdir / "metrics.jsonl").read_text().splitlines()
  assert [json.loads(row)["step"] for row in rows] == [1, 2]
  assert all(json.loads(row)["pull"] > 0 for row in rows)
  files = workdir / "checkpoints" / "2" / "files"
  recipe = json.loads((files / "recipe.json").read_text())
  assert (recipe["stage"], recipe["config"]["pull"]) == ("centre", 0.5)
  capsys.readouterr()
  assert main.call(argv) == 0
  assert "continues at step 2" in capsys.readouterr().err
  assert main.call([*argv, "--config.pull=0.1"]) == 2
  assert "pull=0.5 there, 0.1 now" in capsys.readouterr().err


def test_an_unknown_stage_is_named(toy, tmp_path, data_folder, capsys):
  argv = ["train", f"--config={toy}:tiny,data={data_folder}"]
  argv += [f"--workdir={tmp_path / 'w'}", "--config.stage=center"]
  assert main.call(argv) == 2
  assert "did you mean 'centre'?" in capsys.readouterr().err
