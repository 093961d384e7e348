"""Our vectors are those of sentence-transformers, from the same folder.

Folders that it saved itself, of random weights, and folders that we exported.
"""

import json
import shutil

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from rich.console import Console

import embeddinggemma as eg
from embeddinggemma import doctor
from embeddinggemma.convert import tensors
from embeddinggemma.convert.read import families
from embeddinggemma.convert.write import exporting, tokenizer_json
from embeddinggemma.convert.write.sentence_transformers import FORMAT
from embeddinggemma.data import samples
from embeddinggemma.data.prompts import PROMPTS
from embeddinggemma.model import embedder

torch = pytest.importorskip("torch")
transformers = pytest.importorskip("transformers", minversion="5")
st = pytest.importorskip("sentence_transformers", minversion="6")

WINDOW = 8
LENGTHS = (1, 2, 3, 4, 5, 8, 9, 24)  # 1, 2, around half of it and it, 3 times
ATOL = 1e-5


def sentence_transformer(folder, tokenizer_model, window):
  """A random EmbeddingGemma, put together with its own classes."""
  from sentence_transformers.base.modules import dense, normalize, transformer
  from sentence_transformers.sentence_transformer.modules import pooling

  torch.manual_seed(0)
  theirs = transformers.Gemma3TextModel(
    transformers.Gemma3TextConfig(
      vocab_size=512,
      hidden_size=32,
      intermediate_size=48,
      num_hidden_layers=3,
      num_attention_heads=4,
      num_key_value_heads=2,
      head_dim=8,
      query_pre_attn_scalar=8,
      sliding_window=window,
      layer_types=["sliding_attention", "full_attention", "sliding_attention"],
      use_bidirectional_attention=True,
      attn_implementation="eager",
      max_position_embeddings=64,
    )
  )
  base = folder / "base"
  theirs.save_pretrained(base)
  (base / "tokenizer.json").write_bytes(
    tokenizer_json.tokenizer_json(tokenizer_model)
  )
  settings = tokenizer_json.tokenizer_config(tokenizer_model, 64)
  (base / "tokenizer_config.json").write_text(json.dumps(settings))
  identity = torch.nn.Identity()
  model = st.SentenceTransformer(
    modules=[
      transformer.Transformer(str(base)),
      pooling.Pooling(32, "mean"),
      dense.Dense(32, 96, bias=False, activation_function=identity),
      dense.Dense(96, 32, bias=False, activation_function=identity),
      normalize.Normalize(),
    ],
    prompts=dict(PROMPTS),
    device="cpu",
  )
  for parameter in model.parameters():
    scale = 0.3 if parameter.ndim == 1 else parameter.shape[-1] ** -0.5
    torch.nn.init.normal_(parameter, std=scale)
  model.save(str(folder / "saved"))
  (folder / "saved" / "tokenizer.model").write_bytes(tokenizer_model)
  return model.eval(), folder / "saved"


def texts():
  rng = np.random.default_rng(0)
  return [rng.integers(4, 400, n, dtype=np.int32) for n in LENGTHS]


def theirs_of(model, some):
  """Vectors of ids, as one padded batch."""
  longest = max(map(len, some))
  ids = np.zeros((len(some), longest), np.int64)
  mask = np.zeros_like(ids)
  for row, text in enumerate(some):
    ids[row, : len(text)], mask[row, : len(text)] = text, 1
  given = {
    "input_ids": torch.from_numpy(ids),
    "attention_mask": torch.from_numpy(mask),
  }
  with torch.no_grad():
    return model(given)["sentence_embedding"].numpy()


def ours_of(config, params, some, rows):
  """Vectors of ids, packed as `rows` says."""
  ids = np.zeros((len(rows), 64), np.int32)
  segment_ids = np.full(ids.shape, len(some), np.int32)
  for r, members in enumerate(rows):
    start = 0
    for s in members:
      place = slice(start, start + len(some[s]))
      ids[r, place], segment_ids[r, place] = some[s], s
      start = place.stop
  run = jax.jit(embedder.encode_group(config))
  present = np.isin(np.arange(len(some)), [s for row in rows for s in row])
  return run(
    params, jnp.asarray(ids), jnp.asarray(segment_ids), jnp.asarray(present)
  )


