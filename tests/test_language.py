"""The language-model stages as a user trains them (paper section 2.1)."""

import json
import pathlib
import shutil

import jax
import numpy as np
import pytest

from embeddinggemma import checkpoint, soups
from embeddinggemma.cli import main
from embeddinggemma.data import text as text_lib
from embeddinggemma.data.tokenizer import train_tokenizer

STEPS = 6


def command(stage: str, data: pathlib.Path, workdir: pathlib.Path) -> list[str]:
  """The `train` of a small stage."""
  return [
    "train",
    f"--config=configs/{stage}.py:tiny,data={data}",
    f"--workdir={workdir}",
    f"--config.steps={STEPS}",
    "--config.model.num_layers=1",
  ]


def kept(workdir: pathlib.Path) -> dict:
  return checkpoint.read_params(checkpoint.find(workdir))


def digest(workdir: pathlib.Path) -> str:
  return checkpoint.content_hash(kept(workdir))


@pytest.fixture(scope="module")
def pretrained(data_folder, tmp_path_factory) -> pathlib.Path:
  """The workdir of a causal language model."""
  workdir = tmp_path_factory.mktemp("pretrained")
  assert main.call(command("pretrain", data_folder, workdir)) == 0
  return workdir


@pytest.fixture(scope="module")
def adapting(data_folder, pretrained):
  """workdir -> the command that adapts what was pretrained."""
  return lambda workdir: [
    *command("adapt", data_folder, workdir),
    f"--config.init_from={pretrained}",
    "--config.decoder.num_layers=1",
    "--config.every_checkpoint=2",
    "--config.average=2",
  ]


@pytest.fixture(scope="module")
def adapted(adapting, tmp_path_factory) -> pathlib.Path:
  """The workdir of an encoder-decoder."""
  workdir = tmp_path_factory.mktemp("adapted")
  assert main.call(adapting(workdir)) == 0
  return workdir


def leaves(tree) -> dict[str, np.ndarray]:
  found = jax.tree_util.tree_leaves_with_path(tree)
  return {jax.tree_util.keystr(path): leaf for path, leaf in found}


def test_the_result_is_the_mean_of_the_last_checkpoints(adapted):
  root = adapted / "checkpoints"
  assert checkpoint.steps(adapted) == [2, 4, 6]
  a, b = (leaves(checkpoint.read_params(root / n)) for n in ("4", "6"))
  mean = leaves(kept(adapted))
  assert set(mean) == set(a)
  for name in mean:
    np.testing.assert_allclose(mean[name], (a[name] + b[name]) / 2, rtol=1e-6)
  files = checkpoint.read_files(checkpoint.find(adapted))
  assert json.loads(files["recipe.json"])["mean_of_steps"] == [4, 6]


@pytest.mark.parametrize("stage", ["pretrained", "adapted"])
def test_the_doctor_knows_what_a_language_model_has(request, capsys, stage):
  path = request.getfixturevalue(stage)
  capsys.readouterr()
  assert main.call(["doctor", str(path), "--json"]) == 0
  said = json.loads(capsys.readouterr().out)
  checks = {check["check"]: check["verdict"] for check in said["checks"]}
  assert checks["causal"] == checks["reach"] == checks["finite"] == "pass"
  assert "dense" not in checks and "prompts" not in checks


def test_a_soup_of_equals_is_itself(pretrained):
  place = checkpoint.find(pretrained)
  assert checkpoint.content_hash(soups.mean([place] * 4)) == digest(pretrained)


def test_the_encoder_was_the_decoder(pretrained, adapting, tmp_path, capsys):
  capsys.readouterr()
  assert main.call([*adapting(tmp_path), "--config.optimizer.lr=1e-20"]) == 0
  said = " ".join(capsys.readouterr().err.split())
  assert "fresh: nothing" in said
  decoder = leaves(kept(pretrained)["model"]["decoder"])
  encoder = leaves(kept(tmp_path)["model"]["encoder"])
  assert set(encoder) == set(decoder)
  for name in encoder:
    np.testing.assert_allclose(encoder[name], decoder[name], rtol=1e-6)


@pytest.mark.parametrize("stage", ["pretrain", "adapt"])
def test_a_stopped_stage_ends_with_the_same_weights(
  stage, data_folder, pretrained, adapting, adapted, tmp_path, monkeypatch
):
  from embeddinggemma.training import hooks

  argv = (
    adapting(tmp_path)
    if stage == "adapt"
    else [*command(stage, data_folder, tmp_path), "--config.every_checkpoint=2"]
  )
  show = hooks.MetricsLog.__call__

  def stops(self, info):
    show(self, info)
    if info.step == 5:
      raise KeyboardInterrupt

  with monkeypatch.context() as patch:
    patch.setattr(hooks.MetricsLog, "__call__", stops)
    assert main.call(argv) == 42
  assert checkpoint.steps(tmp_path)[-1] == 4
  assert main.call(argv) == 0
  whole = adapted if stage == "adapt" else pretrained
  assert digest(tmp_path) == digest(whole)


