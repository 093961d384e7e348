"""GGUF in: weights, keys and tokenizer of llama.cpp's files, and grids.

Embedders are those that our export writes, decoders are written here, with the
format's own package. What blocks stand for is worked out here too, from ggml's
definitions of its types.
"""

import dataclasses
import importlib.util
import json
import re
import subprocess
import sys

import gguf
import numpy as np
import pytest

import embeddinggemma as eg
from embeddinggemma import checkpoint, main, quantize
from embeddinggemma.convert import (
  exporting,
  families,
  gguf_file,
  hugging_face,
  names,
  on_grid,
  sentencepiece_model,
  tensors,
)
from embeddinggemma.convert.gguf import FORMAT
from embeddinggemma.data.prompts import PROMPTS
from embeddinggemma.data.tokenizer import Tokenizer
from embeddinggemma.model import decoder as decoder_lib
from embeddinggemma.model.config import GLOBAL, LOCAL
from embeddinggemma.types import BadInput

import llama_cpp_logits

Type = gguf.GGMLQuantizationType
TRAINED = ("int4", "q4_0", "int8", "int8_block", "mixed")
TEXTS = (
  "the red river of the north was seen at 7 o'clock",
  "def f(x):\n\treturn  x ** 2  # ok\n\n\n\nprint(f(12345))",
  " leading and trailing  ",
  "\n\n\t\t x",
  "Über Größe, ça va? Żółw. Привет мир. مرحبا. नमस्ते",
  "你好,世界。こんにちは。안녕하세요. สวัสดี 😀👍🏽",
  "Olá! ¿Qué tal? Selam, çok iyi. Habari za asubuhi. Xin chào",
  "",
)


# Of ggml's blocks of a row: (blocks, bytes) -> (blocks, values).
def _half(bytes_):
  return np.ascontiguousarray(bytes_).view(np.float16).astype(np.float32)


def _nibbles(bytes_):
  return np.concatenate([bytes_ & 15, bytes_ >> 4], axis=-1).astype(np.int32)


def q4_0(b):
  """Scale; byte i holds weights i and i + 16, each plus 8."""
  return _half(b[:, :2]) * (_nibbles(b[:, 2:]) - 8)


def q8_0(b):
  """Scale; signed bytes."""
  return _half(b[:, :2]) * b[:, 2:].view(np.int8)


def q5_0(b):
  """Scale; the fifth bits of all 32; nibbles as in Q4_0; plus 16."""
  high = np.unpackbits(b[:, 2:6], axis=-1, bitorder="little").astype(np.int32)
  return _half(b[:, :2]) * ((_nibbles(b[:, 6:]) | high << 4) - 16)


