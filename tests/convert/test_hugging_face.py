"""config.json <-> ModelConfig, in every spelling; what is not ours is named."""

import dataclasses
import re

import pytest

from embeddinggemma.convert.read import hugging_face
from embeddinggemma.convert.read.hugging_face import GEMMA3, T5GEMMA, T5GEMMA2
from embeddinggemma.model import identity
from embeddinggemma.model.config import GLOBAL, LOCAL
from embeddinggemma.presets import preset
from embeddinggemma.types import BadInput

# As published: https://arxiv.org/abs/2509.20354 section 2.1 and its config.
PUBLIC = {
  "model_type": "gemma3_text",
  "hidden_size": 768,
  "intermediate_size": 1152,
  "num_hidden_layers": 24,
  "num_attention_heads": 3,
  "num_key_value_heads": 1,
  "head_dim": 256,
  "query_pre_attn_scalar": 256,
  "vocab_size": 262_144,
  "max_position_embeddings": 2048,
  "rms_norm_eps": 1e-6,
  "hidden_activation": "gelu_pytorch_tanh",
  "rope_theta": 1_000_000.0,
  "rope_local_base_freq": 10_000.0,
  "rope_scaling": None,
  "sliding_window": 512,
  "_sliding_window_pattern": 6,
  "attention_bias": False,
  "attn_logit_softcapping": None,
  "final_logit_softcapping": None,
  "use_bidirectional_attention": True,
}


def read(family=GEMMA3, **changes):
  return hugging_face.model_config(PUBLIC | changes, family, "config.json")


def test_the_public_config_is_the_papers_model():
  assert read() == preset("embeddinggemma_300m").model


ROPE = {
  "full_attention": {"rope_type": "default", "rope_theta": 5e5},
  "sliding_attention": {"rope_type": "default", "rope_theta": 2e4},
}


@pytest.mark.parametrize(
  ("family", "changes", "bases"),
  [
    (GEMMA3, {}, (1e4, 1e6)),
    (GEMMA3, {"rope_parameters": ROPE}, (2e4, 5e5)),
    (GEMMA3, {"rope_theta": None, "rope_local_base_freq": None}, (1e4, 1e6)),
    (GEMMA3, {"rope_theta": 7e5, "rope_local_base_freq": 3e4}, (3e4, 7e5)),
    # What a kind lacks in the new spelling is what the old one says.
    (
      GEMMA3,
      {
        "rope_parameters": {"full_attention": {"rope_type": "default"}},
        "rope_theta": 7e5,
        "rope_local_base_freq": 3e4,
      },
      (3e4, 7e5),
    ),
    (
      GEMMA3,
      {
        "rope_parameters": ROPE,
        "rope_scaling": {"rope_type": "default", "rope_theta": 9e5},
      },
      (2e4, 9e5),
    ),
    (T5GEMMA, {"rope_theta": 3e4}, (3e4, 3e4)),
    (T5GEMMA, {"rope_parameters": {"rope_theta": 3e4}}, (3e4, 3e4)),
    (T5GEMMA, {"rope_theta": None}, (1e4, 1e4)),
  ],
)
def test_rotary_bases_in_every_spelling(family, changes, bases):
  config = read(family, _sliding_window_pattern=None, **changes)
  assert (config.local_rope_base, config.global_rope_base) == bases


@pytest.mark.parametrize(
  ("changes", "pattern"),
  [
    ({}, (LOCAL,) * 5 + (GLOBAL,)),
    ({"_sliding_window_pattern": None}, (LOCAL,) * 5 + (GLOBAL,)),
    ({"sliding_window_pattern": 3}, (LOCAL, LOCAL, GLOBAL)),
    ({"layer_types": ["full_attention"] * 24}, (GLOBAL,)),
    (
      {"layer_types": ["full_attention", "sliding_attention"] * 12},
      (GLOBAL, LOCAL),
    ),
  ],
)
def test_the_pattern_in_every_spelling(changes, pattern):
  assert read(**changes).pattern == pattern


def test_a_config_that_says_little_means_the_defaults():
  """As those of larger Gemma 3 do."""
  config = hugging_face.model_config({"hidden_size": 64}, GEMMA3, "x")
  assert (config.width, config.num_heads, config.head_dim) == (64, 8, 256)
  assert config.vocab_size == 262_208 and config.num_layers == 26