@pytest.mark.parametrize("parent", ["pretrained", "adapted"])
@pytest.mark.slow
def test_an_embedder_starts_from_either(
  parent, request, data_folder, tmp_path, capsys
):
  source = request.getfixturevalue(parent)
  argv = [
    *command("prefinetune", data_folder, tmp_path),
    f"--config.init_from={source}",
    "--config.optimizer.lr=1e-20",
  ]
  assert main.call(argv) == 0
  said = " ".join(capsys.readouterr().err.split())
  assert "fresh: model/up, model/down" in said or (
    "fresh: model/down, model/up" in said
  )
  side = {"pretrained": "decoder", "adapted": "encoder"}[parent]
  given = leaves(kept(source)["model"][side])
  trained = leaves(kept(tmp_path)["model"]["encoder"])
  assert set(given) == set(trained)
  for name in given:
    np.testing.assert_allclose(trained[name], given[name], rtol=1e-5)


def test_a_frozen_table_stays(data_folder, tmp_path, pretrained):
  argv = [
    *command("pretrain", data_folder, tmp_path),
    f"--config.init_from={pretrained}",
    "--config.frozen=('embedding$',)",
  ]
  assert main.call(argv) == 0
  before, after = (leaves(kept(d)["model"]) for d in (pretrained, tmp_path))
  same = {name for name in after if np.array_equal(before[name], after[name])}
  assert same == {"['decoder']['embedding']"}


def test_shards_that_prepare_made_serve_elsewhere(
  data_folder, pretrained, tmp_path
):
  """A moved folder of shards gives the very same training."""
  made, moved, workdir = (tmp_path / n for n in ("made", "moved", "w"))
  argv = command("pretrain", data_folder, made)
  argv[0] = "prepare"
  assert main.call(argv) == 0
  shutil.move(made / "inputs" / "text", moved)
  assert text_lib.is_prepared(moved)
  assert main.call(command("pretrain", moved, workdir)) == 0
  assert digest(workdir) == digest(pretrained)


@pytest.mark.parametrize("verb", ["prepare", "train"])
def test_shards_are_not_replaced_by_what_reads_them(
  verb, data_folder, tmp_path, capsys
):
  argv = command("adapt", data_folder, tmp_path)
  assert main.call(["prepare", *argv[1:]]) == 0
  shards = sorted((tmp_path / "inputs" / "text").rglob("*.npy"))
  argv = command("pretrain", tmp_path, tmp_path)
  assert main.call([verb, *argv[1:]]) == 2
  error = capsys.readouterr().err.splitlines()[-1]
  assert error.endswith("would be replaced; use another --workdir")
  assert shards == sorted((tmp_path / "inputs" / "text").rglob("*.npy"))
  assert shards


def test_prepare_shows_both_sides(data_folder, capsys):
  argv = ["prepare", f"--config=configs/adapt.py:tiny,data={data_folder}"]
  assert main.call([*argv, "--show=0:2", "--json"]) == 0
  shown = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
  assert [row["step"] for row in shown] == [0, 1]
  for row in shown:
    assert len(row["rows"]) == 16
    for _, inputs, targets in row["texts"]:
      assert "<unused0>" in inputs and targets.startswith("<unused0>")


@pytest.mark.parametrize(
  ("stage", "flags", "message"),
  [
    (
      "adapt",
      ["--config.cross_attention=both"],
      "is unknown; use",
    ),
    ("adapt", ["--config.average=6"], "keep_checkpoints=5 is below average=6"),
    ("adapt", ["--config.denoisers=((3.,.15),)"], "each is (mean span, rate"),
    ("adapt", ["--config.denoisers=((3.,1.5,1.),)"], "rate"),
    ("adapt", ["--config.decoder_from=none"], "init_from, which the encoder"),
    ("adapt", ["--config.max_length=5"], "the shortest span and one more take"),
    (
      "adapt",
      [
        "--config.cross_attention=separate",
        "--config.tied=False",
        "--config.decoder.width=48",
        "--config.hold_steps=6",
      ],
      "hold_steps=6 is not below steps=6",
    ),
    (
      "pretrain",
      ["--config.groups_per_device=3"],
      "pretrain: batch_size=16 does not divide into 24 groups",
    ),
    ("pretrain", ["--config.frozen=('embeding$',)"], "matches no parameter"),
    ("pretrain", ["--config.frozen=('(',)"], "is no pattern"),
    ("pretrain", ["--config.frozen=('.',)"], "every parameter is"),
    ("pretrain", ["--config.data.seqio=a"], "exclude each other"),
    ("pretrain", ["--config.init_from=none"], "none does not exist"),
  ],
)
def test_a_bad_language_config_is_one_line(
  stage, flags, message, data_folder, tmp_path, capsys
):
  workdir = tmp_path / "w"
  assert main.call([*command(stage, data_folder, workdir), *flags]) == 2
  error = capsys.readouterr().err.splitlines()[-1]
  assert error.startswith("error: ") and message in error
  assert not workdir.exists()


