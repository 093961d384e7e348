"""The Orbax layout of google-deepmind/gemma, as its einsums read it."""

import dataclasses
import json
import re

import jax
import ml_dtypes
import numpy as np
import orbax.checkpoint as ocp
import pytest

import embeddinggemma as eg
from embeddinggemma import checkpoint
from embeddinggemma.cli import main
from embeddinggemma.convert import tensors
from embeddinggemma.convert.read import families, gemma_orbax
from embeddinggemma.model import decoder as decoder_lib
from embeddinggemma.model import embedder
from embeddinggemma.types import BadInput

V, D, N, K, H, F, U, M = 512, 24, 4, 2, 8, 40, 48, 20


def theirs(rng, dtype=np.float32, dense=True):
  """A tree of theirs, in their words and shapes; keys hold slashes."""
  new = lambda *shape: rng.standard_normal(shape).astype(dtype)
  norm = lambda width: {"scale": new(width)}
  tree = {
    "transformer/embedder": {"input_embedding": new(V, D)},
    "transformer/final_norm": norm(D),
  }
  for i in range(2):
    layer = f"transformer/layer_{i}"
    tree |= {
      f"{layer}/attn/q_einsum": {"w": new(N, D, H)},
      f"{layer}/attn/kv_einsum": {"w": new(2, K, D, H)},
      f"{layer}/attn/attn_vec_einsum": {"w": new(N, H, D)},
      f"{layer}/attn/_query_norm": norm(H),
      f"{layer}/attn/_key_norm": norm(H),
      f"{layer}/mlp/gating_einsum": {"w": new(2, F, D)},
      f"{layer}/mlp/linear": {"w": new(F, D)},
      f"{layer}/pre_attention_norm": norm(D),
      f"{layer}/post_attention_norm": norm(D),
      f"{layer}/pre_ffw_norm": norm(D),
      f"{layer}/post_ffw_norm": norm(D),
    }
  if dense:
    tree |= {"dense_0": {"kernel": new(D, U)}, "dense_1": {"kernel": new(U, M)}}
  return tree


def write(folder, tree, tokenizer_model):
  ocp.PyTreeCheckpointer().save(folder.absolute(), tree)
  (folder / "tokenizer.model").write_bytes(tokenizer_model)
  (folder / "LICENSE").write_text("terms")
  return folder


def test_every_tensor_means_what_it_meant(tmp_path, tokenizer_model):
  """Their einsums over their tensors, ours over what was imported."""
  rng = np.random.default_rng(0)
  tree = theirs(rng)
  found = families.read(write(tmp_path / "orbax", tree, tokenizer_model))
  config = found.config
  sizes = (config.vocab_size, config.width, config.num_heads, config.head_dim)
  assert sizes == (V, D, N, H) and config.num_layers == 2
  assert (config.num_kv_heads, config.mlp_width) == (K, F)
  assert (config.up_width, config.embed_dim) == (U, M)
  model = tensors.params(found)["model"]
  wanted = jax.eval_shape(embedder.init(config), jax.random.key(0))["model"]
  assert jax.tree.map(np.shape, model) == jax.tree.map(np.shape, wanted)
  x = rng.standard_normal((3, D)).astype(np.float32)
  same = lambda a, b: np.testing.assert_allclose(a, b, rtol=2e-5, atol=1e-5)
  side = model["encoder"]
  same(side["embedding"], tree["transformer/embedder"]["input_embedding"])
  same(side["final_norm"]["scale"], tree["transformer/final_norm"]["scale"])
  same(model["up"], tree["dense_0"]["kernel"])
  same(model["down"], tree["dense_1"]["kernel"])
  for i in range(2):
    ours = side[f"layer_{i}"]
    of = lambda name, key="w", i=i: tree[f"transformer/layer_{i}/{name}"][key]
    q = np.einsum("td,ndh->tnh", x, of("attn/q_einsum"))
    same(np.einsum("td,dnh->tnh", x, ours["attention"]["q"]), q)
    k, v = np.einsum("td,ckdh->ctkh", x, of("attn/kv_einsum"))
    same(np.einsum("td,dkh->tkh", x, ours["attention"]["k"]), k)
    same(np.einsum("td,dkh->tkh", x, ours["attention"]["v"]), v)
    same(
      np.einsum("tnh,nhd->td", q, ours["attention"]["o"]),
      np.einsum("tnh,nhd->td", q, of("attn/attn_vec_einsum")),
    )
    gate, up = np.einsum("td,cfd->ctf", x, of("mlp/gating_einsum"))
    same(x @ ours["mlp"]["gate"], gate)
    same(x @ ours["mlp"]["up"], up)
    same(gate @ ours["mlp"]["down"], gate @ of("mlp/linear"))
    for name, theirs_name in {
      "pre_attention_norm": "pre_attention_norm",
      "post_attention_norm": "post_attention_norm",
      "pre_mlp_norm": "pre_ffw_norm",
      "post_mlp_norm": "post_ffw_norm",
    }.items():
      same(ours[name]["scale"], of(theirs_name, "scale"))
    for name in ("query", "key"):
      scale = ours["attention"][f"{name[0]}_norm"]["scale"]
      same(scale, of(f"attn/_{name}_norm", "scale"))


