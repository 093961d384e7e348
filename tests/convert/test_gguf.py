"""A GGUF file holds the checkpoint: every value, integer and key, read back."""

import dataclasses
import errno
import json
import resource

import gguf
import ml_dtypes
import numpy as np
import pytest
import sentencepiece

import embeddinggemma as eg
from embeddinggemma import checkpoint, quantize
from embeddinggemma.cli import main
from embeddinggemma.convert import names
from embeddinggemma.convert.read import hugging_face
from embeddinggemma.convert.write import exporting, gguf_tensors
from embeddinggemma.convert.write.gguf import FORMAT
from embeddinggemma.convert.write.output import MARK
from embeddinggemma.data.prompts import PROMPTS
from embeddinggemma.model.config import GLOBAL, LOCAL
from embeddinggemma.types import BadInput, Stopped

TRAINED = {  # precision -> the type that holds its integers
  "int4": "q4_0",
  "q4_0": "q4_0",
  "int8": "q8_0",
  "int8_block": "q8_0",
  "mixed": "mixed",
}


def read(folder):
  """The reader of a folder's file."""
  [path] = folder.glob("*.gguf")
  return gguf.GGUFReader(path)


def value(reader, key):
  return reader.fields[key].contents()


def trained_for(spec):
  """The files of a checkpoint whose weights were trained for a precision."""
  return {"recipe.json": json.dumps({"view": quantize.VIEW + spec}).encode()}


def mark(folder):
  return json.loads((folder / MARK).read_text())


def stored(workdir, dtype=None):
  """Our name -> how the file has it."""
  return gguf_tensors.stored(exporting.opened(FORMAT, str(workdir), dtype))


def integers(tensor):
  """(out, in) integers and (out, blocks) scales of Q4_0 or Q8_0 data."""
  four = tensor.tensor_type == gguf.GGMLQuantizationType.Q4_0
  blocks = tensor.data.reshape(len(tensor.data), -1, 18 if four else 34)
  scale = blocks[..., :2].copy().view(np.float16)[..., 0]
  packed = blocks[..., 2:]
  if four:
    low, high = packed & 15, packed >> 4
    q = np.concatenate([low, high], -1).astype(np.int8) - np.int8(8)
  else:
    q = packed.view(np.int8)
  return q.reshape(len(q), -1), scale


@pytest.fixture(scope="module")
def config(config):
  """With rows of the table that no piece has."""
  return dataclasses.replace(config, vocab_size=520, num_layers=2)


@pytest.fixture(scope="module")
def model(tmp_path_factory, write_checkpoint, config):
  """The workdir of the small embedder."""
  return write_checkpoint(tmp_path_factory.mktemp("model") / "w", config)


@pytest.fixture(scope="module")
def exported(model, tmp_path_factory):
  """The small embedder's, in float32."""
  folder = tmp_path_factory.mktemp("gguf") / "out"
  exporting.export(FORMAT, str(model), folder)
  return folder


def test_the_file_holds_every_weight(model, exported):
  reader = read(exported)
  found = {tensor.name: tensor for tensor in reader.tensors}
  where, params = stored(model), dict(checkpoint.stream(checkpoint.find(model)))
  assert {tensor.name for tensor in where.values()} == set(found)
  for name, array in params.items():
    there = found[where[name].name].data
    if array.ndim == 1:
      np.testing.assert_array_equal(there, array + np.float32(1))
    else:
      np.testing.assert_array_equal(there, names.export(name, array))
  assert mark(exported)["weights"] == eg.load(model).hash
  assert (exported / "LICENSE").read_text() == "terms of the weights"


def test_the_keys_that_nothing_misses_when_they_are_wrong(
  exported, config, tokenizer_model
):
  reader, own = read(exported), "gemma-embedding."
  assert value(reader, "general.architecture") == "gemma-embedding"
  for key, want in {
    "attention.sliding_window": config.window,  # not half of it
    "attention.sliding_window_pattern": [True, False],
    "rope.freq_base": 1e6,
    "rope.freq_base_swa": 1e4,
    "pooling_type": 1,
    "dense_2_feat_in": 32,
    "dense_2_feat_out": 64,
    "dense_3_feat_in": 64,
    "dense_3_feat_out": 32,
    "attention.key_length": 16,
    "context_length": config.max_length,
  }.items():
    assert value(reader, own + key) == want, key
  assert json.loads(value(reader, "embeddinggemma.prompts")) == PROMPTS
  for key in ("add_bos_token", "add_eos_token"):
    assert value(reader, f"tokenizer.ggml.{key}") is True
  processor = sentencepiece.SentencePieceProcessor(model_proto=tokenizer_model)
  tokens = value(reader, "tokenizer.ggml.tokens")
  scores = value(reader, "tokenizer.ggml.scores")
  types = value(reader, "tokenizer.ggml.token_type")
  assert len(tokens) == len(scores) == len(types) == config.vocab_size
  spaces = processor.piece_to_id("\u2581" * 4)
  assert (tokens[spaces], types[spaces]) == ("    ", 4)  # as in the text
  for n in range(processor.vocab_size()):
    if types[n] != 4:
      assert tokens[n] == processor.id_to_piece(n)
      assert scores[n] == np.float32(processor.get_score(n))
  assert types[:4] == [3, 3, 3, 2] and types.count(6) == 256
  rest = types[processor.vocab_size() :]
  assert rest and set(rest) == {5}, "rows without a piece are unused"


