"""GGUF in: weights, keys and tokenizer of llama.cpp's files, and grids.

Embedders are those that our export writes, decoders are written here, with the
format's own package. What blocks stand for is worked out here too, from ggml's
definitions of its types.
"""

import dataclasses
import importlib.util
import json
import pathlib
import re
import subprocess
import sys

import gguf
import jax
import jax.numpy as jnp
import numpy as np
import pytest

import embeddinggemma as eg
from embeddinggemma import checkpoint, quantize, saved, soups
from embeddinggemma.cli import main
from embeddinggemma.config import sibling
from embeddinggemma.convert import names, sentencepiece_model, tensors
from embeddinggemma.convert.read import (
  families,
  gguf_file,
  on_grid,
)
from embeddinggemma.convert.write import exporting, sentence_transformers
from embeddinggemma.convert.write.gguf import FORMAT
from embeddinggemma.data.prompts import PROMPTS
from embeddinggemma.data.tokenizer import Tokenizer
from embeddinggemma.model import decoder as decoder_lib
from embeddinggemma.model import identity
from embeddinggemma.model.config import GLOBAL, LOCAL
from embeddinggemma.training import stages
from embeddinggemma.training import start as starting
from embeddinggemma.types import BadInput

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
    max_length=1024,
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
  rest = rows - len(pieces)
  texts += [f"[PAD{n}]" for n in range(len(pieces), rows)]
  scores, types = scores + [-1e4] * rest, types + [5] * rest
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
  with pytest.raises(BadInput, match="is a language model, which has no"):
    eg.load(path)


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


@pytest.mark.filterwarnings("ignore:(invalid value|overflow):RuntimeWarning")
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


def changed(
  path, folder, changes, tensor=lambda name, kind, data: (kind, data)
):
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
  assert not workdir.exists()
  return line


