"""Folders of transformers, by family: names of every version, copies of the
table, parts, and that training starts from what was imported.

The folders are written here; that numbers agree with transformers' own is in
test_parity.py.
"""

import dataclasses
import json
import pathlib

import jax
import numpy as np
import pytest
import safetensors.numpy
import tokenizer_edits

from embeddinggemma import checkpoint
from embeddinggemma.cli import main
from embeddinggemma.config import sibling
from embeddinggemma.convert import names, tensors
from embeddinggemma.convert.read import families, hugging_face, transformers
from embeddinggemma.convert.safetensors_io import INDEX, WEIGHTS
from embeddinggemma.convert.write import tokenizer_json
from embeddinggemma.data.tokenizer import Tokenizer
from embeddinggemma.model import adapt, identity
from embeddinggemma.model import decoder as decoder_lib
from embeddinggemma.model.config import EncoderDecoderConfig
from embeddinggemma.training import stages, start
from embeddinggemma.types import BadInput


def random(init, seed=0):
  shapes = tensors.shapes_of(init)
  rng = np.random.default_rng(seed)
  return {n: rng.standard_normal(s, np.float32) for n, s in shapes.items()}


def named(params, parts, prefixes):
  """The tensors under their names, as torch lays them out."""
  return {
    prefixes[name[0]] + names.theirs(name[1:], parts): np.ascontiguousarray(
      names.export(name, array)
    )
    for name, array in params.items()
  }


def text_json(config, **changes):
  tree = hugging_face.encoder_json(config, "float32")
  return tree | {"use_bidirectional_attention": False} | changes


def write(folder, tree, arrays, tokenizer_model):
  folder.mkdir(exist_ok=True)
  (folder / "config.json").write_text(json.dumps(tree))
  (folder / "tokenizer.model").write_bytes(tokenizer_model)
  safetensors.numpy.save_file(arrays, folder / WEIGHTS)
  return folder


def assert_read(folder, want, part="both"):
  found = families.read(folder, part)
  assert found.tensors.keys() == want.keys()
  for name, tensor in found.tensors.items():
    np.testing.assert_array_equal(tensor.read(), want[name])
  return found


PREFIXES = {
  "": "lm_head.weight",
  "model.": "lm_head.weight",
  "language_model.model.": "language_model.lm_head.weight",
  "model.language_model.": "lm_head.weight",
}


@pytest.mark.parametrize("prefix", list(PREFIXES))
def test_gemma_3_under_the_names_of_every_version(
  tmp_path, config, tokenizer_model, prefix
):
  """A head that is written beside the table counts if it is the table."""
  params = random(decoder_lib.init_causal(config))
  arrays = named(params, names.GEMMA3, {"decoder": prefix})
  tree = text_json(config)
  if "language" in prefix:
    tree = {"model_type": "gemma3", "text_config": tree}
    arrays["vision_tower.x.weight"] = np.ones(3, np.float32)
  head = arrays[f"{prefix}embed_tokens.weight"].copy()
  arrays[PREFIXES[prefix]] = head
  folder = write(tmp_path / "theirs", tree, arrays, tokenizer_model)
  found = assert_read(folder, params)
  assert found.left_out == ("language" in prefix)
  assert identity.same_model(
    dataclasses.replace(found.config, up_width=64, embed_dim=32), config
  )
  head[5, 5] += 1
  write(folder, tree, arrays, tokenizer_model)
  with pytest.raises(BadInput, match="differs from the table"):
    families.read(folder)


def only_tokenizer_json(folder, model):
  """As transformers 5 saves a decoder: no tokenizer.model, BOS and no EOS."""
  tree = json.loads(tokenizer_json.tokenizer_json(model))
  tree["post_processor"] = tokenizer_edits.template("bos $")
  (folder / "tokenizer.model").unlink()
  (folder / "tokenizer.json").write_text(json.dumps(tree))


def test_a_decoder_with_tokenizer_json_alone(tmp_path, config, tokenizer_model):
  params = random(decoder_lib.init_causal(config))
  arrays = named(params, names.GEMMA3, {"decoder": "model."})
  folder = write(tmp_path / "x", text_json(config), arrays, tokenizer_model)
  only_tokenizer_json(folder, tokenizer_model)
  found = assert_read(folder, params)
  wanted = Tokenizer(tokenizer_model).identity
  assert Tokenizer(found.tokenizer).identity == wanted
  assert found.source == {"tokenizer": "tokenizer.json"}


def test_shards(tmp_path, config, tokenizer_model):
  params = random(decoder_lib.init_causal(config))
  arrays = named(params, names.GEMMA3, {"decoder": "model."})
  folder = write(tmp_path / "x", text_json(config), arrays, tokenizer_model)
  (folder / WEIGHTS).unlink()
  files = {name: f"{n % 3}.safetensors" for n, name in enumerate(arrays)}
  for file in set(files.values()):
    part = {n: a for n, a in arrays.items() if files[n] == file}
    safetensors.numpy.save_file(part, folder / file)
  (folder / INDEX).write_text(json.dumps({"weight_map": files}))
  assert_read(folder, params)


def test_an_encoder_without_its_dense_is_refused(
  tmp_path, config, tokenizer_model
):
  tree = text_json(config, use_bidirectional_attention=True)
  folder = write(tmp_path / "x", tree, {}, tokenizer_model)
  with pytest.raises(BadInput, match="cosines would be about 0"):
    families.read(folder)


