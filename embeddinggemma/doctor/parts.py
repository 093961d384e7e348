"""Checks of a model's parts that do not run it: a second or less."""

from typing import Any

import jax
import numpy as np

from embeddinggemma import sharding
from embeddinggemma.convert import tensors
from embeddinggemma.data import prompts
from embeddinggemma.data.tokenizer import BOS, EOS, PAD, UNK
from embeddinggemma.doctor.opened import Finding, Opened
from embeddinggemma.model import embedder
from embeddinggemma.model.config import LOCAL, ModelConfig
from embeddinggemma.presets import PRESETS

HEAD = ("up", "down")  # g and f of the paper's section 2.1: the Dense layers
_NEEDED = ("query", "document")
_PUBLIC = ("embeddinggemma_300m", "gemma3_270m")  # presets of known windows
_FAMILY = ("num_layers", "width", "mlp_width", "num_heads", "head_dim")


def check_prompts(opened: Opened) -> Finding:
  """Check that both main prompts exist and known ones are unchanged."""
  found = opened.model.prompts
  fix = (
    "copy the prompts of config_sentence_transformers.json as published;"
    " without them retrieval loses most of its quality"
  )
  for name in _NEEDED:
    if name not in found:
      return Finding("prompts", False, f"there is no prompt {name!r}", fix)
  for name, prompt in found.items():
    if not prompt.strip():
      return Finding("prompts", False, f"the prompt {name!r} is empty", fix)
    wanted = prompts.PROMPTS.get(name, prompt)
    if prompt != wanted:
      said = f"the prompt {name!r} is {prompt!r}, the recipe's is {wanted!r}"
      return Finding("prompts", False, said, fix)
  ours = sum(name in prompts.PROMPTS for name in found)
  return Finding("prompts", True, f"{ours} are the recipe's, word for word")


def check_tokenizer(opened: Opened) -> Finding:
  """Check for BOS and EOS around every text, and byte fallback."""
  tokenizer, config = opened.model.tokenizer, opened.model.config
  wrong = lambda reason, fix: Finding("tokenizer", False, reason, fix)
  if tokenizer.vocab_size > config.vocab_size:
    return wrong(
      f"{tokenizer.vocab_size} pieces, but the table has {config.vocab_size}"
      " rows",
      "take tokenizer and weights from one model",
    )
  whole = [tokenizer.encode(text) for text in opened.texts]
  cut, _ = tokenizer.encode_batch(list(opened.texts), 4)
  for ids, text in zip([*whole, *cut], [*opened.texts] * 2):
    for name, wanted, got in (("BOS", BOS, ids[0]), ("EOS", EOS, ids[-1])):
      if got != wanted:
        return wrong(
          f"{name} ({wanted}) is missing: {text[:20]!r} gives"
          f" {np.asarray(ids)[[0, -1]].tolist()} at its ends",
          "set add_bos_token and add_eos_token to true",
        )
    if UNK in ids:
      return wrong(
        f"{text[:20]!r} has pieces that are unknown",
        "use the published tokenizer, which falls back to bytes",
      )
  return Finding(
    "tokenizer",
    True,
    f"BOS and EOS around {len(whole)} texts, also where cut; none is unknown",
  )


def check_control(opened: Opened) -> Finding:
  """Check that control tokens written in a text are encoded as characters."""
  tokenizer = opened.model.tokenizer
  for control in (PAD, EOS, BOS, UNK):
    piece = tokenizer.pieces[control]
    if control in tokenizer.encode(f"hi {piece} bye")[1:-1]:
      said = f"{piece!r} in a text becomes the token {control}"
      fix = "use the published tokenizer.model, of which it is a control piece"
      return Finding("control", False, said, fix)
  said = (
    "<pad>, <eos>, <bos>, <unk> in a text are characters; llama.cpp takes them"
    " for tokens, as sentence-transformers does with public folders"
  )
  return Finding("control", True, said)


