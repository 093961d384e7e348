"""A small random Gemma 3 decoder as GGUF, as llama.cpp's converter writes one.

Names, keys and types of pieces are written here, in the format's own package,
and not by what reads such files.
"""

import pathlib

import gguf
import numpy as np
import small

from embeddinggemma.convert import sentencepiece_model

SEED = 1
WIDTH, MLP, HEADS, HEAD, LAYERS, WINDOW = 64, 96, 2, 32, 6, 16
_SPACE = "\u2581"
_CONTROL, _UNKNOWN, _USER, _UNUSED = 3, 2, 4, 5  # types of pieces


def write(path: pathlib.Path, tokenizer: bytes) -> pathlib.Path:
  """Writes the file, of floats, with a SentencePiece model; returns it."""
  writer = gguf.GGUFWriter(path, "gemma3")
  numbers = {
    "context_length": 2048,
    "embedding_length": WIDTH,
    "block_count": LAYERS,
    "feed_forward_length": MLP,
    "attention.head_count": HEADS,
    "attention.head_count_kv": 1,
    "attention.key_length": HEAD,
    "attention.value_length": HEAD,
    "attention.sliding_window": WINDOW,
  }
  for key, number in numbers.items():
    writer.add_uint32(f"gemma3.{key}", number)
  writer.add_float32("gemma3.attention.layer_norm_rms_epsilon", 1e-6)
  writer.add_float32("gemma3.rope.freq_base", 1e6)
  _add_tokenizer(writer, tokenizer)
  for name, array in _tensors().items():
    writer.add_tensor(f"{name}.weight", array)
  writer.write_header_to_file()
  writer.write_kv_data_to_file()
  writer.write_tensors_to_file()
  writer.close()
  return path


def _add_tokenizer(writer: gguf.GGUFWriter, model: bytes) -> None:
  pieces = sentencepiece_model.parse(model).pieces
  user = [piece.type == _USER for piece in pieces]
  texts = [
    piece.text.replace(_SPACE, " ") if is_user else piece.text
    for piece, is_user in zip(pieces, user)
  ]
  spare = range(len(pieces), small.VOCABULARY)
  writer.add_tokenizer_model("llama")
  writer.add_token_list(texts + [f"[PAD{n}]" for n in spare])
  scores = [-1000.0 if u else piece.score for piece, u in zip(pieces, user)]
  writer.add_token_scores(scores + [-1e4] * len(spare))
  types = [_CONTROL if p.type == _UNKNOWN else p.type for p in pieces]
  writer.add_token_types(types + [_UNUSED] * len(spare))
  writer.add_bos_token_id(2)
  writer.add_eos_token_id(1)
  writer.add_unk_token_id(3)
  writer.add_pad_token_id(0)
  writer.add_add_bos_token(True)
  writer.add_add_eos_token(False)
  writer.add_add_space_prefix(False)


def _tensors() -> dict[str, np.ndarray]:
  """By name; gains are those of the model plus 1, and far from it."""
  rng = np.random.default_rng(SEED)
  normal = lambda *shape: rng.standard_normal(shape, np.float32)
  gain = lambda width: 1 + np.float32(0.3) * normal(width)
  matrix = lambda out, into: normal(out, into) * np.float32(into**-0.5)
  found = {
    "token_embd": matrix(small.VOCABULARY, WIDTH),
    "output_norm": gain(WIDTH),
  }
  gains = ("attn_norm", "post_attention_norm", "ffn_norm", "post_ffw_norm")
  matrices = {
    "attn_q": (HEADS * HEAD, WIDTH),
    "attn_k": (HEAD, WIDTH),
    "attn_v": (HEAD, WIDTH),
    "attn_output": (WIDTH, HEADS * HEAD),
    "ffn_gate": (MLP, WIDTH),
    "ffn_up": (MLP, WIDTH),
    "ffn_down": (WIDTH, MLP),
  }
  for n in range(LAYERS):
    block = {name: gain(WIDTH) for name in gains}
    block |= {f"attn_{x}_norm": gain(HEAD) for x in "qk"}
    block |= {name: matrix(*shape) for name, shape in matrices.items()}
    found |= {f"blk.{n}.{name}": array for name, array in block.items()}
  return found
