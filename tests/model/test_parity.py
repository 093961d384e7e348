"""The same numbers as transformers, from the same random weights.

Theirs reads one text at a time; ours one text a row, and several packed into
one row. The lengths are below, at and beyond the window.
"""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from embeddinggemma.losses import denoise
from embeddinggemma.model import decoder
from embeddinggemma.model.config import (
  GLOBAL,
  LOCAL,
  EncoderDecoderConfig,
  preset,
)
from embeddinggemma.model.encoder import Encoder

torch = pytest.importorskip("torch")
transformers = pytest.importorskip("transformers", minversion="5")

WINDOW = 8
SMALL = dataclasses.replace(
  preset("tiny"),
  vocab_size=96,
  num_layers=3,
  num_heads=4,
  num_kv_heads=2,
  head_dim=8,
  mlp_width=48,
  window=WINDOW,
  pattern=(LOCAL, GLOBAL),
)
GEMMA_2 = dataclasses.replace(
  SMALL,
  global_rope_base=1e4,
  qk_norm=False,
  attention_softcap=50.0,
  logit_softcap=30.0,
  window_rule="t5gemma",
)
LENGTHS = (3, 7, 8, 9, 16, 30)
TARGETS = (9, 30, 8, 16, 1, 7)
ATOL = 1e-4


def sizes(config, **more):
  """The arguments of theirs that a config of ours decides."""
  kind = {LOCAL: "sliding_attention", GLOBAL: "full_attention"}
  layers = range(config.num_layers)
  return {
    "vocab_size": config.vocab_size,
    "hidden_size": config.width,
    "intermediate_size": config.mlp_width,
    "num_hidden_layers": config.num_layers,
    "num_attention_heads": config.num_heads,
    "num_key_value_heads": config.num_kv_heads,
    "head_dim": config.head_dim,
    "query_pre_attn_scalar": config.head_dim,
    "sliding_window": config.window,
    "layer_types": [kind[config.attention_kind(i)] for i in layers],
    "attn_logit_softcapping": config.attention_softcap or None,
    "final_logit_softcapping": config.logit_softcap or None,
    "attn_implementation": "eager",
    **more,
  }


def randomised(model):
  """All weights random: norms far from 1, logits of size 1."""
  torch.manual_seed(0)
  for parameter in model.parameters():
    scale = 0.3 if parameter.ndim == 1 else parameter.shape[-1] ** -0.5
    torch.nn.init.normal_(parameter, std=scale)
  return model.eval()


# Theirs, under either name that it has -> ours.
NORMS = {
  "input_layernorm": "pre_attention_norm",
  "pre_self_attn_layernorm": "pre_attention_norm",
  "post_attention_layernorm": "post_attention_norm",
  "post_self_attn_layernorm": "post_attention_norm",
  "pre_feedforward_layernorm": "pre_mlp_norm",
  "post_feedforward_layernorm": "post_mlp_norm",
  "pre_cross_attn_layernorm": "pre_cross_attention_norm",
  "post_cross_attn_layernorm": "post_cross_attention_norm",
}
ATTENTIONS = {"self_attn": "attention", "cross_attn": "cross_attention"}


def array(tensor):
  return jnp.asarray(tensor.detach().numpy())


def scale(norm):
  return {"scale": array(norm.weight)}


def attention(theirs, config):
  split = lambda linear: array(linear.weight).T.reshape(
    linear.in_features, -1, config.head_dim
  )
  tree = {name: split(getattr(theirs, f"{name}_proj")) for name in "qkv"}
  tree["o"] = array(theirs.o_proj.weight).T.reshape(
    config.num_heads, config.head_dim, config.width
  )
  if config.qk_norm:
    tree |= {
      name: scale(getattr(theirs, name)) for name in ("q_norm", "k_norm")
    }
  return tree


def layer(theirs, config):
  parts = dict(theirs.named_children())
  tree = {ours: scale(parts[n]) for n, ours in NORMS.items() if n in parts}
  for name, ours in ATTENTIONS.items():
    if name in parts:
      tree[ours] = attention(parts[name], config)
  linear = lambda name: array(getattr(theirs.mlp, name).weight).T
  tree["mlp"] = {n: linear(f"{n}_proj") for n in ("gate", "up", "down")}
  return tree