def test_a_decoder_that_does_not_fit_is_refused(data_folder, tmp_path, capsys):
  argv = command("adapt", data_folder, tmp_path / "w")
  assert main.call([*argv, "--config.decoder.width=48"]) == 2
  error = capsys.readouterr().err.splitlines()[-1]
  assert "48" in error and "32" in error and "width" in error
  assert not (tmp_path / "w").exists()


@pytest.mark.parametrize(
  ("flag", "message"),
  [
    ("--config.model.mlp_width=32", "mlp_width (32 and 64)"),
    ("--config.frozen=('encoder/layer_7',)", "matches no parameter"),
  ],
)
def test_a_parent_that_does_not_fit_is_refused_before_any_work(
  flag, message, adapting, tmp_path, capsys
):
  capsys.readouterr()
  assert main.call([*adapting(tmp_path / "w"), flag]) == 2
  (error,) = capsys.readouterr().err.splitlines()
  assert message in error
  assert not (tmp_path / "w").exists()


def test_two_parents_have_one_tokenizer(adapting, pretrained, tmp_path, capsys):
  train_tokenizer(["quite another text"] * 4, tmp_path / "model", 400)
  place = checkpoint.find(pretrained)
  files = checkpoint.read_files(place) | {
    "tokenizer.model": (tmp_path / "model").read_bytes()
  }
  checkpoint.write(tmp_path / "other", checkpoint.read_params(place), files)
  argv = [
    *adapting(tmp_path / "w"),
    f"--config.decoder_from={tmp_path / 'other'}",
  ]
  assert main.call(argv) == 2
  error = capsys.readouterr().err.splitlines()[-1]
  assert "decoder_from=" in error and "different tokenizers" in error


@pytest.mark.slow
def test_sides_of_two_sizes_have_two_parents(
  data_folder, pretrained, adapting, tmp_path, capsys
):
  """Encoder and decoder sizes are set apart, from the command line."""
  narrow = [*command("pretrain", data_folder, tmp_path / "narrow")]
  assert main.call([*narrow, "--config.model.width=16"]) == 0
  argv = [
    *adapting(tmp_path / "w"),
    "--config.decoder.width=16",
    "--config.tied=False",
    "--config.cross_attention=separate",
    "--config.hold_steps=2",
    "--config.frozen=()",
  ]
  capsys.readouterr()
  assert main.call(argv) == 2
  error = capsys.readouterr().err.splitlines()[-1]
  assert "differ in width (32 and 16)" in error and "decoder_from" in error
  assert main.call([*argv, f"--config.decoder_from={tmp_path / 'narrow'}"]) == 0
  model = kept(tmp_path / "w")["model"]
  assert model["encoder"]["embedding"].shape[1] == 32
  assert model["decoder"]["embedding"].shape[1] == 16


def test_a_damaged_ingredient_of_the_mean_is_named_with_the_fix(
  adapted, adapting, tmp_path, capsys
):
  workdir = tmp_path / "w"
  shutil.copytree(adapted, workdir)
  shutil.rmtree(workdir / checkpoint.AVERAGE)
  for path in (workdir / "checkpoints" / "4" / "params").rglob("*"):
    if path.is_file():
      path.write_bytes(b"")
  assert main.call(adapting(workdir)) == 2
  error = capsys.readouterr().err.splitlines()[-1]
  assert "checkpoints/4" in error and "delete it and the later steps" in error
  for step in ("4", "6"):
    shutil.rmtree(workdir / "checkpoints" / step)
  assert main.call(adapting(workdir)) == 0
  assert digest(workdir) == digest(adapted)


def test_what_an_earlier_version_wrote_stays_readable(
  data_folder, pretrained, tmp_path
):
  """Fields that came later have defaults, in configs and in checkpoints."""
  workdir = tmp_path / "w"
  shutil.copytree(pretrained, workdir)
  path = workdir / "config.json"
  config = json.loads(path.read_text())
  del config["frozen"], config["model"]["window_rule"]
  path.write_text(json.dumps(config))
  assert main.call(command("pretrain", data_folder, workdir)) == 0
  assert digest(workdir) == digest(pretrained)


def test_texts_shorter_than_a_span(tmp_path, capsys):
  data = tmp_path / "texts"
  data.mkdir()
  (data / "a.txt").write_text("a\nb\n" * 20)
  argv = ["train", f"--config=configs/adapt.py:tiny,data={data}"]
  assert main.call([*argv, f"--workdir={tmp_path / 'w'}"]) == 2
  error = capsys.readouterr().err.splitlines()[-1]
  assert error.startswith("error: ") and "span" in error


def test_a_language_model_is_no_embedder(adapted, tmp_path, capsys):
  (tmp_path / "a.txt").write_text("some text\n")
  argv = [f"--model={adapted}", f"--input={tmp_path / 'a.txt'}"]
  assert main.call(["embed", *argv, f"--output={tmp_path / 'o.npy'}"]) == 2
  assert "is a language model, which has no" in capsys.readouterr().err