def q4_k(b):
  """Scales of scales and of minima; of 8 groups of 32 six bits of each, the
  last four's upper two in what the first four leave; pairs of groups share 32
  bytes of nibbles."""
  d, dmin = _half(b[:, :2]), _half(b[:, 2:4])
  packed = b[:, 4:16].astype(np.int32)
  found = []
  for n in range(8):
    if n < 4:
      scale, least = packed[:, n] & 63, packed[:, n + 4] & 63
    else:
      scale = packed[:, n + 4] & 15 | packed[:, n - 4] >> 6 << 4
      least = packed[:, n + 4] >> 4 | packed[:, n] >> 6 << 4
    bytes_ = b[:, 16 + 32 * (n // 2) : 48 + 32 * (n // 2)]
    q = (bytes_ >> 4 if n % 2 else bytes_ & 15).astype(np.float32)
    found.append(d * scale[:, None] * q - dmin * least[:, None])
  return np.concatenate(found, axis=-1)


def q6_k(b):
  """Lower nibbles, upper two bits, sixteen signed scales, a scale of these; in
  halves of 128, of which four rows of 32 share bytes."""
  low, high = b[:, :128].reshape(-1, 2, 64), b[:, 128:192].reshape(-1, 2, 32)
  scales, d = b[:, 192:208].view(np.int8).astype(np.float32), _half(b[:, 208:])
  rows = [
    (low[..., 32 * (n % 2) : 32 * (n % 2) + 32] >> 4 * (n // 2) & 15)
    | (high >> 2 * n & 3) << 4
    for n in range(4)
  ]
  q = np.stack(rows, axis=2).astype(np.float32).reshape(-1, 16, 16) - 32
  return (d[:, :, None] * scales[..., None] * q).reshape(len(b), 256)


UNPACK = {
  Type.Q4_0: q4_0,
  Type.Q8_0: q8_0,
  Type.Q5_0: q5_0,
  Type.Q4_K: q4_k,
  Type.Q6_K: q6_k,
}


def blocks(kind, shape, rng):
  """Random bytes of a matrix of a type, whose halves are small scales."""
  block, size = gguf.GGML_QUANT_SIZES[kind]
  raw = rng.integers(0, 256, (shape[0] * shape[1] // block, size), np.uint8)
  places = {Type.Q4_K: (0, 2), Type.Q6_K: (208,)}.get(kind, (0,))
  for at in places:
    scale = rng.uniform(0.01, 0.02, len(raw)).astype(np.float16)
    raw[:, at : at + 2] = scale[:, None].view(np.uint8)
  return raw.reshape(shape[0], -1)


@pytest.fixture(scope="module")
def decoder(config):
  """Sizes that blocks of 256 divide; six layers, of which the last is global."""
  return dataclasses.replace(
    config,
    vocab_size=520,
    num_layers=6,
    width=256,
    mlp_width=256,
    num_heads=2,
    num_kv_heads=1,
    head_dim=256,
    up_width=1024,
    embed_dim=256,
    pattern=(LOCAL,) * 5 + (GLOBAL,),
  )


def keys_of(config, **changes):
  """A decoder's keys; None leaves one out."""
  own = {
    "context_length": config.max_length,
    "embedding_length": config.width,
    "block_count": config.num_layers,
    "feed_forward_length": config.mlp_width,
    "attention.head_count": config.num_heads,
    "attention.head_count_kv": config.num_kv_heads,
    "attention.key_length": config.head_dim,
    "attention.value_length": config.head_dim,
    "attention.layer_norm_rms_epsilon": config.norm_eps,
    "attention.sliding_window": config.window,
    "rope.freq_base": config.global_rope_base,
  }
  return {f"gemma3.{key}": value for key, value in own.items()} | changes


def vocabulary(model, rows, control=("<mask>", "<unused3>")):
  """A SentencePiece model as llama.cpp's converter writes it."""
  pieces = sentencepiece_model.parse(model).pieces
  texts, scores, types = [], [], []
  for piece in pieces:
    special = piece.type in (2, 3, 4)
    texts.append(piece.text.replace("\u2581", " ") if special else piece.text)
    scores.append(-1000.0 if special else piece.score)
    types.append(3 if piece.text in control or piece.type == 2 else piece.type)
  for n in range(len(pieces), rows):
    texts, scores, types = texts + [f"[PAD{n}]"], [*scores, -1e4], [*types, 5]
  return {
    "tokenizer.ggml.model": "llama",
    "tokenizer.ggml.tokens": texts,
    "tokenizer.ggml.scores": scores,
    "tokenizer.ggml.token_type": types,
    "tokenizer.ggml.bos_token_id": 2,
    "tokenizer.ggml.eos_token_id": 1,
    "tokenizer.ggml.unknown_token_id": 3,
    "tokenizer.ggml.padding_token_id": 0,
    "tokenizer.ggml.add_bos_token": True,
    "tokenizer.ggml.add_eos_token": False,
    "tokenizer.ggml.add_space_prefix": False,
  }


def write(path, keys, stored, architecture="gemma3"):
  """A file of keys and {name: (type, data)}."""
  writer = gguf.GGUFWriter(path, architecture)
  for key, value in keys.items():
    if isinstance(value, bool):
      writer.add_bool(key, value)
    elif isinstance(value, int):
      writer.add_uint32(key, value)
    elif isinstance(value, float):
      writer.add_float32(key, value)
    elif isinstance(value, str):
      writer.add_string(key, value)
    elif value is not None:
      writer.add_array(key, value)
  for name, (kind, data) in stored.items():
    writer.add_tensor(name, np.ascontiguousarray(data), raw_dtype=kind)
  writer.write_header_to_file()
  writer.write_kv_data_to_file()
  writer.write_tensors_to_file()
  writer.close()
  return path


def named(config, rng):
  """Name of ours -> (name in the file, random values as the file has them)."""
  shapes = tensors.shapes_of(decoder_lib.init_causal(config))
  theirs = gguf.get_tensor_name_map(gguf.MODEL_ARCH.GEMMA3, config.num_layers)
  found = {}
  for name, shape in shapes.items():
    label = theirs.get_name(
      f"model.{names.theirs(name[1:], names.GEMMA3)}", (".weight",)
    )
    size = names.exported_shape(name, shape)
    gain = 0.3 if len(size) == 1 else size[-1] ** -0.5
    values = rng.standard_normal(size, np.float32) * np.float32(gain)
    found[name] = label, values + (len(size) == 1)
  return found


def ours(name, values, shape):
  """Values of the file as our tree has them."""
  if len(shape) == 1:
    return values - np.float32(1)
  if name[-1] == "embedding":
    return values
  return values.T.reshape(shape)


@pytest.fixture(scope="module")
def written(decoder, tokenizer_model, tmp_path_factory):
  """A decoder's file in float32, and its tensors as ours."""
  found = named(decoder, np.random.default_rng(0))
  stored = {label: (Type.F32, values) for label, values in found.values()}
  keys = keys_of(decoder) | vocabulary(tokenizer_model, decoder.vocab_size)
  path = tmp_path_factory.mktemp("gguf") / "decoder.gguf"
  shapes = tensors.shapes_of(decoder_lib.init_causal(decoder))
  params = {n: ours(n, v, shapes[n]) for n, (_, v) in found.items()}
  return write(path, keys, stored), params


def assert_tensors(found, want):
  assert found.tensors.keys() == want.keys()
  for name, tensor in found.tensors.items():
    np.testing.assert_array_equal(tensor.read(), want[name], str(name))


def test_a_decoder(written, decoder):
  """Norms without their 1, and layers of the architecture's own pattern."""
  path, params = written
  found = families.read(path)
  assert_tensors(found, params)
  assert found.config == decoder
  assert not found.is_embedder and not found.notes


def test_a_folder_means_its_only_file(written, tmp_path):
  path, _ = written
  assert families.read(path.parent).tensors
  folder = tmp_path / "two"
  folder.mkdir()
  for name in ("a.gguf", "b.gguf"):
    (folder / name).symlink_to(path)
  with pytest.raises(BadInput, match=r"holds a\.gguf, b\.gguf; give one"):
    families.read(folder)
  digest = tmp_path / "sha256-0123"  # as Ollama names them
  digest.symlink_to(path)
  assert families.read(digest).tensors


def test_every_type_that_the_package_unpacks(
  decoder, tokenizer_model, tmp_path
):
  """Each matrix of another type; five of them are unpacked here."""
  rng = np.random.default_rng(0)
  kinds = [kind for kind in Type if gguf_file.unpacks(kind)]
  assert len(kinds) > 20
  stored, want, seen = {}, {}, []
  order = [*UNPACK, *(kind for kind in kinds if kind not in UNPACK)]
  shapes = tensors.shapes_of(decoder_lib.init_causal(decoder))
  for name, (label, values) in named(decoder, rng).items():
    kind = Type.F32
    if values.ndim == 2:
      kind = order[len(seen) % len(order)]
      seen.append(kind)
    if kind in (Type.F32, Type.F16, Type.BF16):
      data = gguf.quantize(values, kind)
      exact = gguf.dequantize(data, kind)
    else:
      data = blocks(kind, values.shape, rng)
      exact = None
      if kind in UNPACK:
        size = gguf.GGML_QUANT_SIZES[kind][1]
        exact = UNPACK[kind](data.reshape(-1, size)).reshape(values.shape)
    stored[label] = (kind, data)
    if exact is not None:
      want[name] = ours(name, exact, shapes[name])
  assert set(seen) == set(kinds)
  keys = keys_of(decoder) | vocabulary(tokenizer_model, decoder.vocab_size)
  found = families.read(write(tmp_path / "x.gguf", keys, stored))
  for name, tensor in found.tensors.items():
    values = tensor.read()
    assert values.shape == shapes[name] and values.dtype == np.float32
    if name in want:
      np.testing.assert_array_equal(values, want[name], str(name))
  assert found.source["tensor_types"]["Q4_K"] > 1
  [note] = found.notes
  assert "Q6_K" in note and f"of {len(stored)} tensors" in note


@pytest.mark.parametrize(
  ("changes", "want"),
  [
    ({"rope.freq_base_swa": 5e3}, {"local_rope_base": 5e3}),
    (
      {"rope.local.freq_base": 5e3, "rope.global.freq_base": 2e6},
      {"local_rope_base": 5e3, "global_rope_base": 2e6},
    ),
    (
      {"rope.scaling.type": "linear", "rope.scaling.factor": 8.0},
      {"global_rope_factor": 8.0},
    ),
    (
      {"attention.sliding_window_pattern": 2},
      {"pattern": (LOCAL, GLOBAL)},
    ),
    (
      {"attention.sliding_window_pattern": [True, False, False] * 2},
      {"pattern": (LOCAL, GLOBAL, GLOBAL)},
    ),
    ({"attention.head_count_kv": [1] * 6}, {}),
    ({"vision.block_count": 27, "mm.tokens_per_image": 256}, {}),
  ],
)
def test_what_keys_say(written, tmp_path, decoder, changes, want):
  path = changed(written[0], tmp_path, changes)
  assert families.read(path).config == dataclasses.replace(decoder, **want)


def changed(path, folder, changes, tensor=lambda name, kind, data: (kind, data)):
  """The file with other keys of its architecture (those with a colon: any)."""
  reader = gguf.GGUFReader(path)
  architecture = reader.fields["general.architecture"].contents()
  keys = {
    key: field.contents()
    for key, field in reader.fields.items()
    if not key.startswith("GGUF.") and key != "general.architecture"
  }
  for key, value in changes.items():
    architecture = value if key == ":general.architecture" else architecture
    name = key[1:] if key[0] == ":" else f"gemma3.{key}"
    keys[name] = None if key == ":general.architecture" else value
  stored = {}
  for found in reader.tensors:
    made = tensor(found.name, found.tensor_type, found.data)
    if made is not None:
      stored[found.name] = made
  return write(folder / "changed.gguf", keys, stored, architecture)


def refused(capsys, path, workdir):
  """The one line that the verb says; nothing is left behind."""
  assert main.call(["import", f"--from={path}", f"--workdir={workdir}"]) == 2
  [line] = capsys.readouterr().err.strip().splitlines()
  assert not (workdir / "checkpoints").exists()
  return line


@pytest.mark.parametrize(
  ("changes", "words"),
  [
    ({":general.architecture": "llama"}, "architecture 'llama'.*gemma3.*gemma-"),
    ({":general.type": "adapter"}, "'adapter'; what can be imported"),
    ({":split.count": 2}, "one of 2 parts.*--merge"),
    ({":tokenizer.ggml.model": "gpt2"}, "model='gpt2' is not supported"),
    ({":tokenizer.ggml.scores": None}, "has no tokenizer.ggml.scores"),
    ({":tokenizer.ggml.scores": [0.0] * 9}, "520, 9, 520 long"),
    ({":tokenizer.ggml.bos_token_id": 1}, "bos_token_id=1 is not supp.*2"),
    ({"rope.freq_base": None}, "rope.freq_base is missing"),
    ({"attention.sliding_window": None}, "sliding_window is missing"),
    ({"attention.head_count": 2.5}, "head_count=2.5 is not a whole number"),
    ({"attention.head_count": [2, 2, 2, 2, 2, 4]}, "head_count differs by layer"),
    ({"attention.head_count": 4}, "attn_.* has shape"),
    ({"attention.value_length": 128}, "value_length=128 is not that of keys"),
    ({"attention.sliding_window_pattern": [True]}, "1 values for 6 layers"),
    ({"attention.sliding_window_pattern": "x"}, "neither a period nor a list"),
    ({"attention.causal": False}, "attention.causal=False"),
    ({"block_count": 7}, "block_count=7, where tensors of 6 layers"),
    ({"block_count": 2**31}, "where tensors of 6 layers"),
    ({"embedding_length": 512}, "'token_embd.weight' has shape"),
    ({"rope.scaling.type": "yarn"}, "'yarn' is not supported"),
    ({"final_logit_softcapping": 30.0}, "softcapping=30.0 is not supported"),
    ({"attention.scale": 0.1}, "attention.scale=0.1.* may decide vectors"),
    ({"rope.dimension_count": 64}, "dimension_count=64.*only 256"),
    ({"pooling_type": 1}, "lacks dense_2.weight and dense_3.weight.*about 0"),
  ],
)
def test_what_is_refused_by_name(written, tmp_path, capsys, changes, words):
  path = changed(written[0], tmp_path, changes)
  line = refused(capsys, path, tmp_path / "w")
  assert re.search(words, line), line
  assert str(path) in line


@pytest.mark.parametrize(
  ("change", "words"),
  [
    (lambda n, k, d: None if n == "output_norm.weight" else (k, d), "missing"),
    (lambda n, k, d: None if n == "token_embd.weight" else (k, d), "missing"),
    (
      lambda n, k, d: (Type.I32, d.view(np.int32)) if "ffn_up" in n else (k, d),
      r"'blk\.0\.ffn_up\.weight' is I32, which cannot be unpacked.*Q6_K",
    ),
    (
      lambda n, k, d: (k, d[:, :128]) if "attn_q.w" in n else (k, d),
      r"attn_q.weight' has shape \(512, 128\)",
    ),
  ],
)
def test_tensors_that_are_wrong(written, tmp_path, capsys, change, words):
  path = changed(written[0], tmp_path, {}, change)
  line = refused(capsys, path, tmp_path / "w")
  assert re.search(words, line), line
