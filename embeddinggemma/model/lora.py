"""Low-rank adaptation (LoRA, arXiv 2106.09685): train few weights.

Beside the model's frozen tensors, `aux` holds two factors for each matrix of
attention, MLP and head. Training sees the model through a view of the
parameters that adds the product of the factors to each matrix; when it ends,
the sums become the weights. Norms and the embedding table have no factors.
"""

import math
import re
from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp

from embeddinggemma import sharding
from embeddinggemma.config import LoraConfig
from embeddinggemma.types import Key, Params

LORA = "lora"  # key of aux: a tree like the model's with leaves {"a", "b"}
# `view` in recipe.json of a checkpoint whose factors are not merged yet.
VIEW = "lora, which is merged when its training ends"
# (pattern of the path, number of input axes) of the tensors with factors.
FACTORED = (
  (r"attention/(q|k|v)$", 1),
  (r"attention/o$", 2),
  (r"mlp/(gate|up|down)$", 1),
  (r"^(up|down)$", 1),
)


def init(model: Any, rank: int, key: Key) -> dict[str, Any]:
  """Initial factors for a tree of arrays or shapes: a random, b zero.

  a is (*input, rank) with variance 1 / input and b is (rank, *output), both
  float32. Since b is zero, the adapted model equals the original at first.
  """
  factors: dict[str, Any] = {}
  leaves = jax.tree_util.tree_leaves_with_path(model)
  for number, (path, leaf) in enumerate(leaves):
    axes = _input_axes(sharding.path_name(path))
    if not axes:
      continue
    inner = factors
    for name in path:
      inner = inner.setdefault(name.key, {})
    into, out = leaf.shape[:axes], leaf.shape[axes:]
    own = jax.random.fold_in(key, number)
    drawn = jax.random.normal(own, (*into, rank), jnp.float32)
    inner["a"] = drawn * math.prod(into) ** -0.5
    inner["b"] = jnp.zeros((rank, *out), jnp.float32)
  return factors


def _input_axes(path: str) -> int:
  """Number of input axes of the tensor at `path`; 0 if it has no factors."""
  return next((n for rule, n in FACTORED if re.search(rule, path)), 0)


def view(config: LoraConfig) -> Callable[[Params], Params]:
  """A function that adds alpha / rank * a @ b to each tensor with factors."""
  scale = config.alpha / config.rank

  def see(params: Params) -> Params:
    model = _added(params["model"], params["aux"][LORA], scale)
    return {**params, "model": model}

  return see


def merge(config: LoraConfig, params: Params) -> Params:
  """Parameters with the factors added to the weights and removed from aux."""
  merged = jax.jit(view(config))(params)
  aux = {name: leaf for name, leaf in merged["aux"].items() if name != LORA}
  return {**merged, "aux": aux}


def _added(tree: Any, factors: Mapping[str, Any], scale: float) -> Any:
  if not isinstance(tree, Mapping):
    # (*input, r) and (r, *output)
    return tree + scale * jnp.tensordot(factors["a"], factors["b"], 1)
  return {
    name: _added(leaf, factors[name], scale) if name in factors else leaf
    for name, leaf in tree.items()
  }
