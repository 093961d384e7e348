"""The formula of model FLOPs, against what JAX traces and masks let through."""

import dataclasses
import math
import pathlib

import jax
import jax.numpy as jnp
import pytest
from jax.extend import core

from embeddinggemma.aot import examine
from embeddinggemma.aot import flops as step_flops
from embeddinggemma.cli import flags
from embeddinggemma.cli.verbs import VERBS
from embeddinggemma.model import decoder, embedder, encoder, flops, layers
from embeddinggemma.model.config import GLOBAL, LOCAL
from embeddinggemma.model.layers import Window
from embeddinggemma.presets import preset

ROOT = pathlib.Path(__file__).parent.parent.parent


def config_of(config: str, *overrides: str):
  values, _ = flags.parse(
    "compile",
    VERBS["compile"],
    [f"--config={ROOT}/configs/{config}", "--topology=v5e:2x2", *overrides],
  )
  return examine.config_of(values.config.to_dict(), None)


@pytest.mark.parametrize("n", [1, 7, 20])
@pytest.mark.parametrize(
  "window", [Window(None, None), Window(3, 3), Window(2, 5), Window(None, 0)]
)
def test_pairs_seen_are_those_of_the_mask(n: int, window: Window) -> None:
  mask = layers.attention_mask(jnp.zeros((1, n), jnp.int32), window)
  assert flops.pairs_seen(n, window) == int(mask.sum())


def products(function, *arguments) -> int:
  """2 x result x contracted sizes, of every dot_general that is traced."""

  def count(jaxpr) -> int:
    total = 0
    for equation in jaxpr.eqns:
      if equation.primitive.name == "dot_general":
        (over, _), _ = equation.params["dimension_numbers"]
        left = equation.invars[0].aval.shape
        total += (
          2
          * math.prod(equation.outvars[0].aval.shape)
          * math.prod(left[i] for i in over)
        )
      total += sum(map(count, core.jaxprs_in_params(equation.params)))
    return total

  return count(jax.make_jaxpr(function)(*arguments).jaxpr)


def test_an_embedders_forward_pass() -> None:
  # Windows wider than the text: traced products do not skip what a mask hides.
  model = dataclasses.replace(preset("tiny").model, window=200)
  texts, n = 3, 48
  ids = jnp.zeros((texts, n), jnp.int32)
  segment_ids = jnp.broadcast_to(jnp.arange(texts)[:, None], (texts, n))
  valid = jnp.ones((texts,), bool)
  params = jax.eval_shape(embedder.init(model), jax.random.key(0))
  traced = products(
    embedder.encode_group(model), params, ids, segment_ids, valid
  )
  pooled = 2 * texts * (texts * n) * model.width  # a one-hot product
  assert traced - pooled == texts * flops.embedder(model, n)


@pytest.mark.parametrize("cross", ["merged", "separate"])
def test_an_encoder_decoders_forward_pass(cross: str) -> None:
  config = config_of("adapt.py:tiny", f"--config.cross_attention={cross}")
  model = dataclasses.replace(config.model, window=200)
  config = dataclasses.replace(config, model=model, decoder=model)
  n = 32
  ids = jnp.zeros((1, n), jnp.int32)
  params = jax.eval_shape(
    decoder.init_encoder_decoder(config.both), jax.random.key(0)
  )
  group = decoder.encoder_decoder_group(config.both)
  traced = products(group, params, ids, ids, ids, ids)
  # Traced, causal attention computes what its mask hides.
  heads = 4 * model.num_heads * model.head_dim * model.num_layers
  hidden = heads * (n * n - flops.pairs_seen(n, Window(None, 0)))
  words = flops._words(model, n)
  assert traced - hidden + words == flops.encoder_decoder(config.both, n)


def test_local_layers_cost_less_and_causal_ones_half() -> None:
  model = preset("embeddinggemma_300m").model
  assert {model.attention_kind(i) for i in range(6)} == {LOCAL, GLOBAL}
  far = dataclasses.replace(model, window=10**6)
  both = flops._stack(far, 2048, encoder.window)
  assert flops._stack(model, 2048, encoder.window) < both
  weights = flops._stack(far, 2048, lambda *_: Window(0, 0))
  causal = flops._stack(far, 2048, decoder.window)
  assert causal - weights == pytest.approx((both - weights) / 2, rel=1e-3)


def test_the_large_step_needs_what_was_worked_out_by_hand() -> None:
  """79.5 million cycles of a v5e at its peak, for 64 pairs of 128 + 128."""
  config = config_of(
    "prefinetune.py:embeddinggemma_300m", "--config.max_length=128"
  )
  assert config.batch_size == 16_384
  seconds = step_flops.of_step(config) / 256 / 197e12
  assert seconds * 1.5e9 == pytest.approx(79.5e6, rel=2e-3)