def side(theirs, config):
  """The tree of an encoder or a decoder, table included."""
  tree = {f"layer_{i}": layer(x, config) for i, x in enumerate(theirs.layers)}
  table = {"embedding": array(theirs.embed_tokens.weight)}
  return tree | table | {"final_norm": scale(theirs.norm)}


def texts(lengths, seed):
  rng = np.random.default_rng(seed)
  return [rng.integers(4, 96, n, dtype=np.int32) for n in lengths]


# Rows of texts: each its own, all in one, and two that hold some each.
LAYOUTS = {
  "a text a row": [[0], [1], [2], [3], [4], [5]],
  "one row": [[3, 0, 5, 1, 4, 2]],
  "two rows": [[5, 2, 0], [1, 4, 3]],
}


def packed(some, rows, length):
  """Ids, slots and the places of texts; elsewhere, noise in a slot of none."""
  shape = (len(rows), length)
  ids = np.random.default_rng(9).integers(4, 96, shape).astype(np.int32)
  slot, places = np.full(shape, len(some), np.int32), {}
  for r, members in enumerate(rows):
    start = 0
    for s in members:
      places[s] = (r, slice(start, start + len(some[s])))
      ids[places[s]], slot[places[s]] = some[s], s
      start += len(some[s])
  return jnp.asarray(ids), jnp.asarray(slot), places


def torch_ids(text):
  return torch.from_numpy(text[None].astype(np.int64))


def logits(config, hidden, table):
  out = jnp.einsum("rld,vd->rlv", hidden, table)
  cap = config.logit_softcap
  return cap * jnp.tanh(out / cap) if cap else out


def assert_same(ours, theirs, places):
  for s, want in enumerate(theirs):
    assert np.abs(want).max() > 0.5, "too small to tell a difference"
    np.testing.assert_allclose(ours[places[s]], want, rtol=0, atol=ATOL)


@functools.cache
def gemma3(window, bidirectional):
  config = dataclasses.replace(SMALL, window=window)
  theirs = transformers.Gemma3TextConfig(
    **sizes(config, use_bidirectional_attention=bidirectional)
  )
  kind = "Gemma3TextModel" if bidirectional else "Gemma3ForCausalLM"
  return config, randomised(getattr(transformers, kind)(theirs))


@pytest.mark.parametrize("layout", list(LAYOUTS))
@pytest.mark.parametrize("window", [WINDOW, WINDOW - 1])
def test_the_encoder_is_embeddinggemmas(window, layout):
  config, theirs = gemma3(window, True)
  some = texts(LENGTHS, 0)
  ids, slot, places = packed(some, LAYOUTS[layout], 80)
  run = jax.jit(Encoder(config).apply)
  ours = run({"params": side(theirs, config)}, ids, slot)
  with torch.no_grad():
    want = [theirs(torch_ids(t)).last_hidden_state[0].numpy() for t in some]
  assert_same(ours, want, places)


@pytest.mark.parametrize("layout", list(LAYOUTS))
@pytest.mark.parametrize("window", [WINDOW, WINDOW - 1])
def test_the_decoder_is_gemma_3(window, layout):
  config, theirs = gemma3(window, False)
  some = texts(LENGTHS, 1)
  ids, slot, places = packed(some, LAYOUTS[layout], 80)
  params = {"model": {"decoder": side(theirs.model, config)}}
  hidden, table = jax.jit(decoder.causal_group(config))(params, ids, slot)
  with torch.no_grad():
    want = [theirs(torch_ids(t)).logits[0].numpy() for t in some]
  assert_same(logits(config, hidden, table), want, places)


def test_the_loss_is_gemma_3s():
  config, theirs = gemma3(WINDOW, False)
  some = texts(LENGTHS, 1)
  ids, slot, _ = packed(some, LAYOUTS["two rows"], 80)
  params = {"model": {"decoder": side(theirs.model, config)}}
  hidden, table = jax.jit(decoder.causal_group(config))(params, ids, slot)
  loss, tokens, _ = denoise.next_token(
    hidden, table, ids, slot, jnp.ones(len(some), bool), 0.0, 32
  )
  with torch.no_grad():
    want = [theirs(torch_ids(t), labels=torch_ids(t)).loss.item() for t in some]
  np.testing.assert_array_equal(tokens, np.array(LENGTHS) - 1)
  np.testing.assert_allclose(loss / tokens, want, atol=ATOL)


