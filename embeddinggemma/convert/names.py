"""Names of tensors in transformers, for the tensors of this project, and back.

A path such as encoder/layer_3/attention/q is translated part by part. Linear
maps are (outputs, inputs) in torch; here, inputs come first. Both store an
RMSNorm's weight w of (1 + w).
"""

from collections.abc import Container, Mapping, Sequence

import numpy as np

from embeddinggemma.checkpoint import Name
from embeddinggemma.convert import tensors
from embeddinggemma.convert.tensors import Shape, Shapes, Source

_PARTS = {
  "embedding": "embed_tokens.weight",
  "final_norm": "norm",
  "scale": "weight",
  "attention": "self_attn",
  "cross_attention": "cross_attn",
  "q_norm": "q_norm",
  "k_norm": "k_norm",
  "q": "q_proj.weight",
  "k": "k_proj.weight",
  "v": "v_proj.weight",
  "o": "o_proj.weight",
  "mlp": "mlp",
  "gate": "gate_proj.weight",
  "up": "up_proj.weight",
  "down": "down_proj.weight",
  "pre_mlp_norm": "pre_feedforward_layernorm",
  "post_mlp_norm": "post_feedforward_layernorm",
}
GEMMA3: Mapping[str, str] = {
  **_PARTS,
  "pre_attention_norm": "input_layernorm",
  "post_attention_norm": "post_attention_layernorm",
}
T5GEMMA: Mapping[str, str] = {  # and T5Gemma 2
  **_PARTS,
  "pre_attention_norm": "pre_self_attn_layernorm",
  "post_attention_norm": "post_self_attn_layernorm",
  "pre_cross_attention_norm": "pre_cross_attn_layernorm",
  "post_cross_attention_norm": "post_cross_attn_layernorm",
}
_AS_THEY_ARE = ("embedding", "scale")


def sources(
  shapes: Shapes, parts: Mapping[str, str], prefixes: Mapping[str, str]
) -> dict[Name, Source]:
  """Where each of our tensors comes from.

  Args:
    shapes: our tensors' shapes; a path begins with a side, encoder or decoder.
    parts: our name of a part -> that of transformers: GEMMA3 or T5GEMMA.
    prefixes: side -> what their names begin with.
  """
  return {
    name: _source(prefixes[name[0]] + theirs(name[1:], parts), name, shape)
    for name, shape in shapes.items()
  }


def prefix(found: Container[str], known: Sequence[str], default: str) -> str:
  """The first known prefix with a final norm, else the default."""
  return next((p for p in known if f"{p}norm.weight" in found), default)


def theirs(name: Name, parts: Mapping[str, str]) -> str:
  """Their name of a tensor of a side: layers.3.self_attn.q_proj.weight."""
  return ".".join(
    parts.get(part) or part.replace("layer_", "layers.") for part in name
  )


def _source(their_name: str, name: Name, shape: Shape) -> Source:
  if name[-1] in _AS_THEY_ARE:
    return Source(their_name, shape, lambda array: array)
  return tensors.matrix(their_name, shape, _inputs(name))


def export(name: Name, array: np.ndarray) -> np.ndarray:
  """A tensor in the layout of transformers."""
  if name[-1] in _AS_THEY_ARE:
    return array
  return tensors.to_matrix(array, _inputs(name))


def exported_shape(name: Name, shape: Shape) -> Shape:
  """The shape of what `export` returns."""
  return _source("", name, shape).shape


def _inputs(name: Name) -> int:
  """The number of leading axes that are inputs: 2 for o (heads, head dim)."""
  return 2 if name[-1] == "o" else 1
