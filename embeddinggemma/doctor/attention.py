"""Checks of attention: which tokens change when one does."""

import dataclasses

import numpy as np
from jaxtyping import Bool

from embeddinggemma.doctor.opened import Finding, Opened, States
from embeddinggemma.model import trace
from embeddinggemma.model.config import LOCAL, WINDOW_RULES, ModelConfig

_UNLIMITED = 64  # positions on which a layer without a window is tried


def check_bidirectional(opened: Opened) -> Finding:
  """Check that the last word of a text changes the tokens before it.

  It must change most tokens within the attention window, not every one: where
  attention is sharp, float32 may round the change away.
  """
  before, far = opened.brief, _seen_through_layers(opened.model.config)
  ids = before.ids.copy()
  last = np.maximum(before.lengths - 2, 0)  # before EOS
  pieces = opened.model.tokenizer.vocab_size
  for row, at in zip(ids, last):
    row[at] = 4 + (row[at] - 3) % (pieces - 4)
  after = opened.states([row[:n] for row, n in zip(ids, before.lengths)])
  moved = [
    _moved(before, after, n)[max(0, at - far) : at] for n, at in enumerate(last)
  ]
  changed, all_ = sum(m.sum() for m in moved), sum(len(m) for m in moved)
  said = f"the last word changes {changed} of {all_} tokens before it"
  if 2 * changed >= all_ > 0:
    return Finding("bidirectional", True, said)
  return Finding(
    "bidirectional",
    False,
    f"attention is causal: {said}",
    "set use_bidirectional_attention to true; transformers before 4.57 ignores"
    " it, use a newer one",
  )


def _seen_through_layers(config: ModelConfig) -> int:
  """How far to the right a token sees through all layers' windows."""
  kinds = [config.attention_kind(n) for n in range(config.num_layers)]
  if set(kinds) != {LOCAL}:
    return config.max_length
  return len(kinds) * WINDOW_RULES[config.window_rule](config.window)[1]


def _moved(a: States, b: States, row: int) -> Bool[np.ndarray, "_"]:
  return (a.tokens(row) != b.tokens(row)).any(axis=1)


def check_reach(opened: Opened) -> Finding:
  """Check that a layer of each kind has exactly its attention window."""
  config, said = opened.model.config, []
  kinds = [config.attention_kind(n) for n in range(config.num_layers)]
  for kind in dict.fromkeys(kinds):
    wanted, found = _reaches(opened, kinds.index(kind), kind)
    if wanted != found:
      return Finding(
        "reach",
        False,
        f"a {kind} layer sees {found[0]} tokens to the left and {found[1]} to"
        f" the right, its rule says {wanted[0]} and {wanted[1]}",
        "build the mask of both sides: |distance| <= 256 in EmbeddingGemma;"
        " a converted config may hold a halved window",
      )
    far = "all" if kind != LOCAL else f"{found[0]} left and {found[1]} right"
    said.append(f"{kind} layers see {far}")
  return Finding("reach", True, ", ".join(said))


def _reaches(
  opened: Opened, layer: int, kind: str
) -> tuple[tuple[int, int], tuple[int, int]]:
  """((left, right) by the config, (left, right) as one changed token shows).

  The layer runs alone with zero queries, so that all tokens in its window have
  the same weight and none is rounded away.
  """
  config = opened.model.config
  left = right = _UNLIMITED
  if kind == LOCAL:
    left, right = WINDOW_RULES[config.window_rule](config.window)
  # Positions beyond max_length are in no text.
  length = min(left + right + 3, config.max_length)
  at = min(right + 1, length // 2)
  if kind != LOCAL:
    left = right = length
  single, params = _alone(opened, layer, kind)
  run = trace.tracer(single)
  ids = np.zeros((1, length), np.int32)
  ids[0, at] = 1
  states = [
    np.asarray(run(params, x, np.array([length])).tokens)[0]
    for x in (np.zeros_like(ids), ids)
  ]
  moved = np.flatnonzero((states[0] != states[1]).any(axis=1))
  # Who sees the changed token from the right looks to the left.
  wanted = min(left, length - 1 - at), min(right, at)
  return wanted, (int(moved.max()) - at, at - int(moved.min()))


def _alone(opened: Opened, layer: int, kind: str) -> tuple[ModelConfig, dict]:
  """A model of one layer and two table rows, cut out of the opened one."""
  config = dataclasses.replace(
    opened.model.config,
    num_layers=1,
    pattern=(kind,),
    vocab_size=2,
    dtype="float32",
  )
  model = opened.model.params["model"]
  encoder = model["encoder"]
  own = encoder[f"layer_{layer}"]
  attention = {**own["attention"], "q": np.zeros_like(own["attention"]["q"])}
  pieces = opened.brief.ids[0, 1:3]
  alone = {
    "embedding": np.asarray(encoder["embedding"])[pieces],
    "layer_0": {**own, "attention": attention},
    "final_norm": encoder["final_norm"],
  }
  return config, {"model": {**model, "encoder": alone}}
