"""Tree surgery: weights of one checkpoint into the parameters of another model.

The paper's way to an encoder (section 2.1): a causal decoder becomes an
encoder-decoder as in T5Gemma (arXiv 2504.06225), whose encoder is then kept.
Checkpoints are {"model": ..., "aux": ...}; a model is one of

- causal: {"decoder"};
- an encoder-decoder: {"encoder", "decoder"};
- an embedder: {"encoder", and its head}, or no more than an encoder's table.

Each step renames what it is given and copies nothing. It leaves names and
shapes to `graft`, and out what the new model has no place for: `dropped` tells.
"""

from collections.abc import Mapping
from typing import Any

import jax

from embeddinggemma import sharding
from embeddinggemma.model.config import SEPARATE, EncoderDecoderConfig
from embeddinggemma.types import BadInput, Params

# Of a layer: what cross-attention is made of, named as in self-attention.
_ATTENTION = ("pre_attention_norm", "attention", "post_attention_norm")


def to_causal(given: Params) -> Params:
  """A causal model from itself, or from an encoder; a head is dropped.

  An encoder-decoder is BadInput: its decoder needs its encoder.
  """
  model = _model(given)
  if "decoder" not in model:
    return {"model": {"decoder": model["encoder"]}}
  if "encoder" in model:
    raise BadInput(
      "the checkpoint is an encoder-decoder, where a causal model or an"
      " embedder is needed; start from the one that it was adapted from"
    )
  return {"model": {"decoder": model["decoder"]}}


def to_encoder_decoder(
  given: Params,
  config: EncoderDecoderConfig,
  decoder_given: Params | None = None,
) -> Params:
  """An encoder-decoder from itself, or both sides from one set of weights.

  Args:
    decoder_given: another causal model or embedder, for the decoder of sides
      of different sizes.

  Returns:
    Cross-attention, where it is separate, starts as the same layer's
    self-attention if it reads an encoder as wide as the decoder; else it is
    left out, and so stays fresh (T5Gemma, section 2). A tied decoder has no
    table.
  """
  model = _model(given)
  if "encoder" in model and "decoder" in model:
    if decoder_given is not None:
      raise BadInput(
        "the checkpoint is an encoder-decoder, which has a decoder; give no"
        " other, or start from a causal model"
      )
    return {"model": model}
  encoder = to_causal(given)["model"]["decoder"]
  decoder = encoder
  if decoder_given is not None:
    decoder = to_causal(decoder_given)["model"]["decoder"]
  elif len(encoder) > 1 and (differs := config.differs):  # not a table alone
    raise BadInput(
      f"encoder and decoder differ in {differs}; name a causal checkpoint of the"
      " decoder's sizes in decoder_from, or give both sides the same"
    )
  if config.tied:
    decoder = {k: v for k, v in decoder.items() if k != "embedding"}
  same = config.encoder.width == config.decoder.width
  if config.cross_attention == SEPARATE and same:
    decoder = {k: _with_cross(v) for k, v in decoder.items()}
  return {"model": {"encoder": encoder, "decoder": decoder}}


def to_embedder(given: Params) -> Params:
  """An embedder from itself, from an encoder-decoder, or a causal model."""
  model = _model(given)
  if "encoder" not in model:
    return {"model": {"encoder": model["decoder"]}}
  return {"model": {k: v for k, v in model.items() if k != "decoder"}}


def is_cross(path: str) -> bool:
  """Whether a parameter belongs to separate cross-attention, norms included."""
  return "cross_attention" in path


def dropped(given: Params, kept: Params) -> list[str]:
  """Paths of the leaves of `given` that a step above left out of `kept`."""
  found = {id(leaf) for leaf in jax.tree.leaves(kept)}
  leaves = jax.tree_util.tree_leaves_with_path(given)
  return [sharding.path_name(p) for p, leaf in leaves if id(leaf) not in found]


def _model(given: Params) -> Mapping[str, Any]:
  model = given["model"]
  if not ("encoder" in model or "decoder" in model):
    raise BadInput(
      "the checkpoint has neither an encoder nor a decoder but"
      f" {', '.join(model) or 'nothing'}; start from one that has"
    )
  return model


def _with_cross(layer: Any) -> Any:
  """A decoder's layer with its self-attention a second time, as cross-."""
  if not (isinstance(layer, Mapping) and "attention" in layer):
    return layer
  cross = {
    name.replace("attention", "cross_attention"): layer[name]
    for name in _ATTENTION
    if name in layer
  }
  return {**layer, **cross}


def graft(fresh: Params, given: Mapping[str, Any]) -> tuple[Params, list[str]]:
  """Replaces leaves of `fresh` by those of `given`, matched by path.

  Returns the new tree and the paths that stay fresh. A path that `fresh` does
  not have, or another shape, is BadInput with its name.
  """
  new: list[str] = []
  tree = _graft(fresh, given, "", new)
  return tree, new


def _graft(fresh: Any, given: Any, path: str, new: list[str]) -> Any:
  if not isinstance(fresh, Mapping):
    if fresh.shape != given.shape:
      raise BadInput(
        f"checkpoint tensor {path!r} has shape {tuple(given.shape)}, the model"
        f" needs {tuple(fresh.shape)}; use the preset it was trained with"
      )
    return given
  unknown = sorted(set(given) - set(fresh))
  if unknown:
    raise BadInput(
      f"checkpoint tensor {_join(path, unknown[0])!r} has no place in the"
      " model; use the preset it was trained with"
    )
  tree = {}
  for name, leaf in fresh.items():
    here = _join(path, name)
    if name in given:
      tree[name] = _graft(leaf, given[name], here, new)
    else:
      tree[name] = leaf
      new.extend(_paths(leaf, here))
  return tree


def _join(path: str, name: str) -> str:
  return f"{path}/{name}" if path else name


def _paths(tree: Any, path: str) -> list[str]:
  if not isinstance(tree, Mapping):
    return [path]
  return [p for name in tree for p in _paths(tree[name], _join(path, name))]