def test_families_are_told_apart():
  one = hugging_face.model_config({}, T5GEMMA, "x")
  assert not one.qk_norm and one.window_rule == "t5gemma"
  assert (one.attention_softcap, one.logit_softcap) == (50, 30)
  assert one.pattern == (LOCAL, GLOBAL)
  none = {"attn_logit_softcapping": None}
  bare = hugging_face.model_config(none, T5GEMMA, "x")
  assert (bare.attention_softcap, bare.logit_softcap) == (0, 30)
  two = hugging_face.model_config({}, T5GEMMA2, "x")
  assert two.qk_norm and two.window_rule == "t5gemma2"


@pytest.mark.parametrize(
  ("changes", "message"),
  [
    ({"sliding_window": 257}, "=257 is odd, .* 512 if it was saved once"),
    ({"sliding_window": 129}, "=129 is odd"),
    ({"sliding_window": None}, "sliding_window=None is not a whole number"),
    ({"hidden_size": "768"}, "hidden_size='768' is not a whole number"),
    ({"num_hidden_layers": True}, "num_hidden_layers=True is not"),
    ({"rms_norm_eps": "small"}, "rms_norm_eps='small' is not a number"),
    ({"query_pre_attn_scalar": 168}, "only that of head_dim=256"),
    ({"attention_bias": True}, "attention_bias=True is not supported"),
    ({"hidden_activation": "silu"}, "hidden_activation='silu'"),
    ({"tie_word_embeddings": False}, "tie_word_embeddings=False"),
    ({"rope_scaling": {"type": "linear"}}, "rope_scaling.factor=0 must be"),
    ({"rope_scaling": {"type": "yarn"}}, "rope_scaling of type 'yarn'"),
    ({"rope_scaling": "linear"}, "is not an object"),
    (
      {"rope_parameters": {"full_attention": {"rope_type": "yarn"}}},
      "rope_parameters.full_attention of type 'yarn'",
    ),
    ({"rope_parameters": {"full_attention": 1}}, "is not an object"),
    (
      {"rope_parameters": {"rope_type": "linear", "factor": 8.0}},
      "local layers are divided by 8",
    ),
    ({"layer_types": ["full_attention"]}, "does not name 24 layers"),
    ({"layer_types": ["chunked"] * 24}, "layer_types holds 'chunked'"),
    ({"_sliding_window_pattern": 0}, "_sliding_window_pattern=0 is not"),
    ({"_sliding_window_pattern": 2}, "write it as sliding_window_pattern"),
    ({"attn_logit_softcapping": 50.0}, "attn_logit_softcapping=50.0"),
    ({"quantization_config": {"bits": 4}}, "quantization_config is set"),
    ({"auto_map": {"AutoModel": "x.Y"}}, "auto_map is set"),
    ({"is_causal": False}, "is_causal=False is not supported"),
    ({"rope_parameters": {"rope_theta": 5.0}}, "write both"),
    (
      {
        "rope_parameters": {
          "full_attention": {
            "rope_type": "linear",
            "factor": 2.0,
            "partial_rotary_factor": 0.5,
          }
        }
      },
      "partial_rotary_factor=0.5",
    ),
    ({"max_position_embeddings": 2}, r"config\.json: model.max_length=2"),
    ({"num_key_value_heads": 2}, "does not divide"),
  ],
)
def test_what_ours_is_not_is_named(changes, message):
  with pytest.raises(BadInput) as error:
    read(**changes)
  assert re.search(message, str(error.value))


@pytest.mark.parametrize("factor", [1.0, 8.0])
def test_what_is_written_is_read_as_the_same_model(factor):
  """Through the old spelling alone, too; the window is the full one."""
  config = dataclasses.replace(
    preset("tiny").model,
    local_rope_base=3e4,
    window=15,
    global_rope_factor=factor,
  )
  tree = hugging_face.encoder_json(config, "float32")
  assert tree["sliding_window"] == 14
  old = {k: v for k, v in tree.items() if k != "rope_parameters"}
  for given in (tree, old):
    back = hugging_face.model_config(given, GEMMA3, "x")
    head = {"up_width": config.up_width, "embed_dim": config.embed_dim}
    back = dataclasses.replace(back, **head)
    assert identity.same_model(back, config)
    for name, value in {"window": 12, "norm_eps": 1e-5, "width": 64}.items():
      other = dataclasses.replace(back, **{name: value})
      assert not identity.same_model(other, config), name