def check_weights(opened: Opened) -> Finding:
  """Check that every tensor but the head's exists, in shape, and is finite."""
  wanted, found = _shapes(opened.model.config), _tensors(opened)
  for name in sorted(set(wanted) - set(HEAD)):
    if reason := _wrong(name, wanted, found):
      return Finding("weights", False, reason, _ANEW)
  extra = sorted(set(found) - set(wanted))
  if extra:
    said = f"tensor {extra[0]!r} has no place in the model"
    return Finding("weights", False, said, _ANEW)
  count = sum(np.size(x) for x in found.values())
  said = f"{count:,} numbers in {len(found)} tensors, all finite"
  return Finding("weights", True, said)


_ANEW = "import, export or train again; this copy is damaged"


def check_dense(opened: Opened) -> Finding:
  """Check that both Dense layers exist, in shape, and are not the identity."""
  config = opened.model.config
  wanted, found = _shapes(config), _tensors(opened)
  fix = (
    "take 2_Dense and 3_Dense, in this order, from the model's folder; without"
    " them vectors are of another space"
  )
  for name in HEAD:
    if reason := _wrong(name, wanted, found):
      return Finding("dense", False, f"Dense: {reason}", fix)
  up, down = (np.asarray(found[name], np.float32) for name in HEAD)
  if config.width == config.embed_dim and _is_identity(up @ down):
    said = "both Dense layers together are the identity: they do nothing"
    return Finding("dense", False, said, fix)
  said = f"{config.width} to {config.up_width} to {config.embed_dim}"
  return Finding("dense", True, said)


def _is_identity(x: np.ndarray) -> bool:
  """Whether x is the identity up to a scale, which normalisation removes."""
  scale = x[0, 0]
  return bool(scale > 0 and np.allclose(x / scale, np.eye(len(x)), atol=1e-6))


def check_window(opened: Opened) -> Finding:
  """Check that the attention window is not one that a conversion halved."""
  reason = halved(opened.model.config)
  if reason:
    return Finding(
      "window",
      False,
      reason,
      "write the full width (EmbeddingGemma: sliding_window 512) into the"
      " config, then import it again",
    )
  config = opened.model.config
  if LOCAL not in _kinds(config):
    return Finding("window", True, "no layer is local")
  said = f"{config.window} by the rule {config.window_rule!r}"
  return Finding("window", True, said)


def halved(config: ModelConfig) -> str:
  """The reason why the attention window looks halved, or "".

  transformers halves `sliding_window` of a bidirectional Gemma 3 when it reads
  a config, and some versions save the result: 512 becomes 257, then 129. So a
  window one above a power of two is wrong for the symmetric rule, and so is a
  window below the published one in a model of a public size.
  """
  w = config.window
  if LOCAL not in _kinds(config) or config.window_rule != "symmetric":
    return ""
  if w > 4 and (w - 1) & (w - 2) == 0:
    return f"the window is {w}: {2 * (w - 1)} halved as transformers does it"
  for name in _PUBLIC:
    public = PRESETS[name].model
    alike = all(getattr(config, f) == getattr(public, f) for f in _FAMILY)
    if alike and w < public.window:
      return f"the window is {w}; a model of this size has {public.window}"
  return ""


def _kinds(config: ModelConfig) -> set[str]:
  return {config.attention_kind(n) for n in range(config.num_layers)}


def _shapes(config: ModelConfig) -> dict[str, tuple[int, ...]]:
  shapes = jax.eval_shape(embedder.init(config), jax.random.key(0))
  return {name: leaf.shape for name, leaf in _named(shapes["model"]).items()}


def _tensors(opened: Opened) -> dict[str, Any]:
  return _named(opened.model.params["model"])


def _named(tree: object) -> dict:
  leaves = jax.tree_util.tree_leaves_with_path(tree)
  return {sharding.path_name(path): leaf for path, leaf in leaves}


def _wrong(
  name: str, wanted: dict[str, tuple[int, ...]], found: dict[str, Any]
) -> str:
  """What is wrong with a tensor, or ""."""
  if name not in found:
    return f"tensor {name!r} is missing"
  shape = tuple(found[name].shape)
  if shape != wanted[name]:
    swapped = shape == wanted[name][::-1]
    note = "; it is transposed, or swapped with its neighbour"
    return (
      f"tensor {name!r} has shape {shape}, the config says {wanted[name]}"
      f"{note if swapped else ''}"
    )
  if not tensors.all_finite(found[name]):
    return f"tensor {name!r} holds NaN or infinity"
  return ""