@pytest.mark.parametrize(
  ("changes", "words"),
  [
    (
      {":general.architecture": "llama"},
      "architecture 'llama'.*gemma3.*gemma-",
    ),
    ({":general.type": "adapter"}, "'adapter'; what can be imported"),
    ({":split.count": 2}, "one of 2 parts.*--merge"),
    ({":tokenizer.ggml.model": "gpt2"}, "model='gpt2' is not supported"),
    ({":tokenizer.ggml.scores": None}, "has no tokenizer.ggml.scores"),
    ({":tokenizer.ggml.scores": [0.0] * 9}, "520, 9, 520 long"),
    ({":tokenizer.ggml.bos_token_id": 1}, "bos_token_id=1 is not supp.*2"),
    ({"rope.freq_base": None}, "rope.freq_base is missing"),
    ({"attention.sliding_window": None}, "sliding_window is missing"),
    ({"attention.head_count": 2.5}, "head_count=2.5 is not a whole number"),
    (
      {"attention.head_count": [2, 2, 2, 2, 2, 4]},
      "head_count differs by layer",
    ),
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


def patched(path, folder, at, raw):
  """The file with other bytes at a place."""
  content = bytearray(path.read_bytes())
  content[at : at + len(raw)] = raw
  target = folder / "patched.gguf"
  target.write_bytes(content)
  return target


def number(value, size=8):
  return value.to_bytes(size, "little")


@pytest.mark.parametrize(
  ("at", "raw", "words"),
  [
    (0, b"GGML", r"is not a GGUF file: it begins with b'GGML'"),
    (0, b"version https://", "is a Git LFS pointer"),
    (4, (3).to_bytes(4, "big"), "is big-endian"),
    (4, number(4, 4), "is GGUF version 4; 2 and 3 can be read"),
    (4, number(1, 4), "is GGUF version 1"),
    (8, number(2**60), f"{2**60} tensors in a file of"),
    (16, number(2**62), f"{2**62} keys in a file of"),
    (
      24,
      number(2**50),
      "is cut short or corrupt: it has .* bytes, and its head",
    ),
    (32, b"\n", r"the key '\\n.*' with control characters"),
    (32, b"\xff\xfe", "text that is not UTF-8"),
  ],
)
def test_a_header_that_is_wrong(written, tmp_path, capsys, at, raw, words):
  """Nothing of the size that it claims is allocated."""
  path = patched(written[0], tmp_path, at, raw)
  line = refused(capsys, path, tmp_path / "w")
  assert re.search(words, line) and str(path) in line, line


def test_an_absurd_list_or_tensor_is_refused_before_it_is_read(
  written, tmp_path
):
  path, _ = written
  content = path.read_bytes()
  for name, skip, words in (
    (b"tokenizer.ggml.tokens", 8, "list of .* texts"),
    (b"tokenizer.ggml.scores", 8, "cut short or corrupt"),
    (b"token_embd.weight", 4, "lies over what is before"),
  ):
    at = content.index(name) + len(name) + skip
    with pytest.raises(BadInput, match=words):
      families.read(patched(path, tmp_path, at, number(2**40)))
  twice = content.index(b"blk.1.attn_q.weight")
  with pytest.raises(
    BadInput, match=r"the tensor 'blk\.0\.attn_q\.weight' twice"
  ):
    families.read(patched(path, tmp_path, twice, b"blk.0"))
  kind = content.index(b"output_norm.weight") + len(b"output_norm.weight") + 12
  with pytest.raises(
    BadInput, match=r"'output_norm\.weight' is of type number 99"
  ):
    families.read(patched(path, tmp_path, kind, number(99, 4)))
  with pytest.raises(
    BadInput, match=r"'output_norm\.weight' lies over what is"
  ):
    families.read(patched(path, tmp_path, kind + 4, number(32)))


def test_any_damage_of_a_header_is_refused_or_harmless(written, tmp_path):
  """Of bytes that are changed at random, outside of the vocabulary."""
  content = written[0].read_bytes()
  start = min(
    t.start for t in gguf_file.read_header(written[0]).tensors.values()
  )
  words = range(
    content.index(b"tokenizer.ggml.tokens") + 60,
    content.index(b"tokenizer.ggml.token_type"),
  )
  places = [at for at in range(start) if at not in words]
  rng, refusals = np.random.default_rng(0), 0
  for at in rng.choice(places, 60):
    raw = bytes([rng.choice([0, 1, 255, content[at] ^ 16])])
    try:
      families.read(patched(written[0], tmp_path, int(at), raw))
    except BadInput:
      refusals += 1
  assert refusals > 40


@pytest.mark.parametrize("share", [0.0, 1e-5, 0.005, 0.5, 0.99])
def test_a_file_that_is_cut_short(written, tmp_path, capsys, share):
  """In its tensors, both sizes are told."""
  content = written[0].read_bytes()
  path = tmp_path / "short.gguf"
  path.write_bytes(content[: int(share * len(content))])
  line = refused(capsys, path, tmp_path / "w")
  assert re.search("is not a GGUF|is cut short", line), line
  if share >= 0.5:
    assert f"it has {int(share * len(content))} of {len(content)} bytes" in line


def test_a_part_of_a_split_model(written, tmp_path):
  path = tmp_path / "model-00001-of-00002.gguf"
  path.write_bytes(written[0].read_bytes())
  with pytest.raises(BadInput, match="is one of 2 parts of a model"):
    families.read(path)


@pytest.mark.parametrize("same", [True, False])
def test_an_output_beside_the_table(written, tmp_path, same):
  """It counts if it is the table."""
  path, params = written
  table = params["decoder", "embedding"]
  stored = {
    "output.weight": (Type.F32, table if same else table + 1),
    "mm.input_projection.weight": (Type.F32, np.ones((2, 2), np.float32)),
  }
  reader = gguf.GGUFReader(path)
  stored |= {t.name: (t.tensor_type, t.data) for t in reader.tensors}
  keys = {
    key: field.contents()
    for key, field in reader.fields.items()
    if not key.startswith("GGUF.") and key != "general.architecture"
  }
  made = write(tmp_path / "x.gguf", keys, stored)
  if same:
    assert families.read(made).left_out == 1
  else:
    with pytest.raises(BadInput, match=r"'output\.weight' differs from"):
      families.read(made)


def test_27b_is_refused(written, decoder, tmp_path):
  more = {
    f"blk.{n}.attn_norm.weight": (Type.F32, np.ones(4)) for n in range(62)
  }
  table = {"token_embd.weight": (Type.F32, np.ones((520, 256), np.float32))}
  keys = keys_of(decoder) | {"gemma3.block_count": 62}
  with pytest.raises(BadInput, match="is Gemma 3 27B"):
    families.read(write(tmp_path / "x.gguf", keys, table | more))


def ids(model):
  return [Tokenizer(model).encode(text).tolist() for text in TEXTS]


def test_the_tokenizer_comes_from_the_file(written, tokenizer_model):
  """Same pieces and ids as the model that the file was made from, whose types
  and scores the converter changes; `[PADn]` rows have no piece."""
  made = families.read(written[0]).tokenizer
  want = sentencepiece_model.parse(tokenizer_model)
  assert sentencepiece_model.parse(made) == want
  assert ids(made) == ids(tokenizer_model)
  literal = "a <unused3> and <mask> <bos> <start_of_turn>x"
  assert np.array_equal(
    Tokenizer(made).encode(literal), Tokenizer(tokenizer_model).encode(literal)
  )


@pytest.mark.parametrize(
  ("change", "words"),
  [
    (lambda rows: rows.__setitem__(400, rows[401]), "twice"),
    (lambda rows: rows.__setitem__(400, ""), "an empty piece"),
  ],
)
def test_a_vocabulary_that_is_corrupt(written, tmp_path, change, words):
  tokens = gguf.GGUFReader(written[0]).fields["tokenizer.ggml.tokens"]
  rows = tokens.contents()
  change(rows)
  path = changed(written[0], tmp_path, {":tokenizer.ggml.tokens": rows})
  with pytest.raises(BadInput, match=f"its tokenizer has .*{words}"):
    families.read(path)


needs_llama = pytest.mark.skipif(
  not importlib.util.find_spec("xllamacpp"), reason="xllamacpp is not installed"
)


def ask_llama(path, folder, texts, logits):
  """Rows of llama.cpp: ids, and logits by id."""
  ask, reply = folder / "ask.json", folder / "reply.json"
  ask.write_text(json.dumps({"texts": texts, "logits": logits}))
  program = pathlib.Path(__file__).parent / "llama_cpp_logits.py"
  subprocess.run(
    [sys.executable, program, path, ask, reply], check=True, timeout=600
  )
  return json.loads(reply.read_text())


@needs_llama
def test_tokens_and_logits_are_llama_cpps(written, decoder, tmp_path):
  """Of a file of floats, which it multiplies as they are; some texts are longer
  than the window."""
  path, params = written
  texts = [text for text in TEXTS if text]
  rows = ask_llama(path, tmp_path, texts, logits=True)
  found = families.read(path)
  tokenizer = Tokenizer(found.tokenizer)
  decode = jax.jit(decoder_lib.causal_group(found.config))
  assert max(len(row["ids"]) for row in rows) > 2 * decoder.window
  for text, row in zip(texts, rows, strict=True):
    own = tokenizer._processor.encode(text)
    assert own == row["ids"]
    x = jnp.array([[2, *own]])
    model = {"model": checkpoint.nest(params)}
    hidden, table = decode(model, x, jnp.ones_like(x))
    logits = np.asarray(hidden[0, -1] @ table.T)
    theirs = np.full_like(logits, np.nan)
    for place, value in row["logits"]:
      theirs[place] = value
    there = np.isfinite(theirs)
    assert there.sum() == len(logits)
    assert np.argmax(logits) == np.argmax(theirs)
    assert np.corrcoef(logits, theirs)[0, 1] > 0.99999


def export(workdir, folder, dtype=None):
  exporting.export(FORMAT, str(workdir), folder, dtype)
  [path] = folder.glob("*.gguf")
  return path


def bring(path, workdir):
  """The recipe of what the verb made of a file."""
  assert main.call(["import", f"--from={path}", f"--workdir={workdir}"]) == 0
  files = checkpoint.read_files(checkpoint.find(workdir))
  return json.loads(files["recipe.json"])


@pytest.fixture(scope="module")
def config_of_files(config):
  """With rows of the table that no piece has."""
  return dataclasses.replace(config, vocab_size=520, num_layers=2)


@pytest.fixture(scope="module")
def workdir(write_checkpoint, config_of_files, tmp_path_factory):
  """Of an embedder whose prompts are its own."""
  own = {"prompts.json": json.dumps(dict(PROMPTS) | {"mine": "m: "}).encode()}
  folder = tmp_path_factory.mktemp("model") / "w"
  return write_checkpoint(folder, config_of_files, own)


def test_an_embedder_that_we_exported_comes_back(workdir, tmp_path, capsys):
  """Weights, config, prompts, tokenizer, terms; its weights are on no grid."""
  path = export(workdir, tmp_path / "out")
  recipe = bring(path, tmp_path / "w")
  said = capsys.readouterr()
  assert "rounded" not in said.err and "grid" not in said.err
  assert recipe["grid"] == quantize.FLOAT and recipe["view"] == "identity"
  assert recipe["source"]["file_type"] == "ALL_F32"
  before, after = eg.load(workdir), eg.load(tmp_path / "w")
  assert identity.same_model(before.config, after.config)
  assert after.prompts == before.prompts and after.prompts["mine"] == "m: "
  assert after.tokenizer.pieces == before.tokenizer.pieces
  for text in TEXTS:
    np.testing.assert_array_equal(
      after.tokenizer.encode(text), before.tokenizer.encode(text)
    )
  want = before.encode(list(TEXTS))
  np.testing.assert_allclose(after.encode(list(TEXTS)), want, atol=2e-6)
  np.testing.assert_array_equal(
    eg.load(path).encode(list(TEXTS)), after.encode(list(TEXTS))
  )
  files = checkpoint.read_files(checkpoint.find(tmp_path / "w"))
  assert files["LICENSE"] == b"terms of the weights"


@pytest.mark.parametrize("kind", [LOCAL, GLOBAL])
def test_a_layer_that_llama_cpp_wants_is_no_change(
  write_checkpoint, config_of_files, tmp_path, capsys, kind
):
  """The file of a model of one layer has two, and says so of itself."""
  one = dataclasses.replace(config_of_files, num_layers=1, pattern=(kind,))
  path = export(write_checkpoint(tmp_path / "one", one), tmp_path / "out")
  capsys.readouterr()
  model = eg.load(path)
  assert capsys.readouterr().err == ""
  assert model.config.num_layers == 2
  want = eg.load(tmp_path / "one").encode(list(TEXTS))
  np.testing.assert_allclose(model.encode(list(TEXTS)), want, atol=2e-6)


@pytest.mark.parametrize("spec", TRAINED)
def test_a_grid_is_recognised_and_packed_again_bit_by_bit(
  write_checkpoint, config_of_files, tmp_path, capsys, spec
):
  files = on_the_grid_of(spec)
  trained = write_checkpoint(tmp_path / "model", config_of_files, files)
  first = export(trained, tmp_path / "first")
  recipe = bring(first, tmp_path / "w")
  said = " ".join(capsys.readouterr().err.split())
  assert f"weights lie on the grid of {spec}" in said
  assert "weights were rounded to Q" in said
  assert (recipe["grid"], recipe["view"]) == (spec, "identity")
  second = export(tmp_path / "w", tmp_path / "second")
  before, after = map(gguf.GGUFReader, (first, second))
  theirs = {tensor.name: tensor for tensor in before.tensors}
  assert first.name == second.name and len(after.tensors) == len(theirs)
  for tensor in after.tensors:
    assert tensor.tensor_type == theirs[tensor.name].tensor_type
    np.testing.assert_array_equal(tensor.data, theirs[tensor.name].data)
  model = eg.load(tmp_path / "w")
  assert model.precision == spec
  np.testing.assert_array_equal(
    model.encode(list(TEXTS)),
    eg.load(tmp_path / "w", precision="float").encode(list(TEXTS)),
  )
  other = "bfloat16" if spec != "int8" else "q4_0"
  with pytest.raises(BadInput, match=f"off the {spec} grid"):
    export(tmp_path / "w", tmp_path / "third", other)


def on_the_grid_of(spec):
  """The files of a checkpoint that was trained for a precision."""
  return {"recipe.json": json.dumps({"view": quantize.VIEW + spec}).encode()}


@pytest.mark.parametrize("spec", ["q4_0", "int8_block", "mixed"])
def test_floats_of_another_format_that_lie_on_a_grid(
  write_checkpoint, config_of_files, tmp_path, spec
):
  """As checkpoints of quantisation-aware training are published: exported to
  GGUF they are what the training itself would have exported."""
  files = on_the_grid_of(spec)
  trained = write_checkpoint(tmp_path / "model", config_of_files, files)
  folder = tmp_path / "st"
  exporting.export(sentence_transformers.FORMAT, str(trained), folder)
  assert bring(folder, tmp_path / "w")["grid"] == spec
  before = gguf.GGUFReader(export(trained, tmp_path / "first"))
  after = gguf.GGUFReader(export(tmp_path / "w", tmp_path / "second"))
  for theirs, tensor in zip(before.tensors, after.tensors, strict=True):
    assert theirs.name == tensor.name
    np.testing.assert_array_equal(theirs.data, tensor.data)


def test_training_on_from_a_grid_is_training_of_floats(
  write_checkpoint, config_of_files, tmp_path, data_folder
):
  """Where the weights of training for that grid are refused; a mean of what is
  on it is not on it."""
  files = on_the_grid_of("q4_0")
  trained = write_checkpoint(tmp_path / "model", config_of_files, files)
  path = export(trained, tmp_path / "out")
  bring(path, tmp_path / "w")
  shipped = pathlib.Path(__file__).parents[2] / "configs" / "any"
  tree = sibling(str(shipped), "finetune").get_config(
    f"tiny,data={data_folder}"
  )
  tree = tree.to_dict() | {"model": dataclasses.asdict(config_of_files)}
  own = lambda place: stages.build(tree | {"init_from": str(place)})
  start = own(tmp_path / "w")
  starting.check(start)
  assert stages.kind_of(start).view(start) == "identity"
  with pytest.raises(BadInput, match="was trained to be seen in q4_0"):
    starting.check(own(trained))
  soups.soup([tmp_path / "w"] * 2, None, tmp_path / "mean")
  assert saved.read(tmp_path / "w").precision == "q4_0"
  assert saved.read(tmp_path / "mean").precision == quantize.FLOAT


def test_floats_are_on_no_grid_and_one_small_matrix_tells(workdir, tmp_path):
  found = families.read(export(workdir, tmp_path / "out"))
  read = []

  def watched(name, tensor):
    def look():
      read.append(name)
      return tensor.read()

    return dataclasses.replace(tensor, read=look)

  model = found._replace(
    tensors={name: watched(name, t) for name, t in found.tensors.items()}
  )
  assert on_grid.recognise(model) == (quantize.FLOAT, "")
  [name] = read
  sizes = [t.size for t in found.tensors.values() if len(t.shape) > 1]
  assert found.tensors[name].size == min(sizes)


def test_a_mixture_of_types_is_on_no_single_grid(workdir, tmp_path, capsys):
  """As llama-quantize makes it: the table in more bits than the layers."""
  path = export(workdir, tmp_path / "out", "q4_0")
  table = gguf.GGUFReader(path).tensors

  def finer(name, kind, data):
    if name != "token_embd.weight":
      return kind, data
    rng = np.random.default_rng(0)
    values = rng.standard_normal((520, 32), np.float32)
    return Type.Q8_0, gguf.quantize(values, Type.Q8_0)

  assert any(tensor.name == "token_embd.weight" for tensor in table)
  mixed = changed(path, tmp_path, {}, finer)
  recipe = bring(mixed, tmp_path / "w")
  said = " ".join(capsys.readouterr().err.split())
  assert recipe["grid"] == quantize.FLOAT
  assert "the grid of q4_0, but not encoder/embedding: no single grid" in said
  assert "rounded to Q4_0, Q8_0" in said
  assert eg.load(tmp_path / "w").precision == quantize.FLOAT


def test_ollamas_names(workdir, tmp_path, capsys):
  """gemma3 with a pooling type, dense.0 and dense.1, no prompts; a window that
  transformers halved is refused."""
  path = export(workdir, tmp_path / "out")
  reader = gguf.GGUFReader(path)
  own, keys = "gemma-embedding.", {}
  for key, field in reader.fields.items():
    if not key.startswith(("GGUF.", "general.arch", "embeddinggemma.")):
      keys[key.replace(own, "gemma3.")] = field.contents()
  spelled = {
    "dense_2.weight": "dense.0.weight",
    "dense_3.weight": "dense.1.weight",
  }
  stored = {
    spelled.get(t.name, t.name): (t.tensor_type, t.data) for t in reader.tensors
  }
  found = families.read(write(tmp_path / "x.gguf", keys, stored))
  assert_tensors(
    found, {n: t.read() for n, t in families.read(path).tensors.items()}
  )
  assert found.prompts == PROMPTS
  assert any("EmbeddingGemma's published" in note for note in found.notes)
  for change, words in (
    ({"gemma3.attention.sliding_window": 257}, "sliding_window=257 is odd"),
    ({"gemma3.pooling_type": 3}, "pooling_type=3 is not supported"),
    ({"gemma3.attention.causal": True}, "attention.causal=True"),
    ({"gemma3.dense_2_feat_out": 63}, "dense_2_feat_out=63, where"),
    ({"tokenizer.ggml.add_eos_token": False}, "add_eos_token=False"),
    (
      {"embeddinggemma.prompts": "[]"},
      "embeddinggemma.prompts holds no prompts",
    ),
    ({"embeddinggemma.prompts": '{"query": ""}'}, "lacks 'document'"),
  ):
    wrong = write(tmp_path / "wrong.gguf", keys | change, stored)
    assert re.search(words, refused(capsys, wrong, tmp_path / "w")), words
