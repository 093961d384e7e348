"""Configs, flags and files on disk are what they were.

`python tests/golden/make.py` writes the first two anew, for a change that is
meant.
"""

import json
import pathlib
import shutil
import sys
import tarfile

import pytest

from embeddinggemma.cli import main

GOLDEN = pathlib.Path(__file__).parent / "golden"
sys.path.insert(0, str(GOLDEN))
import make  # noqa: E402

CHECKPOINT = pathlib.Path("checkpoints") / "2" / "files"
SIZES = [
  "--config.model.num_layers=1",
  "--config.model.vocab_size=400",
  "--config.model.width=16",
  "--config.model.mlp_width=16",
  "--config.model.head_dim=8",
  "--config.model.num_heads=2",
  "--config.batch_size=8",
]


def test_every_config_resolves_to_what_it_did():
  assert json.loads((GOLDEN / "configs.json").read_text()) == make.configs()


def test_every_help_says_what_it_did():
  assert (GOLDEN / "help.txt").read_text() == make.helps()


@pytest.fixture(scope="module")
def old(tmp_path_factory) -> pathlib.Path:
  """What version 0.1.0 left, before any of its modules moved: PAIRS and TEXTS,
  a training of two steps on them, its index, a teacher's vectors, negatives."""
  folder = tmp_path_factory.mktemp("old")
  with tarfile.open(GOLDEN / "version_0_1.tar.xz") as archive:
    archive.extractall(folder, filter="data")
  return folder


def test_an_old_index_answers(old, capsys):
  argv = ["query", f"--model={old / 'trained'}", f"--index={old / 'index'}"]
  assert main.call([*argv, "where is the river", "--k=1"]) == 0
  said = capsys.readouterr()
  assert said.out.startswith("0.903  river.txt:1  river")
  assert "cut by characters; dense search may miss the ends" in said.err


def test_an_old_index_is_brought_up_to_date(old, capsys, tmp_path):
  texts = shutil.copytree(old / "texts", tmp_path / "texts")
  index = shutil.copytree(old / "index", tmp_path / "index")
  (texts / "glass.txt").write_text("Glass is made of sand.\n")
  argv = ["index", f"--model={old / 'trained'}", f"--input={texts}", "--json"]
  assert main.call([*argv, f"--output={index}"]) == 0
  about = json.loads(capsys.readouterr().out)
  assert (about["kept"], about["new"]) == (3, 1)
  assert "of its 3 chunks, 0 were longer" in about["note"]
  assert (about["truncated"], about["cut"]["max_length"]) == (0, 64)


def test_a_model_that_reads_too_little_makes_no_index(old, capsys, tmp_path):
  model = shutil.copytree(old / "trained", tmp_path / "trained")
  config = json.loads((model / CHECKPOINT / "model.json").read_text())
  (model / CHECKPOINT / "model.json").write_text(
    json.dumps(config | {"max_length": 8})
  )
  argv = ["index", f"--model={model}", f"--input={old / 'texts'}"]
  assert main.call([*argv, f"--output={tmp_path / 'index'}"]) == 2
  said = capsys.readouterr().err
  assert "max_length=8: the document prompt 'title: none | text: '" in said
  assert not (tmp_path / "index").exists()


def test_an_old_training_goes_on(old, capsys, tmp_path, monkeypatch):
  workdir = shutil.copytree(old / "trained", tmp_path / "trained")
  recipe = json.loads((workdir / CHECKPOINT / "recipe.json").read_text())
  words = [w for w in recipe["command"][1:] if not w.startswith("--workdir")]
  monkeypatch.chdir(old)
  assert main.call([*words, f"--workdir={workdir}"]) == 0
  said = capsys.readouterr().err
  assert "continues at step 2" in said
  assert "weights 1062a349a1bf" in said


def test_what_an_old_version_prepared_is_read(old, tmp_path, monkeypatch):
  monkeypatch.chdir(old)
  argv = [
    "train",
    "--config=configs/finetune.py:tiny,data=mined",
    f"--workdir={tmp_path}",
    "--config.init_from=trained",
    "--config.teacher=taught",
    "--config.loss.distill=1",
    "--config.loss.teacher_width=8",
    "--config.steps=1",
    "--config.negatives=1",
    *SIZES,
  ]
  assert main.call(argv) == 0
  files = tmp_path / "checkpoints" / "1" / "files" / "recipe.json"
  assert json.loads(files.read_text())["parents"]["init"].startswith("1062a349")
