"""EmbeddingGemma in numpy, from the files of a folder of sentence-transformers.

Nothing of ours is used: tokenizer.json is read by `tokenizers`, the weights by
`safetensors`, and all that is computed stands here, in double precision and
one layer at a time, for a few texts.
"""

import json
import pathlib
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import safetensors
import tokenizers

Weights = Mapping[str, np.ndarray]


def encode(
  folder: pathlib.Path, texts: Sequence[str], prompt_name: str | None
) -> np.ndarray:
  """Unit vectors (n, M) of texts under a prompt of the folder."""
  tree = json.loads((folder / "config.json").read_text())
  about = (folder / "config_sentence_transformers.json").read_text()
  prompt = json.loads(about)["prompts"][prompt_name] if prompt_name else ""
  rows = _ids(folder, [prompt + text for text in texts])
  ends = np.cumsum([len(row) for row in rows])
  spans = [slice(end - len(row), end) for end, row in zip(ends, rows)]
  with safetensors.safe_open(folder / "model.safetensors", "np") as file:
    table = file.get_slice("embed_tokens.weight")
    x = np.concatenate([table[n : n + 1] for row in rows for n in row])
    x = x.astype(np.float64) * np.float32(tree["hidden_size"] ** 0.5)
    for n, kind in enumerate(tree["layer_types"]):
      x = _layer(x, spans, _weights(file, f"layers.{n}."), tree, kind)
    x = _norm(x, file.get_tensor("norm.weight"), tree)
  vectors = np.stack([x[span].mean(axis=0) for span in spans])
  for name in ("2_Dense", "3_Dense"):
    path = folder / name / "model.safetensors"
    with safetensors.safe_open(path, "np") as file:
      vectors = vectors @ file.get_tensor("linear.weight").T
  return vectors / np.linalg.norm(vectors, axis=1, keepdims=True)


def _ids(folder: pathlib.Path, texts: Sequence[str]) -> list[list[int]]:
  """Of each text, BOS and EOS included; a long one is cut before its EOS."""
  longest = json.loads((folder / "sentence_bert_config.json").read_text())
  tokenizer = tokenizers.Tokenizer.from_file(str(folder / "tokenizer.json"))
  tokenizer.enable_truncation(longest["max_seq_length"])
  return [tokenizer.encode(text).ids for text in texts]


def _norm(x: np.ndarray, gain: np.ndarray, tree: dict) -> np.ndarray:
  size = np.mean(x * x, axis=-1, keepdims=True) + tree["rms_norm_eps"]
  return x / np.sqrt(size) * (1 + gain)


def _weights(file: Any, prefix: str) -> Weights:
  """Those of a layer, by their names without what all share."""
  names = [name for name in file.keys() if name.startswith(prefix)]
  return {
    name.removeprefix(prefix).removesuffix(".weight"): file.get_tensor(
      name
    ).astype(np.float64)
    for name in names
  }


def _layer(
  x: np.ndarray, spans: Sequence[slice], w: Weights, tree: dict, kind: str
) -> np.ndarray:
  """A block of texts that lie one after the other: (T, D) to (T, D)."""
  h = _norm(x, w["input_layernorm"], tree)
  heads = lambda name: (h @ w[f"self_attn.{name}_proj"].T).reshape(
    len(h), -1, tree["head_dim"]
  )
  q = _norm(heads("q"), w["self_attn.q_norm"], tree)
  k = _norm(heads("k"), w["self_attn.k_norm"], tree)
  v = heads("v")
  found = [_attention(q[s], k[s], v[s], tree, kind) for s in spans]
  h = np.concatenate(found) @ w["self_attn.o_proj"].T
  x = x + _norm(h, w["post_attention_layernorm"], tree)
  h = _norm(x, w["pre_feedforward_layernorm"], tree)
  h = _gelu(h @ w["mlp.gate_proj"].T) * (h @ w["mlp.up_proj"].T)
  h = h @ w["mlp.down_proj"].T
  return x + _norm(h, w["post_feedforward_layernorm"], tree)


def _attention(
  q: np.ndarray, k: np.ndarray, v: np.ndarray, tree: dict, kind: str
) -> np.ndarray:
  """Of every query to all keys, or to those of half a window to either side.

  (L, heads, E), of which keys and values have fewer heads, to (L, heads * E).
  """
  local = kind == "sliding_attention"
  theta = tree["rope_local_base_freq" if local else "rope_theta"]
  q, k = _rotated(q, theta), _rotated(k, theta)
  times = q.shape[1] // k.shape[1]
  k, v = (np.repeat(a, times, axis=1) for a in (k, v))
  scores = q.transpose(1, 0, 2) @ k.transpose(1, 2, 0)
  scores /= tree["query_pre_attn_scalar"] ** 0.5
  if local:
    place = np.arange(len(q))
    far = abs(place[:, None] - place) > tree["sliding_window"] // 2
    scores[:, far] = -np.inf
  shares = np.exp(scores - scores.max(axis=-1, keepdims=True))
  shares /= shares.sum(axis=-1, keepdims=True)
  out = shares @ v.transpose(1, 0, 2)
  return out.transpose(1, 0, 2).reshape(len(q), -1)


def _rotated(x: np.ndarray, theta: float) -> np.ndarray:
  """Rotary positions of (L, H, E), whose halves are turned together."""
  half = x.shape[-1] // 2
  turns = np.arange(len(x))[:, None] * theta ** (-np.arange(half) / half)
  cos, sin = np.cos(turns)[:, None], np.sin(turns)[:, None]
  a, b = x[..., :half], x[..., half:]
  return np.concatenate([a * cos - b * sin, b * cos + a * sin], axis=-1)


def _gelu(x: np.ndarray) -> np.ndarray:
  """By tanh, as Gemma has it."""
  return 0.5 * x * (1 + np.tanh((2 / np.pi) ** 0.5 * (x + 0.044715 * x**3)))