@pytest.mark.parametrize("spec", TRAINED)
def test_what_was_trained_is_packed_integer_by_integer(
  write_checkpoint, config, tmp_path, spec
):
  """And what the integers stand for is what the view shows, bit for bit."""
  workdir = write_checkpoint(tmp_path / "model", config, trained_for(spec))
  folder = tmp_path / "out"
  exporting.export(FORMAT, str(workdir), folder)
  found = {tensor.name: tensor for tensor in read(folder).tensors}
  where, packed = stored(workdir), 0
  for name, raw in checkpoint.stream(checkpoint.find(workdir)):
    if raw.ndim == 1:
      continue
    tensor, path = found[where[name].name], "/".join(name)
    want = quantize.packed(path, raw, spec)
    q, scale = integers(tensor)
    np.testing.assert_array_equal(q, want.q)
    times = scale.shape[1] // want.scale.shape[1]
    np.testing.assert_array_equal(scale, np.repeat(want.scale, times, axis=1))
    shown = names.export(name, quantize.on_grid(path, raw, spec))
    theirs = gguf.dequantize(tensor.data, tensor.tensor_type)
    np.testing.assert_array_equal(theirs, shown)
    packed += 1
  assert packed == len([s for s in where.values() if len(s.shape) == 2])
  said = mark(folder)
  assert said["dtype"] == TRAINED[spec] and said["precision"] == spec
  assert said["rounded_after_training"] is False
  assert said["weights"] == eg.load(workdir).hash


@pytest.mark.parametrize("dtype", ["q8_0", "q4_0", "mixed"])
def test_a_float_model_is_rounded_to_the_grid_and_that_is_said(
  model, tmp_path, dtype
):
  exporting.export(FORMAT, str(model), tmp_path / "out", dtype)
  said = mark(tmp_path / "out")
  assert said["rounded_after_training"] is True
  assert said["precision"] == {"q8_0": "int8_block"}.get(dtype, dtype)
  where = stored(model, dtype)
  found = {tensor.name: tensor for tensor in read(tmp_path / "out").tensors}
  params = dict(checkpoint.stream(checkpoint.find(model)))
  for name in (("encoder", "embedding"), ("encoder", "layer_1", "mlp", "up")):
    seen = quantize.on_grid("/".join(name), params[name], said["precision"])
    tensor = found[where[name].name]
    theirs = gguf.dequantize(tensor.data, tensor.tensor_type)
    np.testing.assert_array_equal(theirs, names.export(name, seen))
  if dtype == "mixed":
    kind = lambda part: where["encoder", "layer_0", *part].type.name
    assert kind(("attention", "o")) == "Q8_0"
    assert kind(("mlp", "up")) == "Q4_0"


def test_bfloat16_rounds_matrices_and_no_norm(model, exported, tmp_path):
  exporting.export(FORMAT, str(model), tmp_path / "out", "bfloat16")
  exact = {tensor.name: tensor.data for tensor in read(exported).tensors}
  for tensor in read(tmp_path / "out").tensors:
    values = gguf.dequantize(tensor.data, tensor.tensor_type)
    rounded = exact[tensor.name]
    if rounded.ndim > 1:
      rounded = rounded.astype(ml_dtypes.bfloat16).astype(np.float32)
    np.testing.assert_array_equal(values, rounded)


def test_trained_weights_are_not_rounded_again(
  write_checkpoint, config, tmp_path
):
  workdir = write_checkpoint(tmp_path / "model", config, trained_for("int8"))
  for dtype in ("q4_0", "mixed", "bfloat16"):
    with pytest.raises(BadInput, match=r"off the int8 grid.* use --dtype=q8_0"):
      exporting.export(FORMAT, str(workdir), tmp_path / "out", dtype)
  exporting.export(FORMAT, str(workdir), tmp_path / "out", "float32")
  found = {tensor.name: tensor for tensor in read(tmp_path / "out").tensors}
  shown = eg.load(workdir).params["model"]["encoder"]["embedding"]
  np.testing.assert_array_equal(found["token_embd.weight"].data, shown)