def two_sides(kind, config):
  """(config of both, config.json) of a family."""
  rule = {"t5gemma": "t5gemma", "t5gemma2": "t5gemma2"}[kind]
  side = dataclasses.replace(config, window_rule=rule)
  if kind == "t5gemma":
    side = dataclasses.replace(
      side,
      qk_norm=False,
      attention_softcap=50.0,
      logit_softcap=30.0,
      global_rope_base=1e4,
    )
  sides = transformers.ENCODER_DECODERS[kind]
  both = EncoderDecoderConfig(side, side, sides.tied, sides.cross_attention)
  text = text_json(
    side,
    attn_logit_softcapping=side.attention_softcap or None,
    final_logit_softcapping=side.logit_softcap or None,
  )
  encoder = {"text_config": text} if kind == "t5gemma2" else text
  return both, {"model_type": kind, "encoder": encoder, "decoder": text}


@pytest.fixture(params=["t5gemma", "t5gemma2"])
def sides(request, tmp_path, config, tokenizer_model):
  """(kind, config of both, parameters, folder)."""
  both, tree = two_sides(request.param, config)
  params = random(decoder_lib.init_encoder_decoder(both))
  prefixes = {"encoder": "model.encoder.", "decoder": "model.decoder."}
  arrays = named(params, names.T5GEMMA, prefixes)
  arrays["model.encoder.vision_tower.x.bias"] = np.ones(2, np.float32)
  table = params["encoder" if both.tied else "decoder", "embedding"]
  arrays["lm_head.out_proj.weight"] = table
  if both.tied:
    arrays["model.decoder.embed_tokens.weight"] = table
  folder = write(tmp_path / "theirs", tree, arrays, tokenizer_model)
  return request.param, both, params, folder


def test_an_encoder_decoder_and_its_parts(sides):
  kind, both, params, folder = sides
  found = assert_read(folder, params)
  assert found.family == kind and found.left_out == 1
  assert identity.same_model(
    dataclasses.replace(found.config, up_width=64, embed_dim=32), both.encoder
  )
  assert found.more["tied"] == both.tied
  assert found.more["cross_attention"] == both.cross_attention
  encoder = {n: a for n, a in params.items() if n[0] == "encoder"}
  assert_read(folder, encoder, "encoder")
  decoder = {
    n: a
    for n, a in params.items()
    if n[0] == "decoder" and not any("cross_attention" in part for part in n)
  }
  table = params["encoder" if both.tied else "decoder", "embedding"]
  assert_read(folder, decoder | {("decoder", "embedding"): table}, "decoder")


def test_two_sides_with_tokenizer_json_alone(sides, tokenizer_model):
  _, _, _, folder = sides
  only_tokenizer_json(folder, tokenizer_model)
  wanted = Tokenizer(tokenizer_model).identity
  for part in families.PARTS:
    found = Tokenizer(families.read(folder, part).tokenizer)
    assert found.identity == wanted


def test_what_is_wrong_in_a_side_is_named(sides):
  kind, _, _, folder = sides
  tree = json.loads((folder / "config.json").read_text())
  change = lambda tree: (folder / "config.json").write_text(json.dumps(tree))
  change({k: v for k, v in tree.items() if k != "decoder"})
  with pytest.raises(BadInput, match=r"config\.json has no decoder"):
    families.read(folder)
  change(tree | {"decoder": tree["decoder"] | {"hidden_size": 64}})
  widths = {"t5gemma": "missing|shape", "t5gemma2": "width=32 and decoder"}
  with pytest.raises(BadInput, match=widths[kind]):
    families.read(folder)
  change(tree | {"decoder": tree["decoder"] | {"attention_bias": True}})
  with pytest.raises(BadInput, match="decoder: attention_bias=True"):
    families.read(folder)


def test_training_starts_from_what_was_imported(sides, tmp_path, data_folder):
  """Both sides as they are for `adapt`, an encoder alone for an embedder."""
  _, _, params, folder = sides
  for part in ("both", "encoder"):
    argv = [f"--from={folder}", f"--workdir={tmp_path / part}"]
    assert main.call(["import", *argv, f"--part={part}"]) == 0
  imported = checkpoint.read_files(checkpoint.find(tmp_path / "both"))
  recipe = json.loads(imported["recipe.json"])
  config = stage_like(recipe["config"], "adapt", data_folder, tmp_path / "both")
  model, fresh = started(config)
  assert fresh == []
  q = ("layer_0", "attention", "q")
  for side in ("encoder", "decoder"):
    np.testing.assert_array_equal(
      model[side][q[0]][q[1]][q[2]], params[side, *q]
    )
  alone = {"model": recipe["config"]["model"]}
  place = tmp_path / "encoder"
  config = stage_like(alone, "prefinetune", data_folder, place)
  model, fresh = started(config)
  assert fresh == ["model/down", "model/up"]
  np.testing.assert_array_equal(
    model["encoder"]["embedding"], params["encoder", "embedding"]
  )


def stage_like(imported, name, data, place):
  """A shipped config with the sizes of what was imported."""
  path = pathlib.Path(__file__).parents[2] / "configs" / "any"
  tree = sibling(str(path), name).get_config(f"tiny,data={data}").to_dict()
  rest = {key: value for key, value in tree.items() if key not in imported}
  return stages.build({**rest, **imported, "init_from": str(place)})


def started(config):
  """The model that training would begin with, and what is fresh in it."""
  start.check(config)
  given = checkpoint.read_params(checkpoint.find(config.init_from))
  kind = stages.kind_of(config)
  shapes = jax.eval_shape(kind.init(config), jax.random.key(0))
  params, fresh = adapt.graft(shapes, kind.adopt(config, given, None))
  return params["model"], fresh