def t5gemma_window(window):
  """A window of theirs that sees window - 1 to each side.

  Gemma's own T5Gemma and the first in transformers see so far; its shared mask
  of later versions, up to 5.24 at least, sees one further.
  """
  mask = transformers.masking_utils.sliding_window_bidirectional_overlay(4)
  return window - 1 if mask(0, 0, 0, 4) else window


@functools.cache
def t5gemma(balanced):
  """Gemma 2's blocks, separate cross-attention, a table a side."""
  ours = GEMMA_2
  if not balanced:
    ours = dataclasses.replace(
      GEMMA_2, width=48, num_layers=2, num_heads=6, num_kv_heads=1
    )
  config = EncoderDecoderConfig(ours, GEMMA_2, False, "separate")
  module = transformers.T5GemmaModuleConfig
  window = t5gemma_window(WINDOW)
  theirs = transformers.T5GemmaConfig(
    encoder=module(**sizes(config.encoder, sliding_window=window)),
    decoder=module(**sizes(config.decoder)),
    vocab_size=96,
    attn_implementation="eager",
  )
  model = transformers.T5GemmaForConditionalGeneration(theirs)
  return config, randomised(model)


@functools.cache
def t5gemma2(window):
  """Gemma 3's blocks, merged attention, one table; an image tower of nothing."""
  ours = dataclasses.replace(SMALL, window=window, window_rule="t5gemma2")
  config = EncoderDecoderConfig(ours, ours, True, "merged")
  tower = transformers.SiglipVisionConfig(
    hidden_size=4,
    intermediate_size=4,
    num_hidden_layers=1,
    num_attention_heads=1,
    image_size=2,
    patch_size=1,
  )
  theirs = transformers.T5Gemma2Config(
    encoder=transformers.T5Gemma2EncoderConfig(
      text_config=transformers.T5Gemma2TextConfig(**sizes(ours)),
      vision_config=tower,
      mm_tokens_per_image=4,
      attn_implementation="eager",
    ),
    decoder=transformers.T5Gemma2DecoderConfig(**sizes(ours)),
    attn_implementation="eager",
  )
  model = transformers.T5Gemma2ForConditionalGeneration(theirs)
  return config, randomised(model)


def check(config, theirs, encoder, layout):
  """Logits of a decoder that reads texts of other lengths than its own."""
  inputs, targets = texts(LENGTHS, 2), texts(TARGETS, 3)
  rows = LAYOUTS[layout]
  ids, slot, _ = packed(inputs, rows, 80)
  target_ids, target_slot, places = packed(targets, [r[::-1] for r in rows], 72)
  model = {
    "encoder": side(encoder, config.encoder),
    "decoder": side(theirs.model.decoder, config.decoder),
  }
  if config.tied:
    del model["decoder"]["embedding"]
  shapes = jax.eval_shape(
    decoder.init_encoder_decoder(config), jax.random.key(0)
  )["model"]
  assert jax.tree.map(jnp.shape, model) == jax.tree.map(jnp.shape, shapes)
  run = jax.jit(decoder.encoder_decoder_group(config))
  hidden, table = run({"model": model}, ids, slot, target_ids, target_slot)
  with torch.no_grad():
    want = [
      theirs(input_ids=torch_ids(a), decoder_input_ids=torch_ids(b))
      .logits[0]
      .numpy()
      for a, b in zip(inputs, targets)
    ]
  assert_same(logits(config.decoder, hidden, table), want, places)


@pytest.mark.parametrize("layout", list(LAYOUTS))
@pytest.mark.parametrize("balanced", [True, False])
def test_separate_cross_attention_is_t5gemmas(balanced, layout):
  config, theirs = t5gemma(balanced)
  check(config, theirs, theirs.model.encoder, layout)


@pytest.mark.parametrize("layout", list(LAYOUTS))
@pytest.mark.parametrize("window", [WINDOW, WINDOW - 1])
def test_merged_attention_is_t5gemma_2s(window, layout):
  config, theirs = t5gemma2(window)
  check(config, theirs, theirs.model.encoder.text_model, layout)