@pytest.mark.parametrize(
  ("changes", "dtype", "words"),
  [
    ({"embed_dim": 64}, None, "model.embed_dim=64 of model.width=32"),
    ({"pooling": "attention"}, None, "model.pooling='attention'"),
    (
      {"mlp_width": 80},
      "q8_0",
      "'encoder/layer_0/mlp/down' of shape (80, 32) has an input of 80",
    ),
    (
      {"head_dim": 8},
      "mixed",
      "'encoder/layer_0/attention/o' of shape (2, 8, 32) has an input of 16",
    ),
    ({"width": 16, "embed_dim": 16}, "mixed", "has an input of 16"),
    ({"vocab_size": 400}, None, "pieces with a table of 400 rows"),
  ],
  ids=str,
)
def test_what_the_format_cannot_hold_is_refused_before_it_is_written(
  capsys, write_checkpoint, config, tmp_path, changes, dtype, words
):
  """By the parameter and its shape, in one line; nothing is left."""
  changed = dataclasses.replace(config, **changes)
  workdir = write_checkpoint(tmp_path / "model", changed)
  argv = ["export", f"--model={workdir}", "--format=gguf"]
  argv += [
    f"--output={tmp_path / 'out'}",
    *([f"--dtype={dtype}"] * bool(dtype)),
  ]
  assert main.call(argv) == 2
  said = capsys.readouterr().err
  assert words in said and said.count("\n") == 1
  assert list(tmp_path.iterdir()) == [workdir]


def test_a_tokenizer_of_another_kind(write_checkpoint, config, tmp_path):
  path = tmp_path / "unigram"
  sentencepiece.SentencePieceTrainer.train(
    sentence_iterator=iter(["some words of a text"] * 9),
    model_prefix=str(path),
    model_type="unigram",
    vocab_size=280,
    byte_fallback=True,
    pad_id=0,
    eos_id=1,
    bos_id=2,
    unk_id=3,
    minloglevel=2,
    hard_vocab_limit=False,
  )
  files = {"tokenizer.model": path.with_suffix(".model").read_bytes()}
  workdir = write_checkpoint(tmp_path / "model", config, files)
  with pytest.raises(BadInput, match=r"gguf cannot hold .*: it is a unigram"):
    exporting.export(FORMAT, str(workdir), tmp_path / "out")
  assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("pattern", [(GLOBAL,), (LOCAL,)])
def test_a_model_of_one_kind_of_layers_gets_a_layer_that_adds_nothing(
  write_checkpoint, config, tmp_path, pattern
):
  """llama.cpp aborts without a layer of each kind; its zeros give zeros."""
  changed = dataclasses.replace(config, pattern=pattern)
  workdir = write_checkpoint(tmp_path / "model", changed)
  exporting.export(FORMAT, str(workdir), tmp_path / "out", "q8_0")
  reader = read(tmp_path / "out")
  kinds = value(reader, "gemma-embedding.attention.sliding_window_pattern")
  local = pattern == (LOCAL,)
  assert kinds == [local] * 2 + [not local]
  added = [t for t in reader.tensors if t.name.startswith("blk.2.")]
  assert len(added) == 13 and not any(t.data.any() for t in added)


def changed_checkpoint(workdir, name, change):
  """The same checkpoint with one tensor changed."""
  place = checkpoint.find(workdir)
  params = checkpoint.read_params(place)
  leaf = params["model"]
  for key in name[:-1]:
    leaf = leaf[key]
  leaf[name[-1]] = change(leaf[name[-1]])
  files = checkpoint.read_files(place)
  target = workdir.with_name(f"{workdir.name}-{name[-1]}")
  return checkpoint.write(target, params, files)


def test_small_scales_are_exact(write_checkpoint, config, tmp_path):
  """Down to float16's smallest number; a block below it is zero."""
  workdir = write_checkpoint(tmp_path / "model", config, trained_for("int4"))
  name = ("encoder", "embedding")
  falling = np.float32(2.0) ** -np.arange(520, dtype=np.float32)[:, None]
  other = changed_checkpoint(workdir, name, lambda x: x * falling)
  exporting.export(FORMAT, str(other), tmp_path / "out")
  raw = dict(checkpoint.stream(other))[name]
  want = quantize.packed("/".join(name), raw, "int4")
  found = {tensor.name: tensor for tensor in read(tmp_path / "out").tensors}
  q, scale = integers(found["token_embd.weight"])
  np.testing.assert_array_equal(q, want.q)
  np.testing.assert_array_equal(scale, want.scale)
  assert 0 < scale[scale > 0].min() < 2**-20 and not scale[-1]


