"""The same numbers as transformers, from the folders that it saves.

Each family is imported from what its own save_pretrained wrote of random
weights. Theirs reads one text at a time; ours one text alone, a text a row,
and several packed into a row. The lengths are below, at and beyond half of the
window, and the window. EmbeddingGemma: test_sentence_transformers_parity.py.
"""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from embeddinggemma import config as config_lib
from embeddinggemma.convert import tensors
from embeddinggemma.convert.read import families
from embeddinggemma.losses import denoise
from embeddinggemma.model import decoder
from embeddinggemma.model.config import (
  GLOBAL,
  LOCAL,
  EncoderDecoderConfig,
  ModelConfig,
)
from embeddinggemma.presets import preset

torch = pytest.importorskip("torch")
transformers = pytest.importorskip("transformers", minversion="5")

WINDOW = 8
SMALL = dataclasses.replace(
  preset("tiny").model,
  vocab_size=512,
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
# Around half of the window, and the window.
LENGTHS = (1, 2, 3, 4, 5, 8, 9, 24)
TARGETS = (9, 24, 8, 5, 1, 7, 3, 2)
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


@pytest.fixture(scope="module")
def imported(tmp_path_factory, tokenizer_model):
  """(a model of theirs, part) -> what its saved folder is to us.

  Its weights are read through the same files that a user would import.
  """

  @functools.cache
  def saved(theirs):
    folder = tmp_path_factory.mktemp("theirs")
    theirs.save_pretrained(folder)
    (folder / "tokenizer.model").write_bytes(tokenizer_model)
    return folder

  def read(theirs, part="both"):
    found = families.read(saved(theirs), part)
    return found, tensors.params(found)

  return read


def texts(lengths, seed):
  rng = np.random.default_rng(seed)
  return [rng.integers(4, 512, n, dtype=np.int32) for n in lengths]


# Rows of texts: each its own, all in one, and two that hold some each.
LAYOUTS = {
  "alone": [[7]],
  "a text a row": [[0], [1], [2], [3], [4], [5], [6], [7]],
  "one row": [[3, 0, 5, 7, 1, 4, 6, 2]],
  "two rows": [[5, 2, 7, 0], [1, 4, 6, 3]],
}

# An odd window once: it differs in what a position sees, not in how rows do.
WINDOWS = [(WINDOW, layout) for layout in LAYOUTS] + [(WINDOW - 1, "two rows")]


def packed(some, rows, length):
  """Ids, segments and the places of texts; elsewhere, noise in a segment of none."""
  shape = (len(rows), length)
  ids = np.random.default_rng(9).integers(4, 512, shape).astype(np.int32)
  segment_ids, places = np.full(shape, len(some), np.int32), {}
  for r, members in enumerate(rows):
    start = 0
    for s in members:
      places[s] = (r, slice(start, start + len(some[s])))
      ids[places[s]], segment_ids[places[s]] = some[s], s
      start += len(some[s])
  return jnp.asarray(ids), jnp.asarray(segment_ids), places


def torch_ids(text):
  return torch.from_numpy(text[None].astype(np.int64))


def logits(config, hidden, table):
  out = jnp.einsum("rld,vd->rlv", hidden, table)
  cap = config.logit_softcap
  return cap * jnp.tanh(out / cap) if cap else out


def assert_same(ours, theirs, places):
  for s in places:
    want = theirs[s]
    assert np.abs(want).max() > 0.5, "too small to tell a difference"
    np.testing.assert_allclose(ours[places[s]], want, rtol=0, atol=ATOL)


@functools.cache
def gemma3(window):
  config = dataclasses.replace(SMALL, window=window)
  theirs = transformers.Gemma3TextConfig(**sizes(config))
  return randomised(transformers.Gemma3ForCausalLM(theirs))


@pytest.mark.parametrize(("window", "layout"), WINDOWS)
def test_the_decoder_is_gemma_3(imported, window, layout):
  theirs = gemma3(window)
  found, params = imported(theirs)
  some = texts(LENGTHS, 1)
  ids, segment_ids, places = packed(some, LAYOUTS[layout], 80)
  run = jax.jit(decoder.causal_group(found.config))
  hidden, table = run(params, ids, segment_ids)
  with torch.no_grad():
    want = [theirs(torch_ids(t)).logits[0].numpy() for t in some]
  assert_same(logits(found.config, hidden, table), want, places)


def test_the_loss_is_gemma_3s(imported):
  theirs = gemma3(WINDOW)
  found, params = imported(theirs)
  some = texts(LENGTHS[1:], 1)
  ids, segment_ids, _ = packed(some, [[5, 2, 0], [1, 4, 6, 3]], 80)
  run = jax.jit(decoder.causal_group(found.config))
  hidden, table = run(params, ids, segment_ids)
  loss, tokens, _ = denoise.next_token(
    hidden, table, ids, segment_ids, jnp.ones(len(some), bool), 0.0, 32
  )
  with torch.no_grad():
    want = [theirs(torch_ids(t), labels=torch_ids(t)).loss.item() for t in some]
  np.testing.assert_array_equal(tokens, np.array(LENGTHS[1:]) - 1)
  np.testing.assert_allclose(loss / tokens, want, atol=ATOL)


def tower():
  """A part for images, as small as it goes."""
  return transformers.SiglipVisionConfig(
    hidden_size=4,
    intermediate_size=4,
    num_hidden_layers=1,
    num_attention_heads=1,
    image_size=2,
    patch_size=1,
  )


# Of Gemma 3 from 4B on.
SCALED = {
  "sliding_attention": {"rope_type": "default", "rope_theta": 1e4},
  "full_attention": {"rope_type": "linear", "factor": 8.0, "rope_theta": 1e6},
}


def test_the_text_half_of_a_multimodal_gemma_3(imported):
  """What the images' part has is left out, and counted."""
  theirs = randomised(
    transformers.Gemma3ForConditionalGeneration(
      transformers.Gemma3Config(
        text_config=sizes(SMALL, rope_parameters=SCALED),
        vision_config=tower(),
        mm_tokens_per_image=4,
      )
    )
  )
  found, params = imported(theirs)
  images = [n for n in theirs.state_dict() if "vision" in n or "multi" in n]
  assert found.left_out == len(images) > 10
  assert found.config.global_rope_factor == 8
  some = texts(LENGTHS, 1)
  ids, segment_ids, places = packed(some, LAYOUTS["one row"], 80)
  hidden, table = jax.jit(decoder.causal_group(found.config))(
    params, ids, segment_ids
  )
  with torch.no_grad():
    want = [theirs(torch_ids(t)).logits[0].numpy() for t in some]
  assert_same(logits(found.config, hidden, table), want, places)


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
  module = transformers.T5GemmaModuleConfig
  window = t5gemma_window(WINDOW)
  theirs = transformers.T5GemmaConfig(
    encoder=module(**sizes(ours, sliding_window=window)),
    decoder=module(**sizes(GEMMA_2)),
    vocab_size=512,
    attn_implementation="eager",
  )
  return randomised(transformers.T5GemmaForConditionalGeneration(theirs))


@functools.cache
def t5gemma2(window):
  """Gemma 3's blocks, merged attention, one table; a part for images."""
  ours = sizes(dataclasses.replace(SMALL, window=window))
  theirs = transformers.T5Gemma2Config(
    encoder=transformers.T5Gemma2EncoderConfig(
      text_config=transformers.T5Gemma2TextConfig(**ours),
      vision_config=tower(),
      mm_tokens_per_image=4,
      attn_implementation="eager",
    ),
    decoder=transformers.T5Gemma2DecoderConfig(**ours),
    attn_implementation="eager",
  )
  return randomised(transformers.T5Gemma2ForConditionalGeneration(theirs))


def both_of(found):
  """The config of both sides, as a checkpoint's recipe.json has it."""
  more = dict(found.more)
  side = config_lib.build(ModelConfig, more.pop("decoder"))
  return EncoderDecoderConfig(found.config, side, **more)


def check(config, params, theirs, layout):
  """Logits of a decoder that reads texts of other lengths than its own."""
  inputs, targets = texts(LENGTHS, 2), texts(TARGETS, 3)
  rows = LAYOUTS[layout]
  ids, segment_ids, _ = packed(inputs, rows, 80)
  target_ids, target_segments, places = packed(
    targets, [r[::-1] for r in rows], 72
  )
  run = jax.jit(decoder.encoder_decoder_group(config))
  hidden, table = run(params, ids, segment_ids, target_ids, target_segments)
  with torch.no_grad():
    want = [
      theirs(input_ids=torch_ids(a), decoder_input_ids=torch_ids(b))
      .logits[0]
      .numpy()
      for a, b in zip(inputs, targets)
    ]
  assert_same(logits(config.decoder, hidden, table), want, places)


@pytest.mark.parametrize(
  ("balanced", "layout"),
  [(True, layout) for layout in LAYOUTS] + [(False, "two rows")],
)
def test_separate_cross_attention_is_t5gemmas(imported, balanced, layout):
  theirs = t5gemma(balanced)
  found, params = imported(theirs)
  both = both_of(found)
  encoder = dataclasses.replace(both.encoder, window=WINDOW)
  check(dataclasses.replace(both, encoder=encoder), params, theirs, layout)


@pytest.mark.parametrize(("window", "layout"), WINDOWS)
def test_merged_attention_is_t5gemma_2s(imported, window, layout):
  theirs = t5gemma2(window)
  found, params = imported(theirs)
  check(both_of(found), params, theirs, layout)


@pytest.mark.parametrize("make", [lambda: t5gemma(True), lambda: t5gemma2(8)])
def test_a_part_has_what_the_whole_has(imported, make):
  """An encoder as init_from takes it; a decoder as a causal model, which has
  a table of its own and nothing to attend across to."""
  theirs = make()
  whole = imported(theirs)[1]["model"]
  (encoder, only), (decoding, causal) = (
    imported(theirs, part) for part in ("encoder", "decoder")
  )
  jax.tree.map(
    np.testing.assert_array_equal,
    only["model"],
    {"encoder": whole["encoder"]},
  )
  for part in (encoder, decoding):
    assert not part.more and part.left_out > 20
  table = whole["decoder"].get("embedding", whole["encoder"]["embedding"])
  side = causal["model"]["decoder"]
  np.testing.assert_array_equal(side["embedding"], table)
  init = decoder.init_causal(decoding.config)
  shapes = jax.eval_shape(init, jax.random.key(0))["model"]["decoder"]
  assert jax.tree.map(jnp.shape, side) == jax.tree.map(jnp.shape, shapes)
  q = lambda tree: tree["layer_0"]["attention"]["q"]
  np.testing.assert_array_equal(q(side), q(whole["decoder"]))
