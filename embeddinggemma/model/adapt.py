"""Convert the parameters of one kind of model into those of another.

The paper obtains its encoder this way (section 2.1): a causal decoder becomes
an encoder-decoder as in T5Gemma (arXiv 2504.06225), and the encoder of that
model is then kept. A checkpoint is {"model": ..., "aux": ...}, and its model is
one of

- causal: {"decoder"};
- an encoder-decoder: {"encoder", "decoder"};
- an embedder: {"encoder"} and the tensors of its head; a checkpoint with
  nothing but an encoder's embedding table also counts.

Each conversion moves tensors to new names and copies none of them. It does not
check names and shapes, which is the task of `graft`, and it leaves out the
tensors that the new model has no place for, which `dropped` lists.
"""

from collections.abc import Mapping
from typing import Any

import jax

from embeddinggemma import sharding
from embeddinggemma.model.config import SEPARATE, EncoderDecoderConfig
from embeddinggemma.types import BadInput, Params

# The modules of a layer that cross-attention copies from self-attention.
_ATTENTION = ("pre_attention_norm", "attention", "post_attention_norm")


def to_causal(given: Params) -> Params:
  """A causal model from a causal model, or from an encoder without its head.

  Raises BadInput for an encoder-decoder, whose decoder needs its encoder.
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
  """An encoder-decoder from itself, or with both sides from one model.

  Args:
    given: the checkpoint of an encoder-decoder, a causal model or an embedder.
    config: the encoder-decoder to be initialised.
    decoder_given: another causal model or embedder, from which the decoder
      starts where the two sides differ in size.

  Returns:
    The new parameters. Separate cross-attention starts as a copy of the same
    layer's self-attention if encoder and decoder are equally wide; otherwise it
    is left out, so that `graft` leaves it random (T5Gemma, arXiv 2504.06225,
    section 2). A decoder with a tied embedding gets no table of its own.
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
  """Whether a parameter is one of separate cross-attention or of its norms."""
  return "cross_attention" in path


def dropped(given: Params, kept: Params) -> list[str]:
  """Paths of the leaves of `given` that a conversion left out of `kept`."""
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
  """A decoder layer whose cross-attention is a copy of its self-attention."""
  if not (isinstance(layer, Mapping) and "attention" in layer):
    return layer
  cross = {
    name.replace("attention", "cross_attention"): layer[name]
    for name in _ATTENTION
    if name in layer
  }
  return {**layer, **cross}


def graft(fresh: Params, given: Mapping[str, Any]) -> tuple[Params, list[str]]:
  """Replace the leaves of `fresh` by those of `given` that have the same path.

  Returns the new tree and the paths that keep their fresh values. Raises
  BadInput, naming the path, if `given` has a leaf that `fresh` lacks or whose
  shape differs.
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
