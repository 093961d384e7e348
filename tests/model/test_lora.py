"""Low-rank factors: a start that changes nothing, and sums that stay."""

import json
import pathlib
import shutil

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import embeddinggemma as eg
from embeddinggemma import checkpoint, sharding
from embeddinggemma.cli import main
from embeddinggemma.config import LoraConfig
from embeddinggemma.model import embedder, lora
from embeddinggemma.presets import preset
from embeddinggemma.types import BadInput

TINY = preset("tiny").model
CONFIG = LoraConfig(rank=3, alpha=6.0)


@pytest.fixture(scope="module")
def params() -> dict:
  """A tiny embedder with fresh factors."""
  made = embedder.init(TINY)(jax.random.key(0))
  factors = lora.init(made["model"], CONFIG.rank, jax.random.key(1))
  return {**made, "aux": {"projection": jnp.ones((2, 2)), lora.LORA: factors}}


def named(tree) -> dict[str, np.ndarray]:
  leaves = jax.tree_util.tree_leaves_with_path(tree)
  return {sharding.path_name(path): np.asarray(leaf) for path, leaf in leaves}


def learnt(params: dict) -> dict:
  """The same with factors that are no longer zero."""
  aux = jax.tree.map(lambda x: x + 0.1, params["aux"])
  return {**params, "aux": aux}


def test_matrices_have_factors_and_the_rest_has_none(params):
  found = {path.rsplit("/", 1)[0] for path in named(params["aux"][lora.LORA])}
  layers = [f"encoder/layer_{n}" for n in range(TINY.num_layers)]
  parts = [f"attention/{x}" for x in "qkvo"]
  parts += [f"mlp/{x}" for x in ("gate", "up", "down")]
  wanted = {f"{layer}/{part}" for layer in layers for part in parts}
  assert found == wanted | {"up", "down"}
  a = params["aux"][lora.LORA]["encoder"]["layer_0"]["attention"]["o"]["a"]
  assert a.shape == (TINY.num_heads, TINY.head_dim, CONFIG.rank)


def test_the_start_is_the_base(params):
  seen = named(jax.jit(lora.view(CONFIG))(params)["model"])
  for path, leaf in named(params["model"]).items():
    np.testing.assert_array_equal(seen[path], leaf)


def test_the_view_adds_scaled_products(params):
  learned = learnt(params)
  seen = lora.view(CONFIG)(learned)["model"]
  place = lambda tree: tree["encoder"]["layer_1"]["mlp"]["gate"]
  factors = jax.device_get(place(learned["aux"][lora.LORA]))
  want = place(params["model"]) + 2 * factors["a"] @ factors["b"]
  np.testing.assert_allclose(place(seen), want, atol=1e-6)
  table = lambda tree: tree["encoder"]["embedding"]
  np.testing.assert_array_equal(table(seen), table(params["model"]))


def test_what_is_merged_is_what_was_seen(params):
  learned = learnt(params)
  merged = lora.merge(CONFIG, learned)
  assert set(merged["aux"]) == {"projection"}
  encode = jax.jit(embedder.encode_group(TINY))
  ids = jnp.arange(4, 20).reshape(2, 8)
  segment_ids = jnp.zeros((2, 8), int).at[1].set(1)
  valid = jnp.ones((2,), bool)
  viewed = encode(lora.view(CONFIG)(learned), ids, segment_ids, valid)
  np.testing.assert_allclose(
    encode(merged, ids, segment_ids, valid), viewed, atol=1e-6
  )
  assert abs(viewed - encode(params, ids, segment_ids, valid)).max() > 1e-3


def command(data: pathlib.Path, base, workdir, *more: str) -> list[str]:
  return [
    "train",
    f"--config=configs/finetune.py:tiny,data={data}",
    f"--workdir={workdir}",
    f"--config.init_from={base}",
    "--config.model.num_layers=1",
    "--config.steps=4",
    "--config.every_checkpoint=2",
    "--config.lora.rank=2",
    *more,
  ]


@pytest.fixture(scope="module")
def finetuned(data_folder, trained, tmp_path_factory) -> pathlib.Path:
  """The workdir of a finetuning with factors."""
  workdir = tmp_path_factory.mktemp("lora")
  assert main.call(command(data_folder, trained, workdir)) == 0
  return workdir


def test_a_run_leaves_an_ordinary_model(finetuned, trained):
  place = checkpoint.find(finetuned)
  assert place.parent.parent.name == checkpoint.MERGED
  params = named(checkpoint.read_params(place))
  base = named(checkpoint.read_params(checkpoint.find(trained)))
  assert params.keys() == base.keys()
  moved = {p for p in base if (params[p] != base[p]).any()}
  assert "model/encoder/embedding" not in moved
  assert {"model/up", "model/encoder/layer_0/attention/o"} <= moved
  assert not any("norm" in path for path in moved)
  recipe = json.loads(checkpoint.read_files(place)["recipe.json"])
  assert recipe["view"] == "identity"
  model = eg.load(finetuned)
  # What training saw is what is read: its factors, added by the view.
  raw = checkpoint.read_params(finetuned / "checkpoints" / "4")
  seen = lora.view(LoraConfig(2, 16.0))(raw)["model"]
  for path, leaf in named(seen).items():
    np.testing.assert_allclose(named(model.params["model"])[path], leaf, 1e-5)


def digest(workdir: pathlib.Path) -> str:
  params = checkpoint.read_params(checkpoint.find(workdir))
  return checkpoint.content_hash(params)


@pytest.mark.slow
def test_factors_resume_on_another_mesh(
  finetuned, data_folder, trained, tmp_path
):
  workdir = tmp_path / "w"
  shutil.copytree(finetuned, workdir)
  shutil.rmtree(workdir / "checkpoints" / "4")
  shutil.rmtree(workdir / checkpoint.MERGED)
  argv = command(data_folder, trained, workdir)
  assert main.call(argv) == 0
  assert digest(workdir) == digest(finetuned)
  shutil.rmtree(workdir / "checkpoints" / "4")
  shutil.rmtree(workdir / checkpoint.MERGED)
  assert main.call([*argv, "--config.mesh.fsdp=2"]) == 0
  for a, b in zip(*(model_of(w) for w in (workdir, finetuned)), strict=True):
    np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-6)


def model_of(workdir: pathlib.Path) -> list[np.ndarray]:
  params = checkpoint.read_params(checkpoint.find(workdir))
  return list(named(params["model"]).values())


def test_what_is_not_merged_is_refused(
  finetuned, data_folder, tmp_path, capsys
):
  """Its weights alone are those of the base."""
  middle = finetuned / "checkpoints" / "2"
  assert main.call(command(data_folder, middle, tmp_path / "w")) == 2
  said = capsys.readouterr().err.splitlines()[-1]
  assert "needs the view 'lora" in said and "start from the final" in said
  with pytest.raises(BadInput, match="needs the view 'lora"):
    eg.load(middle)