def test_a_scale_beyond_float16_is_refused(write_checkpoint, config, tmp_path):
  workdir = write_checkpoint(tmp_path / "model", config, trained_for("int4"))
  name = ("encoder", "layer_0", "mlp", "up")
  other = changed_checkpoint(workdir, name, lambda x: x * 1e7)
  with pytest.raises(BadInput, match=r"mlp/up' has a scale of .*float32"):
    exporting.export(FORMAT, str(other), tmp_path / "out")
  assert not (tmp_path / "out").exists()


def test_a_head_that_8_bits_would_spoil_is_stored_as_floats(
  write_checkpoint, config, tmp_path
):
  """A dimension far above the others, as in a table of latent semantics: what
  is rounded with it is lost. The floats are the values on the grid."""
  workdir = write_checkpoint(tmp_path / "model", config, trained_for("q4_0"))
  gain = lambda x: np.where(np.arange(len(x)) == 5, np.float32(400), x)
  other = changed_checkpoint(workdir, ("encoder", "final_norm", "scale"), gain)
  other = changed_checkpoint(
    other.parent.parent, ("up",), lambda x: x * (np.arange(32) != 5)[:, None]
  )
  exporting.export(FORMAT, str(other), tmp_path / "out")
  assert mark(tmp_path / "out")["unpacked"] == ["up", "down"]
  found = {tensor.name: tensor for tensor in read(tmp_path / "out").tensors}
  for name, theirs in (("up", "dense_2"), ("down", "dense_3")):
    raw = dict(checkpoint.stream(other))[(name,)]
    shown = names.export((name,), quantize.on_grid(name, raw, "q4_0"))
    np.testing.assert_array_equal(found[f"{theirs}.weight"].data, shown)
  assert found["token_embd.weight"].tensor_type.name == "Q4_0"
  exporting.export(FORMAT, str(workdir), tmp_path / "other")
  assert "unpacked" not in mark(tmp_path / "other")


@pytest.mark.parametrize("share", [0.3, 0.99])
def test_a_full_disk_leaves_nothing(model, exported, tmp_path, share):
  """A limit on the size of files fails the write where a full disk would."""
  [path] = exported.glob("*.gguf")
  limit = resource.getrlimit(resource.RLIMIT_FSIZE)
  room = int(path.stat().st_size * share)
  resource.setrlimit(resource.RLIMIT_FSIZE, (room, limit[1]))
  try:
    with pytest.raises(OSError) as caught:
      exporting.export(FORMAT, str(model), tmp_path / "out")
  finally:
    resource.setrlimit(resource.RLIMIT_FSIZE, limit)
  assert caught.value.errno == errno.EFBIG
  assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
  ("module", "name", "change", "words"),
  [
    (hugging_face, "full_window", lambda old: lambda c: old(c) // 2, "window"),
    (
      gguf_tensors,
      "data",
      lambda old: lambda *args: args[2] if args[2].ndim == 1 else old(*args),
      "norm.weight",
    ),
    (
      gguf.GGUFWriter,
      "add_rope_freq_base_swa",
      lambda old: lambda *args: None,
      "rope.freq_base_swa",
    ),
    (
      gguf.GGUFWriter,
      "add_add_eos_token",
      lambda old: lambda self, value: old(self, False),
      "add_eos_token",
    ),
    (
      gguf.GGUFWriter,
      "add_sliding_window_pattern",
      lambda old: lambda *args: None,
      "block_count",
    ),
    (
      gguf.GGUFWriter,
      "add_token_scores",
      lambda old: lambda *args: None,
      "the number of tokens",
    ),
    (
      gguf.GGUFWriter,
      "add_token_list",
      lambda old: lambda self, tokens: old(self, tokens[::-1]),
      "a token",
    ),
    (
      gguf_tensors,
      "_blocks",
      lambda old: lambda q, *args: old(-q, *args),
      "dense_3.weight",
    ),
  ],
  ids="window norms rope eos kinds scores tokens integers".split(),
)
def test_a_file_that_does_not_read_back_is_not_kept(
  model, tmp_path, monkeypatch, module, name, change, words
):
  monkeypatch.setattr(module, name, change(getattr(module, name)))
  with pytest.raises(Stopped, match=f"does not read back: .*{words}.* differs"):
    exporting.export(FORMAT, str(model), tmp_path / "out", "q8_0")
  assert list(tmp_path.iterdir()) == []