def test_a_decoder_in_bfloat16_is_imported(capsys, tmp_path, tokenizer_model):
  """Without Dense kernels; what is assumed, is said; towers are left out."""
  tree = theirs(np.random.default_rng(1), ml_dtypes.bfloat16, dense=False)
  tree["SigLiPFromPatches_0/siglip_encoder"] = {"kernel": np.ones(3)}
  folder = write(tmp_path / "orbax", tree, tokenizer_model)
  workdir = tmp_path / "in"
  argv = ["import", f"--from={folder}", f"--workdir={workdir}"]
  assert main.call(argv) == 0
  said = capsys.readouterr().err
  assert "left out: 1" in said and "a window of 512" in said
  place = checkpoint.find(workdir)
  params = checkpoint.read_params(place)
  table = tree["transformer/embedder"]["input_embedding"].astype(np.float32)
  decoder = params["model"]["decoder"]
  np.testing.assert_array_equal(decoder["embedding"], table)
  files = checkpoint.read_files(place)
  assert files["LICENSE"] == b"terms"
  config = families.read(folder).config
  assert json.loads(files["model.json"]) == json.loads(
    json.dumps(dataclasses.asdict(config))
  )
  wanted = jax.eval_shape(decoder_lib.init_causal(config), jax.random.key(0))
  assert jax.tree.map(np.shape, params["model"]) == jax.tree.map(
    np.shape, wanted["model"]
  )
  with pytest.raises(BadInput, match="is a language model"):
    eg.load(workdir)


Q = "transformer/layer_1/attn/q_einsum"


@pytest.mark.parametrize(
  ("change", "message"),
  [
    ({Q: None}, f"tensor '{Q}' is missing"),
    ({Q: {"w": np.zeros((N, D, H + 2))}}, f"tensor '{Q}' has shape"),
    ({"transformer/adapter": {"w": np.zeros(2)}}, "unexpected tensor"),
    ({"dense_1": None}, "has 1 Dense kernels"),
    (  # 4B and larger divide the positions of global layers by eight
      {"transformer/embedder": {"input_embedding": np.zeros((8, 2560))}},
      "whose scaled rotary positions are not supported",
    ),
    ({"transformer/embedder": None}, "it is no Gemma"),
    ({"transformer/layer_0/attn/q_einsum": None}, "layer_0/attn/q_einsum"),
    (
      {"transformer/layer_0/attn/kv_einsum": {"w": np.zeros(3)}},
      "one of 4 axes is needed",
    ),
  ],
)
def test_a_tree_that_is_not_taken(tmp_path, tokenizer_model, change, message):
  tree = theirs(np.random.default_rng(0)) | change
  tree = {name: leaf for name, leaf in tree.items() if leaf is not None}
  folder = write(tmp_path / "orbax", tree, tokenizer_model)
  with pytest.raises(BadInput) as error:
    gemma_orbax.read(folder)
  assert re.search(message, str(error.value)), error.value
