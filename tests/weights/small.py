"""A small random EmbeddingGemma in the layout of the published one.

Every file is written here, with numpy and safetensors, and not by what exports
our models: names, settings and their places are those of
google/embeddinggemma-300m, the sizes are not.
"""

import json
import pathlib

import numpy as np
import safetensors.numpy

from embeddinggemma.convert.write import tokenizer_json
from embeddinggemma.data import samples, tokenizer

SEED = 0
WIDTH, UP, MLP, HEADS, HEAD = 64, 128, 96, 2, 32
LAYERS, EVERY, WINDOW, LONGEST, VOCABULARY = 3, 3, 64, 2048, 768
PROMPTS = {
  "query": "task: search result | query: ",
  "document": "title: none | text: ",
  "BitextMining": "task: search result | query: ",
  "Clustering": "task: clustering | query: ",
  "Classification": "task: classification | query: ",
  "InstructionRetrieval": "task: code retrieval | query: ",
  "MultilabelClassification": "task: classification | query: ",
  "PairClassification": "task: sentence similarity | query: ",
  "Reranking": "task: search result | query: ",
  "Retrieval": "task: search result | query: ",
  "Retrieval-query": "task: search result | query: ",
  "Retrieval-document": "title: none | text: ",
  "STS": "task: sentence similarity | query: ",
  "Summarization": "task: summarization | query: ",
}
CONFIG = {
  "_sliding_window_pattern": EVERY,
  "architectures": ["Gemma3TextModel"],
  "attention_bias": False,
  "attention_dropout": 0.0,
  "attn_logit_softcapping": None,
  "bos_token_id": 2,
  "dtype": "float32",
  "eos_token_id": 1,
  "final_logit_softcapping": None,
  "head_dim": HEAD,
  "hidden_activation": "gelu_pytorch_tanh",
  "hidden_size": WIDTH,
  "initializer_range": 0.02,
  "intermediate_size": MLP,
  "layer_types": [
    "sliding_attention" if (n + 1) % EVERY else "full_attention"
    for n in range(LAYERS)
  ],
  "max_position_embeddings": LONGEST,
  "model_type": "gemma3_text",
  "num_attention_heads": HEADS,
  "num_hidden_layers": LAYERS,
  "num_key_value_heads": 1,
  "pad_token_id": 0,
  "query_pre_attn_scalar": HEAD,
  "rms_norm_eps": 1e-06,
  "rope_local_base_freq": 10000.0,
  "rope_scaling": None,
  "rope_theta": 1000000.0,
  "sliding_window": WINDOW,
  "transformers_version": "4.57.0.dev0",
  "use_bidirectional_attention": True,
  "use_cache": True,
  "vocab_size": VOCABULARY,
}
_MODULES = {
  "Transformer": "",
  "Pooling": "1_Pooling",
  "Dense": "2_Dense",
  "Dense ": "3_Dense",
  "Normalize": "4_Normalize",
}
_POOLINGS = ("cls_token", "max_tokens", "mean_sqrt_len_tokens")
_POOLINGS += ("weightedmean_tokens", "lasttoken")


def write(folder: pathlib.Path) -> pathlib.Path:
  """Writes the folder, which is new, and returns it."""
  folder.mkdir()
  rng = np.random.default_rng(SEED)
  model = vocabulary(folder)
  (folder / "tokenizer.json").write_bytes(tokenizer_json.tokenizer_json(model))
  files = {
    "config.json": CONFIG,
    "modules.json": [
      {
        "idx": n,
        "name": str(n),
        "path": path,
        "type": f"sentence_transformers.models.{kind.strip()}",
      }
      for n, (kind, path) in enumerate(_MODULES.items())
    ],
    "config_sentence_transformers.json": {
      "model_type": "SentenceTransformer",
      "__version__": {"sentence_transformers": "5.1.0"},
      "prompts": PROMPTS,
      "default_prompt_name": None,
      "similarity_fn_name": "cosine",
    },
    "sentence_bert_config.json": {
      "max_seq_length": LONGEST,
      "do_lower_case": False,
    },
    "1_Pooling/config.json": {
      "word_embedding_dimension": WIDTH,
      "pooling_mode_mean_tokens": True,
      **{f"pooling_mode_{name}": False for name in _POOLINGS},
      "include_prompt": True,
    },
    "tokenizer_config.json": tokenizer_json.tokenizer_config(model, LONGEST),
  }
  for name, tree in files.items():
    path = folder / name
    path.parent.mkdir(exist_ok=True)
    path.write_text(json.dumps(tree), encoding="utf-8")
  save = lambda arrays, path: safetensors.numpy.save_file(
    arrays, path, {"format": "pt"}
  )
  save(_encoder(rng), folder / "model.safetensors")
  for name, into, out in (("2_Dense", WIDTH, UP), ("3_Dense", UP, WIDTH)):
    (folder / name).mkdir()
    settings = {
      "in_features": into,
      "out_features": out,
      "bias": False,
      "activation_function": "torch.nn.modules.linear.Identity",
    }
    (folder / name / "config.json").write_text(json.dumps(settings))
    weight = {"linear.weight": _matrix(rng, out, into)}
    save(weight, folder / name / "model.safetensors")
  return folder


def vocabulary(folder: pathlib.Path) -> bytes:
  """A SentencePiece model of the sample texts, which it writes there."""
  first, second = samples.sides()
  path = folder / "tokenizer.model"
  tokenizer.train_tokenizer([*first, *second] * 8, path, VOCABULARY)
  return path.read_bytes()


def _matrix(rng: np.random.Generator, out: int, into: int) -> np.ndarray:
  """As torch lays it out, of values that keep the size of what goes in."""
  return rng.standard_normal((out, into), np.float32) * np.float32(into**-0.5)


def _encoder(rng: np.random.Generator) -> dict[str, np.ndarray]:
  """The tensors of model.safetensors, under their names."""
  # Gains that are far from 1, so that every one of them matters.
  gain = lambda width: np.float32(0.3) * rng.standard_normal(width, np.float32)
  found = {
    "embed_tokens.weight": _matrix(rng, VOCABULARY, WIDTH),
    "norm.weight": gain(WIDTH),
  }
  norms = ("input_layernorm", "post_attention_layernorm")
  norms += ("pre_feedforward_layernorm", "post_feedforward_layernorm")
  matrices = {
    "self_attn.q_proj": (HEADS * HEAD, WIDTH),
    "self_attn.k_proj": (HEAD, WIDTH),
    "self_attn.v_proj": (HEAD, WIDTH),
    "self_attn.o_proj": (WIDTH, HEADS * HEAD),
    "mlp.gate_proj": (MLP, WIDTH),
    "mlp.up_proj": (MLP, WIDTH),
    "mlp.down_proj": (WIDTH, MLP),
  }
  for n in range(LAYERS):
    layer = {f"{name}.weight": gain(WIDTH) for name in norms}
    layer |= {f"self_attn.{x}_norm.weight": gain(HEAD) for x in "qk"}
    layer |= {f"{x}.weight": _matrix(rng, *s) for x, s in matrices.items()}
    found |= {f"layers.{n}.{name}": array for name, array in layer.items()}
  return found
