"""Tree surgery: what becomes of each tensor on the way to an encoder."""

import dataclasses
import functools

import jax
import numpy as np
import pytest

from embeddinggemma import sharding
from embeddinggemma.model import adapt, decoder, embedder
from embeddinggemma.model.config import EncoderDecoderConfig
from embeddinggemma.presets import preset
from embeddinggemma.types import BadInput

TINY = dataclasses.replace(preset("tiny").model, num_layers=1)
WIDE = dataclasses.replace(TINY, width=48, mlp_width=32)
MERGED = EncoderDecoderConfig(TINY, TINY, True, "merged")
SEPARATE = EncoderDecoderConfig(TINY, TINY, False, "separate")
UNBALANCED = EncoderDecoderConfig(WIDE, TINY, False, "separate")


@functools.cache
def shapes(init):
  return jax.eval_shape(init, jax.random.key(0))


def made(init, seed=0):
  """Parameters as a checkpoint gives them; no two leaves are alike."""
  leaves, tree = jax.tree.flatten(shapes(init))
  return jax.tree.unflatten(
    tree, [np.full(x.shape, i + 1000 * seed) for i, x in enumerate(leaves)]
  )


def flat(tree):
  leaves = jax.tree_util.tree_leaves_with_path(tree)
  return {sharding.path_name(path): leaf for path, leaf in leaves}


def grafted(init, moved):
  """The new model's tensors, and which of them are fresh."""
  tree, new = adapt.graft(made(init, 7), moved)
  return flat(tree["model"]), {p.removeprefix("model/") for p in new}


def test_a_causal_model_stays_itself():
  given = made(decoder.init_causal(TINY))
  moved = adapt.to_causal(given)
  assert adapt.dropped(given, moved) == []
  tensors, new = grafted(decoder.init_causal(TINY), moved)
  assert not new
  for name, leaf in flat(given["model"]).items():
    assert tensors[name] is leaf


def test_an_embedder_without_its_head_is_a_causal_model():
  given = made(embedder.init(TINY))
  moved = adapt.to_causal(given)
  assert adapt.dropped(given, moved) == ["model/down", "model/up"]
  tensors, new = grafted(decoder.init_causal(TINY), moved)
  assert not new
  for name, leaf in tensors.items():
    assert leaf is flat(given)[f"model/{name.replace('decoder', 'encoder')}"]


def test_a_table_alone_starts_each_model():
  table = np.ones((1024, 32), np.float32)
  given = {"model": {"encoder": {"embedding": table}}, "aux": {}}
  tensors, new = grafted(decoder.init_causal(TINY), adapt.to_causal(given))
  assert tensors["decoder/embedding"] is table
  assert new == set(tensors) - {"decoder/embedding"}
  for config, held in ((MERGED, 1), (SEPARATE, 2)):
    moved = adapt.to_encoder_decoder(given, config)
    init = decoder.init_encoder_decoder(config)
    tensors, new = grafted(init, moved)
    assert sum(leaf is table for leaf in tensors.values()) == held
    assert len(new) == len(tensors) - held
  tensors, new = grafted(embedder.init(TINY), adapt.to_embedder(given))
  assert tensors["encoder/embedding"] is table


def test_merged_sides_both_start_as_the_decoder():
  given = made(decoder.init_causal(TINY))
  moved = adapt.to_encoder_decoder(given, MERGED)
  assert adapt.dropped(given, moved) == []
  tensors, new = grafted(decoder.init_encoder_decoder(MERGED), moved)
  assert not new
  own = flat(given["model"]["decoder"])
  encoder = {f"encoder/{name}" for name in own}
  assert set(tensors) == encoder | {
    f"decoder/{name}" for name in own if name != "embedding"
  }
  for name, leaf in tensors.items():
    assert leaf is own[name.split("/", 1)[1]]


@pytest.mark.parametrize("parent", [decoder.init_causal, embedder.init])
def test_separate_cross_attention_starts_as_self_attention(parent):
  given = made(parent(TINY))
  moved = adapt.to_encoder_decoder(given, SEPARATE)
  tensors, new = grafted(decoder.init_encoder_decoder(SEPARATE), moved)
  assert not new
  side = "decoder" if parent is decoder.init_causal else "encoder"
  own = flat(given["model"][side])
  cross = {name for name in tensors if adapt.is_cross(name)}
  assert len(cross) == 8  # q, k, v, o, two norms of heads, two of the part
  for name, leaf in tensors.items():
    source = name.split("/", 1)[1].replace("cross_attention", "attention")
    assert leaf is own[source]


def test_sides_of_two_widths_start_from_two_checkpoints():
  given = made(decoder.init_causal(WIDE))
  other = made(embedder.init(TINY), 1)
  moved = adapt.to_encoder_decoder(given, UNBALANCED, other)
  tensors, new = grafted(decoder.init_encoder_decoder(UNBALANCED), moved)
  assert new == {name for name in tensors if adapt.is_cross(name)}
  assert len(new) == 8
  for name, leaf in flat(given["model"]["decoder"]).items():
    assert tensors[f"encoder/{name}"] is leaf
  for name, leaf in flat(other["model"]["encoder"]).items():
    assert tensors[f"decoder/{name}"] is leaf