@pytest.mark.parametrize("window", [WINDOW, WINDOW - 1])
def test_what_it_saved_gives_its_vectors(tmp_path, tokenizer_model, window):
  """New names of modules, a window that was odd; alone, in rows, packed."""
  theirs, folder = sentence_transformer(tmp_path, tokenizer_model, window)
  found = families.read(folder)
  params = tensors.params(found)
  some = texts()
  want = theirs_of(theirs, some)
  assert np.abs(want @ want.T - np.eye(len(some))).max() < 0.9, "all alike"
  for rows in ([[n] for n in range(8)], [[3, 0, 5, 7, 1, 4, 6, 2]]):
    ours = ours_of(found.config, params, some, rows)
    np.testing.assert_allclose(ours, want, rtol=0, atol=ATOL)
  for n in (0, 7):
    ours = ours_of(found.config, params, some, [[n]])[n]
    alone = theirs_of(theirs, some[n : n + 1])[0]
    np.testing.assert_allclose(ours, alone, rtol=0, atol=ATOL)


def sentences():
  rng = np.random.default_rng(1)
  words = "the red river of the town was seen at 7 o'clock 北 ünï — ok".split()
  found = [" ".join(rng.choice(words, n)) for n in (1, 2, 5, 8, 13, 20, 40)]
  return [*found, "", *samples.WHITE_SPACE]


def test_what_we_exported_gives_our_vectors(exported, model):
  """Texts, prompts and all; longer ones than the model takes are cut alike."""
  theirs = st.SentenceTransformer(str(exported), device="cpu")
  ours = eg.load(model)
  assert theirs.prompts == ours.prompts
  some = sentences()
  for name in ("query", "document", "STS"):
    want = theirs.encode(some, prompt_name=name)
    np.testing.assert_allclose(ours.encode(some, name), want, atol=ATOL)
  np.testing.assert_allclose(
    ours.encode_query(some[2]), theirs.encode_query(some[2]), atol=ATOL
  )


def test_what_it_saves_of_our_export_is_our_model(exported, model, tmp_path):
  """Out, through its own save, and in again: no bit of the weights differs."""
  theirs = st.SentenceTransformer(str(exported), device="cpu")
  theirs.save(str(tmp_path / "theirs"))
  saved = json.loads((tmp_path / "theirs" / "config.json").read_text())
  assert saved["sliding_window"] == WINDOW
  assert not (tmp_path / "theirs" / "tokenizer.model").exists()
  back, ours = eg.load(tmp_path / "theirs"), eg.load(model)
  assert back.hash == ours.hash
  assert back.tokenizer.identity == ours.tokenizer.identity
  assert (back.prompts, back.config) == (ours.prompts, ours.config)
  # With tokenizer.model laid beside, its bytes come back too.
  shutil.copy(exported / "tokenizer.model", tmp_path / "theirs")
  beside = eg.load(tmp_path / "theirs")
  assert beside.tokenizer.model == ours.tokenizer.model
  checks = doctor.examine(tmp_path / "theirs", Console(quiet=True))
  assert doctor.passed(checks)


@pytest.mark.parametrize("beside", [True, False])
def test_tokens_that_were_added_are_read(exported, tmp_path, recwarn, beside):
  """add_tokens, resize, save: its vectors, and the other file is named."""
  theirs = st.SentenceTransformer(str(exported), device="cpu")
  theirs.tokenizer.add_tokens(["[ENT]", "[REL]"])
  theirs[0].auto_model.resize_token_embeddings(len(theirs.tokenizer))
  theirs.save(str(tmp_path / "theirs"))
  if beside:
    shutil.copy(exported / "tokenizer.model", tmp_path / "theirs")
  ours = eg.load(tmp_path / "theirs")
  said = " ".join(str(warning.message) for warning in recwarn)
  assert ("it lacks '[ENT]', '[REL]'" in said) == beside
  some = ["[ENT]red[REL] river", "the [ENT] town", " [REL]", *sentences()]
  np.testing.assert_allclose(ours.encode(some), theirs.encode(some), atol=ATOL)


def test_bfloat16_is_rounded_once(model, config, tmp_path):
  """The export in bfloat16 is read by both, and both see the same numbers."""
  folder = tmp_path / "half"
  exporting.export(FORMAT, str(model), folder, "bfloat16")
  theirs = st.SentenceTransformer(
    str(folder), device="cpu", model_kwargs={"dtype": "float32"}
  )
  ours, whole = eg.load(folder), eg.load(model)
  some = sentences()
  theirs[2].float(), theirs[3].float()
  want = theirs.encode(some)
  np.testing.assert_allclose(ours.encode(some), want, atol=ATOL)
  assert np.abs(ours.encode(some) - whole.encode(some)).max() > 1e-4
  assert ours.config == config