def test_sides_of_two_widths_do_not_start_from_one_checkpoint():
  given = made(decoder.init_causal(WIDE))
  with pytest.raises(BadInput, match=r"differ in width .*in decoder_from"):
    adapt.to_encoder_decoder(given, UNBALANCED)


def test_an_encoder_decoder_stays_itself_or_gives_its_encoder():
  given = made(decoder.init_encoder_decoder(SEPARATE))
  same = adapt.to_encoder_decoder(given, SEPARATE)
  assert adapt.dropped(given, same) == []
  moved = adapt.to_embedder(given)
  tensors, new = grafted(embedder.init(TINY), moved)
  assert new == {"up", "down"}
  for name, leaf in flat(given["model"]["encoder"]).items():
    assert tensors[f"encoder/{name}"] is leaf
  lost = adapt.dropped(given, moved)
  assert set(lost) == {
    f"model/decoder/{name}" for name in flat(given["model"]["decoder"])
  }


def test_an_embedder_stays_itself_and_a_causal_model_becomes_one():
  given = made(embedder.init(TINY))
  given["aux"] = {"projection": np.ones(3)}
  moved = adapt.to_embedder(given)
  assert adapt.dropped(given, moved) == ["aux/projection"]
  assert not grafted(embedder.init(TINY), moved)[1]
  given = made(decoder.init_causal(TINY))
  tensors, new = grafted(embedder.init(TINY), adapt.to_embedder(given))
  assert new == {"up", "down"}
  for name, leaf in flat(given["model"]["decoder"]).items():
    assert tensors[f"encoder/{name}"] is leaf


def test_surgery_leaves_what_it_is_given():
  given = made(decoder.init_causal(TINY))
  before = {name: leaf.copy() for name, leaf in flat(given).items()}
  adapt.to_encoder_decoder(given, SEPARATE)
  after = flat(given)
  assert set(after) == set(before)
  for name, leaf in before.items():
    np.testing.assert_array_equal(after[name], leaf)


def test_what_cannot_become_the_model_is_refused():
  both = made(decoder.init_encoder_decoder(MERGED))
  causal = made(decoder.init_causal(TINY))
  with pytest.raises(BadInput, match="is an encoder-decoder, where a causal"):
    adapt.to_causal(both)
  with pytest.raises(BadInput, match="is an encoder-decoder, where a causal"):
    adapt.to_encoder_decoder(causal, SEPARATE, both)
  with pytest.raises(BadInput, match="has a decoder; give no other"):
    adapt.to_encoder_decoder(both, MERGED, causal)
  for step in (
    adapt.to_causal,
    adapt.to_embedder,
    lambda given: adapt.to_encoder_decoder(given, MERGED),
  ):
    with pytest.raises(BadInput, match="neither an encoder nor a decoder but"):
      step({"model": {"up": np.ones(1)}})


def test_cross_attention_has_no_place_where_it_is_merged():
  given = made(decoder.init_encoder_decoder(SEPARATE))
  del given["model"]["decoder"]["embedding"]
  moved = adapt.to_encoder_decoder(given, MERGED)
  with pytest.raises(BadInput, match=r"cross_attention.* has no place"):
    grafted(decoder.init_encoder_decoder(MERGED), moved)


@pytest.mark.parametrize(
  "name, cross",
  [
    ("model/decoder/layer_0/cross_attention/q", True),
    ("model/decoder/layer_0/cross_attention/k_norm/scale", True),
    ("model/decoder/layer_11/pre_cross_attention_norm/scale", True),
    ("params/model/decoder/layer_1/post_cross_attention_norm/scale", True),
    ("model/decoder/layer_0/attention/q", False),
    ("model/decoder/layer_0/pre_attention_norm/scale", False),
    ("model/decoder/final_norm/scale", False),
  ],
)
def test_cross_attention_is_known_by_name(name, cross):
  assert adapt.is_cross(name) == cross


def test_graft_matches_by_path_and_lists_what_is_new():
  fresh = {"a": {"x": np.zeros(2), "y": np.zeros(3)}, "b": np.zeros(1)}
  tree, new = adapt.graft(fresh, {"a": {"x": np.ones(2)}})
  assert new == ["a/y", "b"]
  np.testing.assert_array_equal(tree["a"]["x"], 1)
  np.testing.assert_array_equal(tree["a"]["y"], 0)
  with pytest.raises(BadInput, match=r"'a/x' has shape \(3,\).*needs \(2,\)"):
    adapt.graft(fresh, {"a": {"x": np.ones(3)}})
  with pytest.raises(BadInput, match="'a/z' has no place"):
    adapt.graft(fresh, {"a": {"z": np.ones(3)}})
